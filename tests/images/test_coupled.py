"""Coupled ODEs (ANODEV2): evolution of weights, three gradient methods, and the paper's optimality conditions."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn

from pyneuralode.engines.torch_engine.memory import PeakMemory
from pyneuralode.errors import ArgumentError
from pyneuralode.gradients import BacksolveAdjoint, Checkpointed
from pyneuralode.images.coupled import CoupledODE
from pyneuralode.images.evolution import (
    Hypernetwork,
    KernelNetwork,
    ODEEvolution,
    ReactionDiffusionAdvection,
    convolve_in_time,
)

SHAPE = (2, 2, 3, 3)


class Smooth(nn.Module):
    """Dynamics tanh(convolution(z) + t); the convolution's bias does not evolve."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, t, z):
        return torch.tanh(self.conv(z) + t)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, t, z):
        return torch.tanh(self.norm(self.conv(z)))


class Growth(nn.Module):
    """Dynamics z' = k z."""

    def __init__(self, k=0.7):
        super().__init__()
        self.k = nn.Parameter(torch.tensor([k], dtype=torch.float64))

    def forward(self, t, z):
        return self.k * z


class Pull(nn.Module):
    """A user-defined evolution of weights, w' = a (cos t - w)."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.8))

    def forward(self, t, w):
        return self.a * (torch.cos(t) - w)


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, t, w):
        return w + self.scale * (1 + t) * torch.sin(w)


def operator(sigma="tanh", **coefficients):
    start = {"tau": 0.1, "upsilon": 0.4, "rho": -0.3, "diffusion": "tensor", **coefficients}
    return ReactionDiffusionAdvection(SHAPE, sigma, **start)


def taught_network():
    network = KernelNetwork(SHAPE, 4)
    nn.init.normal_(network.leave.weight, std=0.5)
    return network


EVOLUTIONS = {
    "map": operator,
    "integrated": lambda: ODEEvolution(operator()),
    "integrated RK4": lambda: ODEEvolution(operator("identity"), "RK4"),
    "network": lambda: ODEEvolution(taught_network(), "Midpoint"),
    "module of a user's": Pull,
    "hypernetwork": lambda: Hypernetwork(Doubling()),
}


def coupled(evolution, f=Smooth, seed=0, **options):
    torch.manual_seed(seed)
    return CoupledODE(f(), {"conv.weight": evolution()}, **options).double()


def images(n=2, size=4):
    return torch.randn(n, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradient_of(model, z):
    z = z.clone().requires_grad_()
    model.zero_grad()
    model(z).pow(3).sum().backward()
    return torch.cat([z.grad.flatten(), *(p.grad.flatten() for p in model.parameters())])


def difference_along(model, z, direction, h=1e-5):
    """Return the central difference of the loss along a direction in the space of (z, parameters)."""
    sizes = [z.numel(), *(p.numel() for p in model.parameters())]
    dz, *changes = direction.split(sizes)

    def loss(scale):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, change in zip(moved.parameters(), changes):
                p.add_(change.view_as(p), alpha=scale)
            return float(moved(z + scale * dz.view_as(z)).pow(3).sum())

    return (loss(h) - loss(-h)) / (2 * h)


@pytest.mark.parametrize("gradient", ["Backprop", None, Checkpointed(2)])
@pytest.mark.parametrize("kind", EVOLUTIONS)
def test_gradients_are_those_of_finite_differences(kind, gradient):
    model, z = (
        coupled(EVOLUTIONS[kind], steps=3, weight_steps=4, solver="Midpoint", gradient=gradient),
        images(),
    )
    found = gradient_of(model, z)
    assert all(float(p.grad.abs().max()) > 1e-6 for p in model.parameters())
    for seed in range(3):
        direction = torch.randn(found.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert float(found @ direction) == pytest.approx(difference_along(model, z, direction), rel=1e-6)


class Fading(nn.Module):
    """An exponentially decaying convolution kernel in time."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(2.0))

    def forward(self, delays):
        return 3 * torch.exp(-self.rate * delays)


@pytest.mark.parametrize("gradient", ["Backprop", "Checkpointed", Checkpointed(5), None])
@pytest.mark.parametrize(
    "f, options",
    [(Smooth, {"time_kernel": Fading()}), (Normed, {"per_step": ["norm"]})],
    ids=["kernel in time", "own norms"],
)
def test_gradients_with_a_kernel_in_time_and_with_norms_of_every_step(f, options, gradient):
    model = coupled(operator, f, steps=3, weight_steps=6, solver="RK4", gradient=gradient, **copy.deepcopy(options))
    z = images()
    found = gradient_of(model, z)
    direction = torch.randn(found.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(found @ direction) == pytest.approx(difference_along(model, z, direction), rel=1e-6)


@pytest.mark.parametrize("sigma", ["identity", "tanh"])
def test_the_gap_to_the_kkt_conditions_shrinks_at_first_order(sigma):
    """The optimality conditions (Eq. 7), with forward and backward Euler steps, give the same gradient up to O(h).

    z' = f, w' = q, -a' = f_z^T a, -b' = q_w^T b + f_w^T a, a(1) = dL/dz(1), b(1) = 0; dL/dw0 = b(0), and dL/dp is the
    integral of q_p^T b. The adjoint's steps use the right end of each interval.
    """
    z, gaps = images(), []
    for steps in (16, 32, 64, 128):
        model, h = coupled(lambda: ODEEvolution(operator(sigma)), steps=steps, gradient="Backprop"), 1 / steps
        f, q = model.f, model.evolutions[0].q
        discrete = gradient_of(model, z)
        weights = [w.detach() for w in model.trajectory()["conv.weight"]]
        states = model.states(z).detach()
        a = 3 * states[-1] ** 2
        b, by_bias = torch.zeros_like(weights[0]), torch.zeros_like(f.conv.bias)
        by_p = [torch.zeros_like(p) for p in q.parameters()]
        for n in range(steps, 0, -1):
            t = torch.tensor(n * h, dtype=torch.float64)
            at, w = states[n].clone().requires_grad_(), weights[n].clone().requires_grad_()
            slope = torch.func.functional_call(f, {"conv.weight": w}, (t, at))
            f_z, f_w, f_bias = torch.autograd.grad(slope, [at, w, f.conv.bias], a)
            q_w, *q_p = torch.autograd.grad(q(t, w), [w, *q.parameters()], b)
            by_bias, by_p = by_bias + h * f_bias, [total + h * part for total, part in zip(by_p, q_p)]
            a, b = a + h * f_z, b + h * (q_w + f_w)
        names = {"f.conv.weight": b, "f.conv.bias": by_bias}
        names |= {f"evolutions.0.q.{name}": part for (name, _), part in zip(q.named_parameters(), by_p)}
        kkt = torch.cat([a.flatten(), *(names[name].flatten() for name, _ in model.named_parameters())])
        gaps.append(float((discrete - kkt).norm() / discrete.norm()))
    slopes = [math.log2(before / after) for before, after in itertools.pairwise(gaps)]
    assert gaps[-1] < 0.05
    assert all(abs(slope - 1) < 0.2 for slope in slopes), (gaps, slopes)


@pytest.mark.parametrize("dt", [0.1, 1.0])
def test_the_map_with_identity_is_the_exact_solution(dt):
    """A wave cos(k x) evolves to w(x, t) = exp((-k tau k + rho) t) cos(k (x + upsilon t))."""
    tau = {"xx": 0.3, "yy": 0.2, "xy": -0.1}
    up, rho, grid = (0.7, -0.4), 0.25, (5, 7)
    q = ReactionDiffusionAdvection((1, 1, *grid), diffusion="tensor", rho=rho).double()
    with torch.no_grad():
        q.tau[0, 0] = torch.tensor([tau["xx"], tau["yy"], tau["xy"]], dtype=torch.float64)
        q.upsilon[0, 0] = torch.tensor(up, dtype=torch.float64)
    x = torch.arange(5, dtype=torch.float64)[:, None]
    y = torch.arange(7, dtype=torch.float64)
    for a, b in ((0, 0), (1, 0), (2, -3), (1, 2)):
        k, m = 2 * math.pi * a / 5, 2 * math.pi * b / 7
        decay = -(tau["xx"] * k * k + tau["yy"] * m * m + tau["xy"] * k * m) + rho
        start = torch.cos(k * x + m * y + 0.3)[None, None]
        end = math.exp(decay) * torch.cos(k * (x + up[0]) + m * (y + up[1]) + 0.3)[None, None]
        steps = round(1 / dt)
        found = q.trajectory(start, [n * dt for n in range(steps + 1)])[-1]
        torch.testing.assert_close(found, end, rtol=1e-12, atol=1e-12)
        slope = decay * start - (k * up[0] + m * up[1]) * torch.sin(k * x + m * y + 0.3)
        torch.testing.assert_close(q(torch.tensor(0.0), start), slope, rtol=1e-12, atol=1e-12)


def test_integrated_and_map_agree_only_where_sigma_is_the_identity():
    q = operator("identity").double()
    w = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = [n / 64 for n in range(65)]
    exact = q.trajectory(w, times)[-1]
    torch.testing.assert_close(ODEEvolution(q, "RK4").trajectory(w, times)[-1], exact, rtol=1e-8, atol=1e-8)
    q.sigma = "tanh"
    solved = [ODEEvolution(q, "RK4").trajectory(w, [k / n for k in range(n + 1)])[-1] for n in (32, 64)]
    mapped = [q.trajectory(w, [k / n for k in range(n + 1)])[-1] for n in (32, 64)]
    assert float((solved[0] - solved[1]).detach().abs().max()) < 1e-7
    assert float((mapped[0] - mapped[1]).detach().abs().max()) > 1e-2


def test_without_coefficients_the_ode_stands_still_and_the_map_applies_sigma_at_every_step():
    q = ReactionDiffusionAdvection(SHAPE, "tanh").double()
    w = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert torch.equal(ODEEvolution(q, "RK4").trajectory(w, times)[-1], w)
    expected = w
    for _ in range(4):
        expected = torch.tanh(expected)
    torch.testing.assert_close(q.trajectory(w, times)[-1], expected)


@pytest.mark.parametrize(
    "shared, diffusion, counts",
    [("layer", "scalar", (1, 2, 1)), ("output", "tensor", (12, 8, 4)), ("kernel", "scalar", (20, 40, 20))],
)
def test_coefficients_are_shared_as_asked(shared, diffusion, counts):
    q = ReactionDiffusionAdvection((4, 5, 3, 3), shared=shared, diffusion=diffusion, rho=0.5)
    assert tuple(p.numel() for p in (q.tau, q.upsilon, q.rho)) == counts
    w = torch.randn(4, 5, 3, 3)
    torch.testing.assert_close(q.advance(0.0, w, 2.0), math.e * w)


def test_even_grids_and_one_axis_stay_real_and_keep_the_mean():
    q = ReactionDiffusionAdvection((1, 1, 4), upsilon=0.3, tau=0.1)
    w = torch.randn(1, 1, 4)
    torch.testing.assert_close(q.advance(0.0, w, 1.0).mean(), w.mean())


@pytest.mark.parametrize("solver, order", [("Euler", 1), ("Midpoint", 2), ("Heun", 2), ("RK4", 4)])
def test_the_coupled_solution_converges_with_the_solver_s_order(solver, order):
    exact = coupled(lambda: operator("identity"), solver="RK4", steps=320, weight_steps=640)
    z = images()
    errors = []
    for steps in (10, 20):
        model = coupled(lambda: operator("identity"), solver=solver, steps=steps, weight_steps=2 * steps)
        errors.append(float((model(z) - exact(z)).detach().abs().max()))
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.2


def test_the_two_configurations_use_the_weights_of_their_times():
    seen = []

    class Watching(Smooth):
        def forward(self, t, z):
            seen.append((float(t), self.conv.weight.detach().clone()))
            return super().forward(t, z)

    for steps, weight_steps, places in ((5, None, [0, 1, 2, 3, 4]), (2, 10, [0, 5]), (1, 1, [0])):
        seen.clear()
        model = coupled(operator, Watching, steps=steps, weight_steps=weight_steps, gradient="Backprop")
        model(images())
        path = model.trajectory()["conv.weight"]
        assert len(path) == (weight_steps or steps) + 1
        assert [t for t, _ in seen] == pytest.approx([n / steps for n in range(steps)])
        for place, (_, weight) in zip(places, seen, strict=True):
            torch.testing.assert_close(weight, path[place], rtol=0, atol=0)


def test_between_weight_steps_the_weights_are_on_a_line():
    model = coupled(operator, steps=1, weight_steps=2)
    path, steps = model.trajectory()["conv.weight"], model._steps()
    torch.testing.assert_close(steps.weights(0.35)["conv.weight"], 0.3 * path[0] + 0.7 * path[1])
    torch.testing.assert_close(steps.weights(1.0)["conv.weight"], path[2])


def test_a_hypernetwork_goes_from_the_start_to_every_time_in_one_step():
    model = coupled(lambda: Hypernetwork(Doubling()), steps=2)
    w = model.f.conv.weight
    for t, theta in zip((0.0, 0.5, 1.0), model.trajectory()["conv.weight"]):
        torch.testing.assert_close(theta, w + 0.5 * (1 + t) * torch.sin(w))


def test_a_network_starts_at_rest():
    w = torch.randn(SHAPE)
    assert torch.equal(ODEEvolution(KernelNetwork(SHAPE)).advance(0.0, w, 0.5), w)


def test_nothing_that_evolves_is_a_neural_ode_with_constant_weights():
    model = CoupledODE(Growth(), steps=4)
    z = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(model(z), z * (1 + 0.7 / 4) ** 4)


def test_the_kernel_in_time_is_an_integral_over_the_past():
    w = [torch.tensor([2.0], dtype=torch.float64)] * 65
    times = [n / 64 for n in range(65)]
    constant = convolve_in_time(w, times, torch.ones_like)
    fading = convolve_in_time(w, times, lambda delays: torch.exp(-delays))
    for n in (0, 1, 17, 64):
        assert float(constant[n]) == pytest.approx(2 * times[n])
        assert float(fading[n]) == pytest.approx(2 * (1 - math.exp(-times[n])), abs=1e-4)


def test_backsolve_takes_the_same_steps_back():
    """For z' = k z and two Euler steps, the backward steps of z and of its adjoint are computed by hand."""
    model = CoupledODE(Growth(), steps=2, gradient="BacksolveAdjoint")
    z = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    end = model(z)
    end.backward()
    k, h = 0.7, 0.5
    z2 = 1.5 * (1 + h * k) ** 2
    z1 = z2 - h * k * z2
    a2, a1 = 1.0, 1 + h * k
    assert float(end.detach()) == pytest.approx(z2)
    assert float(z.grad) == pytest.approx(a1 + h * k * a1)
    assert float(model.f.k.grad) == pytest.approx(h * (a2 * z2 + a1 * z1))
    true = 2 * h * 1.5 * (1 + h * k)
    assert abs(float(model.f.k.grad) - true) > 0.05 * true


@pytest.mark.parametrize("solver, order", [("Euler", 1), ("RK4", 4)])
def test_backsolve_tends_to_the_gradient_as_the_steps_shrink(solver, order):
    errors = []
    for steps in (16, 32):
        models = [
            coupled(lambda: operator("identity"), solver=solver, steps=steps, weight_steps=2 * steps, gradient=g)
            for g in ("Backprop", "BacksolveAdjoint")
        ]
        exact, found = (gradient_of(model, images()) for model in models)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert abs(math.log2(errors[0] / errors[1]) - order) < (0.2 if order == 1 else 0.5)


@pytest.mark.parametrize("gradient", [None, "Checkpointed", "BacksolveAdjoint"])
@pytest.mark.parametrize("own", [(), ("norm",)])
def test_batch_norms_count_the_forward_pass_alone(gradient, own):
    reference = coupled(operator, Normed, steps=4, per_step=own, gradient="Backprop")
    model = coupled(operator, Normed, steps=4, per_step=own, gradient=gradient)
    for each in (reference, model):
        gradient_of(each, images(4))
    expected, found = dict(reference.named_buffers()), dict(model.named_buffers())
    assert int(found["f.norm.num_batches_tracked"]) == (1 if own else 4)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_every_step_has_its_own_batch_norm():
    model = coupled(operator, Normed, steps=3, per_step=["norm"])
    assert sum(p.numel() for p in model.parameters()) == 36 + 2 * (3 + 2 + 1) + 3 * 4
    model(images())
    means = [model.f.norm.running_mean, *(part[0].running_mean for part in model.copies)]
    assert len({tuple(mean.tolist()) for mean in means}) == 3


def test_dropout_is_the_same_when_a_checkpoint_is_gone_through_again():
    class Dropping(Smooth):
        def forward(self, t, z):
            return nn.functional.dropout(super().forward(t, z), 0.5, self.training)

    grads = []
    for gradient in ("Backprop", None, "Checkpointed"):
        model = coupled(operator, Dropping, steps=3, gradient=gradient)
        torch.manual_seed(5)
        grads.append(gradient_of(model, images()))
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])


def peak(blocks, z):
    net = nn.Sequential(*blocks).double()
    with PeakMemory() as memory:
        net(z.clone()).sum().backward()
    return memory.peak


def test_checkpointed_blocks_keep_their_inputs_alone():
    z = images(8, 32)

    def blocks(gradient, steps=4, count=6):
        return [CoupledODE(Normed(), {"conv.weight": operator()}, steps=steps, gradient=gradient) for _ in range(count)]

    kept = peak(blocks("Backprop"), z) - peak(blocks("Backprop", count=3), z)
    slim = peak(blocks(None), z) - peak(blocks(None, count=3), z)
    assert slim < 1.2 * 3 * z.nbytes  # three additional blocks store three additional inputs
    assert kept > 8 * slim
    assert peak(blocks("Checkpointed", 32, 1), z) < 0.4 * peak(blocks("Backprop", 32, 1), z)


def test_backsolve_s_memory_does_not_grow_with_the_steps():
    z = images(8, 32)
    few, many = (peak([CoupledODE(Normed(), steps=steps, gradient="BacksolveAdjoint")], z) for steps in (4, 64))
    assert many < 1.1 * few


def test_float32_pickle_and_state():
    model = coupled(operator, Normed, steps=3, per_step=["norm"]).float()
    z = images().float()
    assert model(z).dtype == torch.float32
    again = pickle.loads(pickle.dumps(model.eval()))
    other = coupled(operator, Normed, seed=1, steps=3, per_step=["norm"]).float().eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(again(z), model(z)) and torch.equal(other(z), model(z))


@pytest.mark.parametrize("gradient", ["Backprop", None, "BacksolveAdjoint"])
def test_autocast_leaves_the_state_in_float32(gradient):
    model = coupled(operator, Normed, steps=3, gradient=gradient).float()
    z = images().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        end = model(z.bfloat16())
    assert end.dtype == torch.float32
    end.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_states_are_those_on_the_way():
    model = coupled(operator, steps=4)
    z = images()
    states = model.states(z)
    assert states.shape == (5, *z.shape)
    assert torch.equal(states[0], z)
    torch.testing.assert_close(states[-1], model(z))


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"steps": 0}, "steps is 0: give a positive integer"),
        ({"weight_steps": 2.5}, "weight_steps is 2.5"),
        ({"span": 0.0}, "span is 0.0"),
        ({"solver": "Rodas5P"}, "solver is 'Rodas5P': use an explicit method, one of Euler, "),
        ({"solver": "FBDF"}, "solver is 'FBDF': use an explicit method, one of Euler, "),
        ({"solver": "Eulr"}, "did you mean 'Euler'"),
        ({"gradient": "GaussAdjoint"}, "gradient is 'GaussAdjoint': give 'Backprop'"),
        ({"gradient": BacksolveAdjoint(rtol=1e-3)}, "tolerances do not apply: leave them out"),
        ({"per_step": ["nrm"]}, "did you mean 'norm'"),
        ({"evolutions": {"conv.wieght": Pull()}}, "did you mean 'conv.weight'"),
        ({"evolutions": {"conv.weight": 3}}, "q is an int: give a module or a function"),
        ({"f": torch.tanh}, "give a torch.nn.Module"),
        ({"f": nn.Linear(2, 2)}, r"must accept \(t, y\)"),
    ],
)
def test_wrong_arguments_are_one_sentence(wrong, words):
    with pytest.raises(ArgumentError, match=words):
        CoupledODE(**{"f": Normed(), **wrong})


class FlatInTime(nn.Module):
    def forward(self, t, w):
        return w.flatten()


def test_a_q_of_another_shape_is_one_sentence():
    def shrinking(t, w):
        return w[..., :1]

    with pytest.raises(ArgumentError, match=r"shrinking returned shape \(2, 2, 3, 1\) for a state of shape"):
        coupled(lambda: shrinking)(images())
    with pytest.raises(ArgumentError, match=r"FlatInTime returned shape \(36,\) for a state of shape"):
        coupled(lambda: Hypernetwork(FlatInTime()))(images())
    with pytest.raises(ArgumentError, match="the weights have shape .* made for"):
        coupled(lambda: ReactionDiffusionAdvection((3, 2, 3, 3)))(images())
    with pytest.raises(ArgumentError, match="returned None"):
        coupled(lambda: Hypernetwork(lambda t, w: None))(images())


def test_a_slope_of_another_shape_is_one_sentence():
    class Shrinking(Smooth):
        def forward(self, t, z):
            return super().forward(t, z)[:, :1]

    with pytest.raises(ArgumentError, match=r"Shrinking returned shape .* return a tensor of the same shape"):
        coupled(operator, Shrinking)(images())
    with pytest.raises(ArgumentError, match="z is of type torch.int64"):
        coupled(operator)(images().long())


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"shape": (3, 3)}, r"shape is \(3, 3\)"),
        ({"sigma": "tahn"}, "did you mean 'tanh'"),
        ({"shared": "out"}, "did you mean 'output'"),
        ({"diffusion": "full"}, "diffusion is 'full'"),
    ],
)
def test_wrong_operators_are_one_sentence(wrong, words):
    with pytest.raises(ArgumentError, match=words):
        ReactionDiffusionAdvection(**{"shape": SHAPE, **wrong})
