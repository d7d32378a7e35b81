"""SciML's own solver and adjoint against the package's compiled steps, on the problems of five reports.

Each problem is compared at five parameter vectors: those that its field draws from the seeds 0 to 4, or five sets of rates.
"""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.julia_engine import session

pytestmark = pytest.mark.usefixtures("julia")

TOLERANCE = 1e-8
START = torch.tensor([2.0, 0.0], dtype=torch.float64)


def covid(seed, **settings):
    field = pn.MLP((4, 100, 50, 4), "swish")
    model = pn.AugmentedNeuralODE(field, augment_dim=3, seed=seed, **settings)
    return trajectory_loss(model, torch.tensor([0.3], dtype=torch.float64), np.linspace(0, 3, 40))


def seir(seed, **settings):
    model = pn.NeuralODE(pn.SEIR(gamma=0.17 + 0.01 * seed, R0=5.7 - 0.3 * seed, sigma=0.17), **settings)
    start = torch.tensor([1 - 5e-3, 4e-3, 1e-3, 0.0], dtype=torch.float64)
    return trajectory_loss(model, start, np.linspace(0, 60, 31))


def spiral(seed, **settings):
    field = pn.MLP((2, 50, 2), "tanh", input_map="cube", init="normal", init_scale=0.1)
    return trajectory_loss(pn.NeuralODE(field, seed=seed, **settings), START, np.linspace(0, 1.5, 30))


def cubic(seed, **settings):
    field = pn.MLP((2, 16, 2), "tanh", input_map="cube", input_scale=8.0)
    return trajectory_loss(pn.NeuralODE(field, solver="Vern7", seed=seed, **settings), START, np.linspace(0, 5, 60))


def flag(seed, **settings):
    flow = pn.ContinuousFlow(pn.HyperMLP(2, 32, 16), times=(0.0, 1.0), seed=seed, dtype=torch.float64, **settings)
    points = torch.from_numpy(np.random.default_rng(seed).normal(size=(64, 2)))
    return flow, -flow.log_prob(points).mean()


def trajectory_loss(model, y0, ts):
    return model, (model(y0, ts) - torch.cos(torch.from_numpy(ts))[:, None]).square().mean()


@pytest.mark.parametrize("problem", [covid, seir, spiral, cubic, flag])
@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_are_the_same_on_both_paths(problem, seed):
    found = {}
    for path, gradient in (("fast", "Backprop"), ("sciml", "InterpolatingAdjoint")):
        engine = pn.Julia(path=path)
        model, loss = problem(seed, engine=engine, gradient=gradient, rtol=TOLERANCE, atol=TOLERANCE)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found[path] = float(loss.detach()), torch.cat([value.reshape(-1) for value in gradients])
    (fast_loss, fast), (sciml_loss, sciml) = found["fast"], found["sciml"]
    assert fast_loss == pytest.approx(sciml_loss, rel=100 * TOLERANCE)
    torch.testing.assert_close(fast, sciml, rtol=0, atol=1000 * TOLERANCE * max(1.0, float(sciml.abs().max())))


@pytest.mark.parametrize("optimizer", [pn.Adam(0.05), pn.LBFGS()], ids=["Adam", "LBFGS"])
def test_a_fit_over_growing_spans_takes_the_same_steps_on_both_paths(optimizer, monkeypatch):
    calls = []
    monkeypatch.setattr(session, "call", lambda name, *rest, call=session.call: calls.append(name) or call(name, *rest))
    ts = np.linspace(0, 2, 21)
    data = np.stack([np.cos(2 * ts), -2 * np.sin(2 * ts)], axis=1)
    histories = []
    for path, gradient in (("fast", "Backprop"), ("sciml", "InterpolatingAdjoint")):
        field = pn.MLP((2, 8, 2), init="normal", init_scale=0.3)
        settings = {"engine": pn.Julia(path=path), "gradient": gradient, "rtol": 1e-9, "atol": 1e-9}
        result = pn.fit(
            pn.NeuralODE(field, **settings), ts, data, y0=data[0], plan=pn.GrowingSpan([1.0, 2.0], optimizer, 8)
        )
        histories.append(np.concatenate([stage.losses for stage in result.stages]))
    assert calls.count("fit") == 2 and set(calls) == {"fit"}  # each fit ran whole in Julia
    assert len(histories[0]) == len(histories[1]) > 10
    np.testing.assert_allclose(*histories, rtol=1e-4)
