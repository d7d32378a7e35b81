"""Flows on the Julia engine against the torch engine: slopes, trajectories, densities, penalties and gradients."""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.registry import choose
from pyneuralode.fitting import Adam
from pyneuralode.problem import PathIntegrals
from pyneuralode.tableaus import TABLEAUS

pytestmark = pytest.mark.usefixtures("julia")

FIELDS = {
    "HyperMLP": pn.HyperMLP(2, 12, 5, time_scale=2.0, output_scale=3.0, init="torch"),
    "ConcatMLP": pn.ConcatMLP((2, 9, 7, 2), "gelu", time_scale=2.0, output_scale=0.7, init_bias=0.3),
    "ConcatMLP of one hidden layer": pn.ConcatMLP((2, 16, 2), "softplus", init_bias=0.3),
    "GatedMLP": pn.GatedMLP((2, 9, 2), "swish", time_scale=0.5, init_bias=0.3),
    "MLP": pn.MLP((2, 11, 2), "tanh", input_scale=2.0, output_scale=0.7, init_bias=0.3),
    "ConcatConv": pn.ConcatConv(1, 2, 3, hidden=(3,), time_scale=2.0),
}
TIGHT = {"dtype": torch.float64, "rtol": 1e-10, "atol": 1e-10, "times": (0.2, 1.4), "seed": 3}

every_field = pytest.mark.parametrize("name", FIELDS)
every_trace = pytest.mark.parametrize("trace", ["exact", "hutchinson"])


def flows(name, **settings):
    """Return the same flow on both engines, torch first."""
    return [pn.ContinuousFlow(FIELDS[name], **{**TIGHT, "engine": engine, **settings}) for engine in ("torch", "julia")]


def points(name, n=7, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, FIELDS[name].dim)))


def gradients(flow, loss, *inputs):
    """Return the gradient of a loss with respect to the inputs and all parameters, as one vector."""
    found = torch.autograd.grad(loss, [*inputs, *flow.parameters()])
    return torch.cat([part.reshape(-1) for part in found])


def close(found, truth, rtol=1e-6):
    return float((found - truth).norm() / truth.norm()) < rtol


@every_field
def test_slopes_agree(name):
    """Compare the slopes of both engines through a single Euler step."""
    z = points(name)
    ours, theirs = (flow.transform(z) for flow in flows(name, solver="Euler", step_size=2.0))
    torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ["Tsit5", "DP8"])
def test_a_round_trip_is_exact_for_the_worst_sample_too(solver):
    """The sample that needs the smallest steps determines the step sizes, which are the same on both engines."""
    z = torch.cat([8 * points("HyperMLP", n=1), torch.zeros(1000, 2, dtype=torch.float64)])
    ours, theirs = flows("HyperMLP", solver=solver, rtol=1e-5, atol=1e-5)
    for flow in (ours, theirs):
        assert (flow.inverse(flow.transform(z)) - z).abs().max() < 1e-4
    torch.testing.assert_close(theirs.transform(z), ours.transform(z), rtol=0, atol=1e-10)


@every_field
def test_trajectories_agree(name):
    z, times = points(name), [0.2, 0.9, 0.5, 1.4]
    ours, theirs = (flow.transform(z, times) for flow in flows(name))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-8)
    ours, theirs = (flow.inverse(z, times) for flow in flows(name))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-8)
    ours, theirs = (flow.sample(5, seed=2) for flow in flows(name))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-8)


@every_field
@every_trace
@pytest.mark.parametrize("times", [(0.2, 1.4), (1.4, 0.2)])
def test_densities_penalties_and_gradients_agree(name, trace, times):
    found = []
    for flow in flows(name, trace=trace, times=times):
        x = points(name).requires_grad_()
        terms = flow.terms(x, seed=5)
        assert terms.evaluations > 6 and bool((terms.kinetic > 0).all())
        weights = torch.linspace(0.5, 1.5, len(x))
        loss = (weights * (terms.log_prob + 0.3 * terms.kinetic + 0.2 * terms.jacobian)).sum()
        found.append((terms, flow.log_prob(x, seed=5), gradients(flow, loss, x)))
    (ours, our_log_prob, our_gradient), (theirs, their_log_prob, their_gradient) = found
    for quantity in ("log_prob", "kinetic", "jacobian"):
        torch.testing.assert_close(getattr(theirs, quantity), getattr(ours, quantity), rtol=0, atol=1e-7)
    torch.testing.assert_close(their_log_prob, our_log_prob, rtol=0, atol=1e-7)
    assert close(their_gradient, our_gradient)


@every_field
def test_gradients_through_samples_agree(name):
    found = []
    for flow in flows(name, trace="hutchinson"):
        x, log_prob = flow.sample_and_log_prob(6, seed=4)
        found.append(gradients(flow, (log_prob + x.square().sum(-1)).mean()))
    assert close(found[1], found[0])
    found = [gradients(flow, flow.distribution().flow.transform(points(name)).square().sum()) for flow in flows(name)]
    assert close(found[1], found[0])


@pytest.mark.parametrize(
    "gradient",
    [
        "Backprop",
        pn.Checkpointed(every=3),
        "InterpolatingAdjoint",
        "GaussAdjoint",
        "QuadratureAdjoint",
        "BacksolveAdjoint",
    ],
)
def test_every_gradient_of_julia(gradient):
    truth, _ = (gradients(flow, flow.log_prob(points("HyperMLP")).sum()) for flow in flows("HyperMLP"))
    _, flow = flows("HyperMLP", gradient=gradient)
    assert close(gradients(flow, flow.log_prob(points("HyperMLP")).sum()), truth)


@pytest.mark.parametrize("solver", ["RK4", "Tsit5", "Vern7"])
def test_fixed_steps_agree_to_rounding(solver):
    ours, theirs = flows("ConcatMLP", solver=solver, step_size=0.4)
    x = points("ConcatMLP")
    torch.testing.assert_close(theirs.log_prob(x), ours.log_prob(x), rtol=1e-11, atol=1e-11)
    assert close(gradients(theirs, theirs.log_prob(x).sum()), gradients(ours, ours.log_prob(x).sum()), 1e-11)


def test_solves_do_not_disturb_each_other():
    ours, theirs = flows("MLP")
    batches = [points("MLP", n, seed=n) for n in (7, 7, 3)]
    together = [theirs.log_prob(x).sum() for x in batches]  # three forward solves before the first backward pass
    for x, loss in zip(batches, together):
        assert close(gradients(theirs, loss), gradients(ours, ours.log_prob(x).sum()))
    first = theirs.log_prob(batches[0])
    kept = first.detach().clone()
    for x in batches:
        theirs.log_prob(x).sum().backward()
    assert torch.equal(first.detach(), kept)


@pytest.mark.parametrize("kinetic", [0.0, 0.1])
def test_fits_agree(kinetic):
    found = []
    for flow in flows("HyperMLP", dtype=torch.float32, rtol=1e-5, atol=1e-5):
        result = flow.fit(
            sampler=lambda n, rng: 0.5 + 0.3 * rng.normal(size=(n, 2)),
            updates=30,
            batch=64,
            optimizer=Adam(1e-2),
            kinetic=kinetic,
        )
        found.append(result.losses)
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=2e-3)
    assert found[1][-5:].mean() < found[1][:5].mean() - 0.2


def test_added_components():
    ours, theirs = flows("MLP", augment_dim=1)
    x = points("MLP")[:, :1]
    torch.testing.assert_close(theirs.log_prob(x, seed=3), ours.log_prob(x, seed=3), rtol=0, atol=1e-7)


def test_what_julia_does_not_take():
    with pytest.raises(pn.ArgumentError, match="engine='torch'"):
        pn.ContinuousFlow(lambda t, z: -z, dim=2, engine="julia").log_prob(torch.zeros(3, 2))
    with pytest.raises(pn.ArgumentError, match="custom tableau"):
        pn.ContinuousFlow(FIELDS["MLP"], engine="julia", solver=TABLEAUS["Tsit5"]).log_prob(torch.zeros(3, 2))
    with pytest.raises(pn.ArgumentError, match="InterpolatingAdjoint"):
        pn.ContinuousFlow(FIELDS["MLP"], engine="julia", solver="Vern9").log_prob(torch.zeros(3, 2))
    with pytest.raises(pn.ArgumentError, match="ForwardMode"):
        pn.ContinuousFlow(FIELDS["MLP"], engine="julia", gradient="ForwardMode").log_prob(torch.zeros(3, 2))
    with pytest.raises(pn.SolverError, match="max_steps"):
        pn.ContinuousFlow(FIELDS["MLP"], engine="julia", max_steps=2, rtol=1e-9, atol=1e-9).log_prob(torch.zeros(3, 2))


def engine_of(flow):
    state = torch.zeros(1, flow.dim)
    settings = flow.settings()._replace(integrals=PathIntegrals(flow.trace == "hutchinson"))
    return choose(settings.problem(flow.tensors(), state, np.array([1.0, 0.0])), "auto").name


def test_which_engine_is_automatic(monkeypatch):
    monkeypatch.delenv("PYNEURALODE_ENGINE")
    assert engine_of(pn.ContinuousFlow(FIELDS["HyperMLP"])) == "julia"
    assert engine_of(pn.ContinuousFlow(FIELDS["ConcatConv"], trace="hutchinson")) == "torch"
    assert engine_of(pn.ContinuousFlow(lambda t, z: -z, dim=2)) == "torch"
    assert engine_of(pn.ContinuousFlow(FIELDS["HyperMLP"], solver="RK38")) == "torch"
