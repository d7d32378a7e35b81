import math

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from pyneuralode.errors import ArgumentError
from pyneuralode.fitting import Adam
from pyneuralode.flows.planar import PlanarFlow


@pytest.fixture
def flow():
    """A planar flow whose layers would not be invertible without the correction of u."""
    flow = PlanarFlow(2, 6, seed=1, dtype=torch.float64)
    with torch.no_grad():
        flow.w.mul_(3)
        flow.u.copy_(-2 * flow.w + torch.randn(6, 2, generator=torch.Generator().manual_seed(2)))
        flow.b.copy_(torch.linspace(-1, 1, 6))
    return flow


@pytest.fixture
def z():
    return torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_determinant_is_that_of_the_jacobian(flow, z):
    _, logs = flow.push(z)
    jacobians = vmap(jacrev(lambda point: flow.push(point[None])[0][0]))(z)
    signs, truth = torch.linalg.slogdet(jacobians)
    assert (signs == 1).all()
    torch.testing.assert_close(logs, truth, rtol=1e-9, atol=1e-9)


def test_every_layer_is_invertible(flow, z):
    assert ((flow.w * flow.u).sum(-1) < -1).any() and ((flow.w * flow.corrected()).sum(-1) > -1).all()
    torch.testing.assert_close(flow.inverse(flow.transform(z)), z, rtol=0, atol=1e-8)


def test_both_ways_to_the_log_density_agree_and_it_integrates_to_one(flow):
    x, logs = flow.sample_and_log_prob(100, seed=3)
    torch.testing.assert_close(flow.log_prob(x), logs, rtol=1e-6, atol=1e-6)
    assert torch.equal(flow.sample(100, seed=3), x.detach())
    mild = PlanarFlow(2, 4, seed=0, dtype=torch.float64)
    axis = torch.linspace(-9, 9, 400, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    assert mild.log_prob(grid).exp().sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-6)


def test_reverse_divergence_to_a_normal_goes_to_zero():
    """log_density is not normalized, so the loss converges to minus the logarithm of its integral."""
    deviation = 0.5
    flow = PlanarFlow(1, 4, seed=0)

    def log_density(x):
        return -0.5 * ((x[:, 0] - 1) / deviation) ** 2

    found = flow.fit(log_density=log_density, updates=600, batch=256, optimizer=Adam(0.02, schedule="cosine"))
    constant = math.log(math.sqrt(2 * math.pi) * deviation)
    assert found.losses[0] + constant > 0.5
    assert -0.01 < found.losses[-50:].mean() + constant < 0.03
    x = flow.sample(20_000, seed=9).numpy()
    np.testing.assert_allclose([x.mean(), x.std()], [1, deviation], atol=0.06)


def test_a_fit_repeats_and_resumes(tmp_path):
    def fit(**more):
        flow = PlanarFlow(2, 3, seed=5)
        result = flow.fit(log_density=lambda x: -x.square().sum(-1), batch=32, optimizer=Adam(0.01), **more)
        return result, flow.w.detach()

    whole, w = fit(updates=20)
    again, w_again = fit(updates=20)
    assert np.array_equal(whole.losses, again.losses) and torch.equal(w, w_again)
    fit(updates=8, checkpoint=tmp_path / "fit", checkpoint_every=4)
    resumed, w_resumed = fit(updates=20, checkpoint=tmp_path / "fit", resume=True)
    assert np.array_equal(whole.losses, resumed.losses) and torch.equal(w, w_resumed)


def test_mistakes_are_one_sentence():
    with pytest.raises(ArgumentError, match="depth is 0"):
        PlanarFlow(2, 0)
    with pytest.raises(ArgumentError, match="dtype is torch.int64"):
        PlanarFlow(2, 1, dtype=torch.int64)
    with pytest.raises(ArgumentError, match=r"z has shape \(5, 3\)"):
        PlanarFlow(2, 2).transform(torch.zeros(5, 3))
    with pytest.raises(ArgumentError, match="n is 0"):
        PlanarFlow(2, 2).sample(0)
