"""Continuous flows against closed forms of linear fields, quadrature, finite differences and their own inverse."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

import pyneuralode as pn
import pyneuralode.flows.continuous
from pyneuralode.fields import ConcatConv
from pyneuralode.flows import FlowTerms
from pyneuralode.flows.dynamics import solve_integrals

A = np.array([[0.4, -1.3], [0.6, -0.1]])
T = 1.5
TIGHT = {"engine": "torch", "dtype": torch.float64, "rtol": 1e-10, "atol": 1e-10}


def linear(matrix=A, **settings):
    return pn.ContinuousFlow(pn.Linear(tuple(map(tuple, matrix))), **{"times": (0.0, T), **TIGHT, **settings})


def hyper(width=16, hidden=8, strength=20.0, **settings):
    field = pn.HyperMLP(2, width, hidden, output_scale=strength, init="torch")
    return pn.ContinuousFlow(field, **{"engine": "torch", **settings})


def normal_points(n, d=2, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, d)))


def exponential(matrix, t):
    return torch.linalg.matrix_exp(torch.tensor(matrix) * t)


# Closed forms for linear fields


@pytest.mark.parametrize("times", [(0.0, T), (T, 0.0), (-1.0, T - 1.0)])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_linear_flow_pushes_the_gaussian_forward(times, trace):
    if trace == "hutchinson":
        matrix = np.diag([0.4, -0.7])  # e^T A e equals the trace of A for every Rademacher vector e
    else:
        matrix = A
    flow = linear(matrix, times=times, trace=trace)
    push = exponential(matrix, times[1] - times[0])
    truth = MultivariateNormal(torch.zeros(2, dtype=torch.float64), push @ push.T)
    x = normal_points(6).reshape(2, 3, 2)
    torch.testing.assert_close(flow.log_prob(x), truth.log_prob(x), rtol=0, atol=1e-7)
    z = normal_points(5)
    torch.testing.assert_close(flow.transform(z), z @ push.T, rtol=0, atol=1e-7)
    x, log_prob = flow.sample_and_log_prob(7, seed=2)
    torch.testing.assert_close(log_prob, truth.log_prob(x), rtol=0, atol=1e-7)
    torch.testing.assert_close(x, flow.sample(7, seed=2))


@pytest.mark.parametrize("times", [(0.0, T), (T, 0.0)])
def test_penalties_of_a_linear_field_have_their_closed_forms(times):
    a, b = 0.3, 1.7  # |Az|^2 = (a^2 + b^2) |z|^2, and |z| grows as e^(a t)
    flow = linear([[a, -b], [b, a]], times=times)
    z = normal_points(4)
    terms = flow.terms(flow.transform(z))
    duration = times[1] - times[0]
    kinetic = (a * a + b * b) * z.square().sum(1) * abs(math.expm1(2 * a * duration)) / (2 * a)
    torch.testing.assert_close(terms.kinetic, kinetic, rtol=1e-7, atol=0)
    torch.testing.assert_close(
        terms.jacobian, torch.full((4,), 2 * (a * a + b * b) * T, dtype=torch.float64), rtol=1e-8, atol=0
    )
    estimated = linear([[a, -b], [b, a]], times=times, trace="hutchinson").terms(flow.transform(z))
    torch.testing.assert_close(estimated.kinetic, kinetic, rtol=1e-7, atol=0)
    torch.testing.assert_close(estimated.jacobian, terms.jacobian, rtol=1e-8, atol=0)  # A^T A is (a^2 + b^2) times I


def test_the_average_over_all_rademacher_vectors_is_exact():
    flow = hyper(trace="hutchinson", dtype=torch.float64)
    x, span = normal_points(5), (1.0, 0.0)
    exact = solve_integrals(flow, x, span, None, jacobian=True)
    found = [
        solve_integrals(flow, x, span, torch.tensor([s, t]).double().expand(5, 2), jacobian=True)
        for s in (-1, 1)
        for t in (-1, 1)
    ]
    average = torch.stack([f.integrals.trace for f in found]).mean(0)
    torch.testing.assert_close(average, exact.integrals.trace, rtol=0, atol=1e-5)
    assert torch.stack([f.integrals.trace for f in found]).std(0).min() > 1e-3
    squares = torch.stack([f.integrals.jacobian for f in found]).mean(0)
    torch.testing.assert_close(squares, exact.integrals.jacobian, rtol=1e-4, atol=0)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_noise_is_drawn_once_a_solve_and_anew_for_every_update(monkeypatch, noise):
    drawn = []
    draw = pyneuralode.flows.continuous.draw_noise

    def spy(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(pyneuralode.flows.continuous, "draw_noise", spy)
    flow = linear(trace="hutchinson", noise=noise)
    x = normal_points(50)
    found = flow.log_prob(x, seed=4)
    assert len(drawn) == 1
    # For a linear field, the time integral of e^T A e is T e^T A e only if e is constant during the solve.
    e = torch.tensor(drawn[0])
    expected = flow.base.log_prob(flow.inverse(x)) - T * torch.einsum("ni,ij,nj->n", e, torch.tensor(A), e)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    flow.fit(x, updates=3, batch=50)
    assert len(drawn) == 4
    assert len({array.tobytes() for array in drawn}) == 4


def test_gaussian_noise_is_unbiased():
    flow = linear(trace="hutchinson", noise="gaussian")
    x = torch.zeros(20_000, 2)
    mean = flow.log_prob(x).mean()
    truth = -math.log(2 * math.pi) - T * np.trace(A)
    assert mean.item() == pytest.approx(truth, abs=4 * T * math.sqrt(2 * np.sum(((A + A.T) / 2) ** 2) / 20_000))


# Densities


def test_probability_is_one_and_the_way_back_is_the_way_forth():
    flow = hyper(times=(0.0, 1.0))
    side = np.linspace(-8, 8, 121)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    with torch.no_grad():
        log_prob = flow.log_prob(grid)
        assert log_prob.shape == (121, 121)
        total = log_prob.double().exp().sum().item() * (side[1] - side[0]) ** 2
        plain = flow.base.log_prob(torch.tensor(grid, dtype=torch.float32))
        assert (log_prob.exp() - plain.exp()).abs().max() > 0.03  # the flow is not the identity
        z = normal_points(500)
        assert total == pytest.approx(1, abs=1e-3)
        assert (flow.inverse(flow.transform(z)) - z).abs().max() < 1e-3


def test_states_between_base_and_data():
    flow = linear(times=(2.0, 0.5))
    z = normal_points(3)
    times = [1.0, 2.0, 0.5, 1.7]
    expected = torch.stack([z @ exponential(A, t - 2.0).T for t in times])
    torch.testing.assert_close(flow.transform(z, times), expected, rtol=0, atol=1e-7)
    x = flow.transform(z)
    torch.testing.assert_close(flow.inverse(x, times), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(flow.transform(z, [2.0]), z[None].detach())
    torch.testing.assert_close(flow.inverse(x, 1.0), expected[:1], rtol=0, atol=1e-7)
    twice = flow.transform(z, [0.5, 1.0, 0.5])
    assert torch.equal(twice[0], twice[2]) and not torch.equal(twice[0], twice[1])


def test_base_of_ones_own():
    base = Independent(Normal(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 2.0]).double()), 1)
    flow = linear(base=base)
    push = exponential(A, T)
    truth = MultivariateNormal(push @ base.mean, push @ torch.diag(base.variance) @ push.T)
    x = normal_points(5)
    torch.testing.assert_close(flow.log_prob(x), truth.log_prob(x), rtol=0, atol=1e-7)
    samples = flow.sample(4000)
    assert (samples.mean(0) - truth.mean).abs().max() < 5 * truth.variance.max().sqrt() / math.sqrt(4000)


def test_added_components_give_a_lower_bound():
    a, b = 0.5, 0.4
    flow = linear(np.diag([a, a, b]), augment_dim=1)
    x = torch.tensor([[0.7, -1.1]]).double()
    truth = Independent(Normal(torch.zeros(2).double(), math.exp(a * T)), 1).log_prob(x)
    added = Normal(torch.tensor(0.0).double(), math.exp(b * T))
    gap = torch.distributions.kl_divergence(Normal(torch.tensor(0.0).double(), 1.0), added)
    bounds = flow.log_prob(x.expand(20_000, 2), seed=1)
    assert bounds.mean().item() == pytest.approx((truth - gap).item(), abs=5 * bounds.std().item() / math.sqrt(20_000))
    assert bounds.mean() < truth
    assert flow.sample(5).shape == (5, 2)
    assert flow.transform(torch.zeros(4, 3)).shape == (4, 3)
    samples, log_prob = flow.sample_and_log_prob(6)
    assert samples.shape == (6, 2) and log_prob.shape == (6,)


# Fields without a description


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 6)
        self.outer = torch.nn.Linear(6, 2)

    def forward(self, t, z):
        return self.outer(torch.tanh(self.inner(torch.cat([z, t.expand(len(z), 1)], dim=1))))


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("kind", ["module", "callable", "unfused"])
def test_autograd_gives_what_the_closed_forms_give(kind, trace):
    net = Net().double()
    described = pn.ContinuousFlow(pn.ConcatMLP((2, 6, 2)), trace=trace, **TIGHT)
    inner = torch.cat([net.inner.weight, torch.zeros(6, 0)], dim=1)
    outer = torch.cat([net.outer.weight, torch.zeros(2, 1)], dim=1)
    described.set_arrays(
        {
            "weight_1": inner.detach(),
            "bias_1": net.inner.bias.detach(),
            "weight_2": outer.detach(),
            "bias_2": net.outer.bias.detach(),
        }
    )
    if kind == "unfused":
        other = pn.ContinuousFlow(pn.ConcatMLP((2, 6, 2)), trace=trace, compiled=False, **TIGHT)
        other.set_arrays(described.arrays())
        watched = other.weights["weight_1"]
    else:
        other = pn.ContinuousFlow(net if kind == "module" else lambda t, z: net(t, z), dim=2, trace=trace, **TIGHT)
        watched = net.inner.weight
    x = normal_points(6)
    ours, theirs = described.terms(x, seed=3), other.terms(x, seed=3)
    for name in ("log_prob", "kinetic", "jacobian"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-7, atol=1e-8)
    sums = [sum(getattr(t, name).sum() for name in ("log_prob", "kinetic", "jacobian")) for t in (ours, theirs)]
    (expected,) = torch.autograd.grad(sums[0], described.weights["weight_1"])
    (found,) = torch.autograd.grad(sums[1], watched)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_convolutional_flow():
    flow = pn.ContinuousFlow(
        ConcatConv(1, 3, 3, hidden=(4,)), trace="hutchinson", **{**TIGHT, "rtol": 1e-7, "atol": 1e-7}
    )
    exact = pn.ContinuousFlow(ConcatConv(1, 3, 3, hidden=(4,)), trace="exact", **{**TIGHT, "rtol": 1e-7, "atol": 1e-7})
    x = normal_points(1, 9)
    with torch.no_grad():
        estimates = flow.log_prob(x.expand(2000, 9))
        truth = exact.log_prob(x)
    assert estimates.mean().item() == pytest.approx(truth.item(), abs=5 * estimates.std().item() / math.sqrt(2000))
    result = flow.fit(normal_points(30, 9), updates=3, batch=8, kinetic=0.1, jacobian=0.1)
    assert result.finished and np.isfinite(result.objectives).all()


# Gradients


def loss_of(flow, x):
    terms = flow.terms(x, seed=1)
    own, log_prob = flow.sample_and_log_prob(4, seed=2)
    penalties = 0.1 * terms.kinetic.mean() + 0.05 * terms.jacobian.mean()
    return -terms.log_prob.mean() + penalties + (log_prob + own.square().sum(1)).mean()


@pytest.mark.parametrize("gradient", ["Backprop", "Checkpointed", "BacksolveAdjoint"])
@pytest.mark.parametrize(
    ("field", "trace"),
    [
        (pn.HyperMLP(2, 5, 3, init="torch", output_scale=5.0), "exact"),
        (pn.HyperMLP(2, 5, 3, init="torch", output_scale=5.0), "hutchinson"),
        (pn.GatedMLP((2, 4, 3, 4, 2), init="torch"), "exact"),
    ],
)
def test_gradient_of_the_loss_with_penalties(field, trace, gradient):
    flow = pn.ContinuousFlow(field, trace=trace, gradient=gradient, **{**TIGHT, "rtol": 1e-9, "atol": 1e-9})
    x = normal_points(4).requires_grad_()
    variables = [x, *flow.parameters()]
    rng = np.random.default_rng(0)
    direction = [torch.tensor(rng.normal(size=v.shape)) for v in variables]
    gradient = torch.autograd.grad(loss_of(flow, x), variables)
    along = sum((g * d).sum() for g, d in zip(gradient, direction)).item()
    values, h = [], 1e-4
    with torch.no_grad():
        start = [v.detach().clone() for v in variables]
        for sign in (1, -1):
            for v, s, d in zip(variables, start, direction):
                v.copy_(s + sign * h * d)
            values.append(loss_of(flow, x).item())
    assert along == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-4)


# Fits


def shifted(n, rng):
    return rng.normal(size=(n, 2)) * [0.6, 1.5] + [1.0, -0.5]


ENTROPY = math.log(2 * math.pi * math.e) + math.log(0.6 * 1.5)
FAST = {"engine": "torch", "solver": "RK4", "step_size": 0.25}


@pytest.mark.parametrize("source", ["data", "sampler"])
def test_fit_reaches_the_entropy_of_a_shifted_gaussian(source):
    flow = pn.ContinuousFlow(pn.ConcatMLP((2, 16, 2)), **FAST)
    what = {"data": shifted(20_000, np.random.default_rng(1))} if source == "data" else {"sampler": shifted}
    result = flow.fit(**what, updates=250, batch=256, optimizer=pn.Adam(0.03, schedule="cosine"))
    assert result.finished and not result.interrupted and len(result.losses) == 250
    assert (result.evaluations == 16).all() and result.flow is flow and result.seconds > 0
    with torch.no_grad():
        loss = -flow.log_prob(shifted(20_000, np.random.default_rng(2))).mean().item()
    assert loss == pytest.approx(ENTROPY, abs=0.04)


def test_fit_to_a_log_density_by_reverse_divergence():
    truth = Independent(Normal(torch.tensor([1.0, -0.5]), torch.tensor([0.6, 1.5])), 1)
    flow = pn.ContinuousFlow(pn.ConcatMLP((2, 16, 2)), **FAST)
    result = flow.fit(log_density=truth.log_prob, updates=250, batch=256, optimizer=pn.Adam(0.03, schedule="cosine"))
    assert result.losses[0] > 0.5
    assert abs(result.losses[-20:].mean()) < 0.02  # the loss is the divergence, since the density is normalized
    assert (flow.sample(5000).mean(0) - truth.mean).abs().max() < 0.1


def test_penalties_are_added_to_the_objective_and_straighten_the_paths():
    penalized, free = (pn.ContinuousFlow(pn.ConcatMLP((2, 8, 2)), **FAST) for _ in range(2))
    x = shifted(64, np.random.default_rng(0))
    terms = free.terms(x)
    result = penalized.fit(x, updates=150, kinetic=0.5, jacobian=0.25, optimizer=pn.Adam(0.02))
    expected = (-terms.log_prob + 0.5 * terms.kinetic + 0.25 * terms.jacobian).mean().item()
    assert result.objectives[0] == pytest.approx(expected, rel=1e-5)
    assert result.losses[0] == pytest.approx(-terms.log_prob.mean().item(), rel=1e-5)
    free.fit(x, updates=150, optimizer=pn.Adam(0.02))
    assert penalized.terms(x).kinetic.mean() < 0.8 * free.terms(x).kinetic.mean()


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_resumed_fit_ends_as_an_uninterrupted_one(tmp_path, trace):
    settings = {"sampler": shifted, "updates": 12, "batch": 16, "optimizer": pn.Adam(0.05, schedule="cosine")}
    straight = pn.ContinuousFlow(pn.HyperMLP(2, 4, 3), trace=trace, **FAST)
    expected = straight.fit(**settings)

    def stop(update, loss):
        if update == 7:
            raise KeyboardInterrupt

    path = tmp_path / "fit.safetensors"
    broken = pn.ContinuousFlow(pn.HyperMLP(2, 4, 3), trace=trace, **FAST)
    halted = broken.fit(**settings, checkpoint=path, checkpoint_every=5, callback=stop)
    assert halted.interrupted and not halted.finished and "interrupted after 8 updates" in halted.message
    resumed = pn.ContinuousFlow(pn.HyperMLP(2, 4, 3), trace=trace, **FAST)
    result = resumed.fit(**settings, checkpoint=path, resume=True)
    assert result.finished
    np.testing.assert_array_equal(result.losses, expected.losses)
    np.testing.assert_array_equal(result.evaluations, expected.evaluations)
    for name, value in straight.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], value)
    with pytest.raises(pn.ArgumentError, match="batch differs"):
        resumed.fit(**{**settings, "batch": 8}, checkpoint=path, resume=True)


def test_a_fit_that_turns_non_finite_keeps_the_best_parameters():
    flow = pn.ContinuousFlow(pn.HyperMLP(2, 4, 3), **FAST)
    calls = []

    def log_density(x):
        calls.append(flow.arrays())
        return -x.square().sum(1) if len(calls) < 6 else torch.full((len(x),), math.nan)

    result = flow.fit(log_density=log_density, updates=20, batch=32, optimizer=pn.Adam(0.01))
    assert not result.finished and len(result.losses) == 5 and "5 updates" in result.message
    kept = flow.arrays()
    assert any(all(np.array_equal(kept[k], tried[k]) for k in kept) for tried in calls[:5])


def test_seeds_make_everything_repeat():
    flow = hyper(trace="hutchinson")
    x = normal_points(5)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    assert torch.equal(flow.log_prob(x, seed=1), flow.log_prob(x, seed=1))
    assert not torch.equal(flow.log_prob(x, seed=1), flow.log_prob(x, seed=2))
    assert torch.equal(flow.sample(4, seed=1), flow.sample(4, seed=1))
    assert not torch.equal(flow.sample(4, seed=1), flow.sample(4, seed=2))
    assert torch.equal(flow.sample_and_log_prob(4, seed=1)[1], flow.sample_and_log_prob(4, seed=1)[1])
    assert torch.equal(torch.random.get_rng_state(), before)
    losses = [hyper(seed=5).fit(sampler=shifted, updates=3, batch=8, seed=s).losses for s in (0, 0, 1)]
    assert np.array_equal(losses[0], losses[1]) and not np.array_equal(losses[0], losses[2])


def test_running_mean_of_the_losses():
    result = hyper(**FAST).fit(sampler=shifted, updates=3, batch=8)
    a, b, c = result.losses
    np.testing.assert_allclose(result.running(0.9), [a, 0.9 * a + 0.1 * b, 0.81 * a + 0.09 * b + 0.1 * c])


# torch.distributions, files


def test_it_is_a_torch_distribution():
    flow = hyper()
    q = flow.distribution()
    assert isinstance(q, torch.distributions.Distribution)
    assert q.event_shape == (2,) and q.batch_shape == () and q.has_rsample
    torch.manual_seed(0)
    x = q.sample((3, 4))
    assert x.shape == (3, 4, 2) and not x.requires_grad
    torch.manual_seed(0)
    assert torch.equal(q.sample((3, 4)), x)
    assert q.sample().shape == (2,)
    assert q.log_prob(x).shape == (3, 4) and q.log_prob(x[0, 0]).shape == ()
    torch.testing.assert_close(q.log_prob(x)[1, 2], q.log_prob(x[1, 2]), rtol=0, atol=1e-3)
    assert q.support.check(x).all()
    (q.rsample((5,)).sum()).backward()
    assert flow.weights["weight_3"].grad.abs().max() > 0


def test_saved_flows_come_back(tmp_path):
    x = normal_points(4)
    flow = hyper(times=(10.0, 0.0), trace="hutchinson", noise="gaussian", solver="DP5", gradient="Checkpointed")
    flow.save(tmp_path / "flow.safetensors")
    back = pn.load(tmp_path / "flow.safetensors")
    assert torch.equal(back.log_prob(x, seed=1), flow.log_prob(x, seed=1))
    assert (back.times, back.solver, back.control) == (flow.times, flow.solver, flow.control)
    base = Independent(Normal(torch.ones(2).double(), 1.0), 1)
    linear(base=base).save(tmp_path / "own.safetensors")
    with pytest.raises(pn.ArgumentError, match="use load.path, base="):
        pn.load(tmp_path / "own.safetensors")
    assert torch.equal(pn.load(tmp_path / "own.safetensors", base=base).log_prob(x), linear(base=base).log_prob(x))
    added = linear(np.diag([1.0, 2.0, 3.0]), augment_dim=1)
    added.save(tmp_path / "added.safetensors")
    assert pn.load(tmp_path / "added.safetensors").augment_dim == 1


def test_a_base_of_a_model_without_one_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    pn.NeuralODE(pn.MLP((2, 3, 2))).save(path)
    with pytest.raises(
        pn.ArgumentError, match="contains a model of kind 'NeuralODE', which has no base: leave base out"
    ):
        pn.load(path, base=Independent(Normal(torch.ones(2).double(), 1.0), 1))


# Mistakes


NAN = np.array([[0.0, 1.0], [np.nan, 2.0], [0.0, 0.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda f: f.fit(NAN), "data contains a non-finite number in row 1"),
        (lambda f: f.fit(np.zeros((10, 3))), r"data has shape \(10, 3\): use shape \(n, 2\)"),
        (lambda f: f.fit(np.zeros(10)), r"data has shape \(10,\)"),
        (lambda f: f.fit([["a", "b"]]), "data has dtype <U1, .*: give real numbers"),
        (lambda f: f.fit(np.zeros((2, 2))), "data has 2 points of dimension 2: give at least 3 points"),
        (lambda f: f.fit(), "none of data, sampler and log_density is given"),
        (
            lambda f: f.fit(np.ones((9, 2)), sampler=shifted),
            "data and sampler are given together: give exactly one of the three",
        ),
        (lambda f: f.fit(sampler=lambda n, rng: rng.normal(size=(n, 3))), "sampler returned shape"),
        (
            lambda f: f.fit(sampler=lambda n, rng: np.full((n, 2), np.inf)),
            "sampler contains a non-finite number in row 0",
        ),
        (lambda f: f.fit(sampler=3), "sampler is of type int: give a function"),
        (lambda f: f.fit(log_density=lambda x: x), "log_density returned"),
        (lambda f: f.fit(sampler=shifted, updates=0), "updates is 0"),
        (lambda f: f.fit(sampler=shifted, batch=0), "batch is 0"),
        (lambda f: f.fit(sampler=shifted, kinetic=-1.0), "kinetic is -1.0"),
        (lambda f: f.fit(sampler=shifted, optimizer=pn.LBFGS()), "use an optimizer for noisy gradients"),
        (lambda f: f.fit(sampler=shifted, schedule="linear"), "schedule is 'linear'"),
        (lambda f: f.log_prob(NAN), "x contains a non-finite number in row 1"),
        (lambda f: f.log_prob(np.zeros((4, 3))), r"x has shape \(4, 3\): use shape \(..., 2\) for points"),
        (lambda f: f.log_prob("points"), "x has dtype <U6, .*: give real numbers"),
        (lambda f: f.transform(np.zeros((3, 4, 2))), r"z has shape \(3, 4, 2\)"),
        (lambda f: f.transform(np.zeros((3, 2)), [0.5, 1.2]), "give times between 0 and 1"),
        (lambda f: f.sample(0), "n is 0"),
    ],
)
def test_mistakes_in_calls_get_a_sentence(call, sentence):
    with pytest.raises(pn.ArgumentError, match=sentence):
        call(hyper(**FAST))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"times": (1.0, 1.0)}, "times is"),
        ({"times": (0.0, math.inf)}, "times is"),
        ({"trace": "exakt"}, "did you mean 'exact'"),
        ({"noise": "uniform"}, "noise is 'uniform'"),
        ({"augment_dim": 2}, "augment_dim is 2: give a number of added components from 0 to 1"),
        ({"base": Normal(0.0, 1.0)}, r"base has event shape \(\): use a base with event shape \(2,\)"),
        ({"dim": 3}, "leave dim out"),
        ({"steps": 3}, "steps is not a known argument"),
    ],
)
def test_mistakes_in_settings_get_a_sentence(settings, sentence):
    with pytest.raises(pn.ArgumentError, match=sentence):
        hyper(**settings)


def test_a_callable_needs_a_dimension():
    with pytest.raises(pn.ArgumentError, match="dim is missing"):
        pn.ContinuousFlow(lambda t, z: z, engine="torch")
    with pytest.raises(pn.ArgumentError, match="no parameters to fit"):
        pn.ContinuousFlow(lambda t, z: z, dim=2, engine="torch").fit(sampler=shifted)


def test_terms_are_named():
    terms = hyper(**FAST).terms(np.zeros((3, 2)))
    assert isinstance(terms, FlowTerms) and terms.kinetic.shape == terms.jacobian.shape == (3,)
    assert terms.evaluations == 16  # four steps of RK4


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
@pytest.mark.parametrize("gradient", ["Checkpointed", "InterpolatingAdjoint", "BacksolveAdjoint"])
@pytest.mark.parametrize(
    "field",
    [pn.MLP((2, 4, 4, 2), input_scale=2.0, output_scale=0.5), pn.Linear(((0.1, 0.2), (0.3, -0.1)), input_map="cube")],
    ids=["scaled network", "cubes"],
)
def test_gradients_of_fields_without_layers_of_their_own(field, gradient, trace):
    """Gradients for fields with scaled inputs and outputs, or with a Jacobian computed by autograd."""
    x = torch.tensor([[0.3, -0.2], [0.5, 0.4]], dtype=torch.float64)

    def gradients(method):
        kind = {
            "trace": trace,
            "rtol": 1e-8,
            "atol": 1e-8,
            "dtype": torch.float64,
            "engine": "torch",
            "compiled": False,
        }
        flow = pn.ContinuousFlow(field, gradient=method, **kind)
        return torch.autograd.grad(flow.log_prob(x).sum(), list(flow.parameters()))

    for found, expected in zip(gradients(gradient), gradients("Backprop")):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
