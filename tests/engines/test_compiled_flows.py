"""Compiled flows against the generic path, which tests/flows compares with closed forms."""

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import pyneuralode as pn
from pyneuralode.engines.torch_engine.compiled.flows import function
from pyneuralode.engines.torch_engine.compiled.flows.plan import SUPPORTED_ACTIVATIONS, flow_plan

pytest.importorskip("numba")


def both(field, n=37, dtype=torch.float64, **settings):
    """Return (log densities, gradients by name) from the compiled path and from the generic path."""
    settings = {"times": (0.0, 1.3), "rtol": 1e-6, "atol": 1e-6, **settings}
    points = torch.as_tensor(np.random.default_rng(1).normal(size=(n, field.dim))).to(dtype)
    found = []
    for compiled in (True, False):
        flow = pn.ContinuousFlow(field, engine="torch", compiled=compiled, dtype=dtype, seed=3, **settings)
        x = points.clone().requires_grad_()
        log_prob = flow.log_prob(x)
        (log_prob * torch.linspace(0.5, 2, n, dtype=dtype)).sum().backward()
        found.append((log_prob.detach(), {"x": x.grad, **{k: p.grad for k, p in flow.named_parameters()}}))
    return found


def assert_same(found, tolerance):
    (ours, gradients), (theirs, expected) = found
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max())
        assert scale > 0
        assert float((gradients[name] - value).abs().max()) <= tolerance * scale, name


FIELDS = {
    "hypernetwork": pn.HyperMLP(2, 20, 7, time_scale=0.7, output_scale=5.0),
    "hypernetwork, 5 dimensions": pn.HyperMLP(5, 9, 11, output_scale=3.0),
    "one dimension": pn.HyperMLP(1, 4, 30, output_scale=3.0),
    "no time": pn.MLP((2, 33, 2), input_scale=1.7, output_scale=0.6),
    "concat": pn.ConcatMLP((3, 8, 3), time_scale=2.0, output_scale=1.4),
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_kind_of_field(name):
    assert_same(both(FIELDS[name]), 1e-10)


@pytest.mark.parametrize("activation", SUPPORTED_ACTIVATIONS)
def test_every_activation(activation):
    assert_same(both(pn.ConcatMLP((2, 12, 2), activation), rtol=1e-4, atol=1e-4), 1e-9)


@pytest.mark.parametrize("settings", [
    {"solver": "BS3"}, {"solver": "Vern7"}, {"solver": "DP8"}, {"solver": "RK4", "step_size": 0.1}, {"solver": "Euler", "step_size": 0.2},
    {"solver": "DP5", "times": (2.0, -1.0)}, {"first_step": 0.01, "max_step": 0.05}, {"gradient": "Checkpointed"},
], ids=str)  # fmt: skip
def test_every_kind_of_solve(settings):
    assert_same(both(FIELDS["hypernetwork"], **settings), 1e-10)


@pytest.mark.parametrize("n", [1, 8, 64, 65, 200])
def test_any_number_of_samples(n):
    assert_same(both(FIELDS["concat"], n=n), 1e-10)


def test_float32():
    # Fixed steps, because adaptive steps depend on rounding.
    assert_same(both(FIELDS["hypernetwork"], n=100, dtype=torch.float32, solver="RK4", step_size=0.1), 1e-4)


def test_gradient_against_finite_differences():
    field = pn.HyperMLP(2, 6, 5, output_scale=4.0)
    flow = pn.ContinuousFlow(field, engine="torch", dtype=torch.float64, rtol=1e-10, atol=1e-10)
    x = torch.as_tensor(np.random.default_rng(0).normal(size=(5, 2)))
    flow.log_prob(x).sum().backward()
    for name, parameter in flow.named_parameters():
        direction = torch.sign(parameter.grad)
        slope = float((parameter.grad * direction).sum())
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
                ends.append(float(flow.log_prob(x).sum()))
                parameter -= sign * 1e-5 * direction
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-6), name


def test_a_long_solve_outgrows_the_first_memory():
    found = both(FIELDS["concat"], solver="Euler", step_size=0.005)
    assert_same(found, 1e-9)


def test_it_is_what_runs(monkeypatch):
    calls = []
    march = function.Call.march
    monkeypatch.setattr(function.Call, "march", lambda self, *a, **k: calls.append(1) or march(self, *a, **k))
    flow = pn.ContinuousFlow(FIELDS["hypernetwork"], engine="torch")
    flow.fit(sampler=lambda n, rng: rng.normal(size=(n, 2)), updates=2, batch=16)
    assert len(calls) == 2
    flow.terms(torch.zeros(3, 2))  # only the generic path supports penalties
    assert len(calls) == 2


def test_what_no_kernel_knows():
    assert flow_plan(pn.MLP((2, 8, 8, 2))) is None
    assert flow_plan(pn.MLP((2, 8, 2), "gelu")) is None
    assert flow_plan(pn.MLP((2, 8, 2), input_map="cube")) is None


def test_failures_name_their_cause():
    flow = pn.ContinuousFlow(
        FIELDS["hypernetwork"], engine="torch", dtype=torch.float64, max_steps=2, rtol=1e-9, atol=1e-9
    )
    with pytest.raises(pn.SolverError, match="max_steps = 2"):
        flow.log_prob(torch.zeros(3, 2))
    flow = pn.ContinuousFlow(FIELDS["hypernetwork"], engine="torch", rtol=1e-9, atol=1e-9)
    with pytest.raises(pn.ArgumentError, match="tighter than float32 can resolve"):
        flow.log_prob(torch.zeros(3, 2))


def test_a_second_derivative_is_refused():
    flow = pn.ContinuousFlow(FIELDS["hypernetwork"], engine="torch")
    x = torch.zeros(3, 2, requires_grad=True)
    with pytest.raises(pn.ArgumentError, match="create_graph"):
        torch.autograd.grad(flow.log_prob(x).sum(), x, create_graph=True)


def test_parameters_changed_before_the_backward_pass_are_noticed():
    flow = pn.ContinuousFlow(FIELDS["hypernetwork"], engine="torch")
    loss = flow.log_prob(torch.zeros(3, 2)).sum()
    with torch.no_grad():
        next(flow.parameters()).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_samples_are_answered():
    flow = pn.ContinuousFlow(FIELDS["hypernetwork"], engine="torch")
    with pytest.raises(pn.ArgumentError, match="is empty"):
        flow.log_prob(torch.zeros(0, 2))


def test_forward_mode_is_not_lost_without_a_word():
    state = torch.tensor([[0.3, -0.4]], dtype=torch.float64)

    def tangent(compiled):
        flow = pn.ContinuousFlow(FIELDS["hypernetwork"], engine="torch", dtype=torch.float64, compiled=compiled, seed=0)
        with forward_ad.dual_level(), torch.no_grad():
            return forward_ad.unpack_dual(
                flow.log_prob(forward_ad.make_dual(state, torch.ones_like(state)))
            ).tangent, flow

    with pytest.raises(pn.ArgumentError, match="forward mode"):
        tangent(compiled=True)
    found, flow = tangent(compiled=False)
    with torch.no_grad():
        ahead, behind = flow.log_prob(state + 1e-5), flow.log_prob(state - 1e-5)
    assert torch.allclose(found, (ahead - behind) / 2e-5, rtol=1e-4)
