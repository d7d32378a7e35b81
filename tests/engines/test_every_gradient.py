"""Every solver x gradient method x field: correct gradients (against high-order finite differences) or an error."""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode import fields
from pyneuralode.errors import PyNeuralODEError
from pyneuralode.gradients import gradients_of
from pyneuralode.solvers import SOLVERS, solvers_of

METHODS = gradients_of("torch")
TORCH_SOLVERS = solvers_of("torch")
EXAMPLES = {
    "MLP": pn.MLP((2, 4, 2), "tanh", init_bias=0.5),
    "Linear": pn.Linear(((-0.3, -1.0), (1.0, -0.2)), input_map="cube"),
    "SEIR": pn.SEIR(0.4, 3.0, 0.5),
    "Equations": pn.Equations({"x": "-k*x + sin(t)*y", "y": "x*y - y/(1 + q)"}, parameters={"k": 0.7, "q": 0.4}),
    "ConcatMLP": pn.ConcatMLP((2, 4, 2), "softplus", init_bias=0.5),
    "GatedMLP": pn.GatedMLP((2, 4, 2), "tanh", init_bias=0.5),
    "HyperMLP": pn.HyperMLP(dim=2, width=3, hidden=4, init_bias=0.5),
    "ConcatConv": pn.ConcatConv(channels=1, height=2, width=2, hidden=(2,)),
}
# (tolerance of the solve, allowed relative error of its gradient), for methods of low and of high order.
LOOSE, TIGHT = (1e-6, 1e-3), (1e-9, 1e-6)
FIXED = {1: 0.02, 2: 0.05, 4: 0.1}  # order -> step size of methods with fixed steps

# Sixth-order finite differences for the first and the second derivative.
SIX = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60
SIX_TWICE = np.array([2, -27, 270, -490, 270, -27, 2]) / 180


def some_of(names, *usual):
    """Return the names as test parameters; names that are not in `usual` are marked slow."""
    return [name if name in usual else pytest.param(name, marks=pytest.mark.slow) for name in names]


def test_every_field_has_an_example():
    ours = {name for name, kind in fields.registered_fields().items() if getattr(fields, name, None) is kind}
    assert ours == set(EXAMPLES)


class Point:
    """Initial state, times and parameters of a problem, and a direction in which all of them are varied."""

    def __init__(self, name, times=True):
        field = EXAMPLES[name]
        rng = np.random.default_rng(len(name))
        start = np.array([0.6, 0.1, 0.2, 0.1]) if name == "SEIR" else rng.uniform(0.3, 0.9, size=field.dim)
        self.names = list(field.shapes())
        self.values = [start, np.array([0.1, 0.25, 0.6]), *field.initial(1).values()]
        self.direction = [0.3 * rng.normal(size=np.shape(value)) for value in self.values]
        self.direction[1] = np.array([0.1, -0.2, 0.3]) * times
        self.weights = torch.tensor(rng.normal(size=(3, field.dim)))
        self.field = field

    def leaves(self, part=0.0):
        moved = [np.asarray(v + part * d) for v, d in zip(self.values, self.direction)]
        return [torch.tensor(value, requires_grad=True) for value in moved]

    def loss(self, leaves, **settings):
        y0, ts, *parameters = leaves
        ys = pn.solve(self.field, y0, ts, parameters=dict(zip(self.names, parameters)), engine="torch", **settings).ys
        return (self.weights * ys).sum() + (ys[-1] ** 2).sum()

    def along(self, gradients):
        return sum((g * torch.tensor(d)).sum() for g, d in zip(gradients, self.direction))

    def differences(self, h=0.05, **settings):
        """Return the first and second derivative of the loss along the direction, by finite differences."""
        with torch.no_grad():
            values = np.array([float(self.loss(self.leaves(i * h), **settings)) for i in range(-3, 4)])
        return values @ SIX / h, values @ SIX_TWICE / h**2


TRUTHS = {}


def truth(name):
    """Return the derivatives of the exact problem, from solves at tolerance 1e-13."""
    if name not in TRUTHS:
        TRUTHS[name] = Point(name).differences(solver="Vern7", rtol=1e-13, atol=1e-13, compiled=False)
    return TRUTHS[name]


def compare(solver, method, name, compiled):
    """Compare first and second derivatives with reference values; second derivatives may raise an error instead."""
    entry = SOLVERS[solver]
    if entry.adaptive:
        rtol, allowed = LOOSE if entry.order < 4 else TIGHT
        point, settings = Point(name), {"rtol": rtol, "atol": rtol}
        expected = truth(name)
    # Compare with the same coarse solve; times are not varied, since their derivative is that of the exact solution.
    else:
        point, settings, allowed = Point(name, times=False), {"step_size": FIXED[entry.order]}, 1e-8
        expected = point.differences(solver=solver, compiled=False, **settings)
        if method in ("BacksolveAdjoint", "InterpolatingAdjoint"):
            allowed = 0.1  # the derivative of the exact solution, which these coarse steps approximate only roughly
    settings |= {"solver": solver, "gradient": method, "compiled": compiled}
    leaves = point.leaves()
    first = point.along(torch.autograd.grad(point.loss(leaves, **settings), leaves))
    size = max(map(abs, expected))
    assert abs(float(first.detach()) - expected[0]) <= allowed * size
    try:
        leaves = point.leaves()
        first = point.along(torch.autograd.grad(point.loss(leaves, **settings), leaves, create_graph=True))
        second = point.along(torch.autograd.grad(first, leaves))
    except PyNeuralODEError as error:
        assert "create_graph" in str(error)
        assert not (method == "Backprop" and not compiled and entry.kind == "explicit")
    else:
        assert abs(float(second) - expected[1]) <= 10 * allowed * size


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("solver", TORCH_SOLVERS)
def test_every_solver_by_every_method(solver, method):
    compare(solver, method, "Equations", compiled=False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("compiled", [True, False])
def test_every_field_by_every_method(name, method, compiled):
    compare("Tsit5", method, name, compiled)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("solver", TORCH_SOLVERS)
@pytest.mark.parametrize("compiled", [True, False])
def test_the_whole_product(solver, method, name, compiled):
    compare(solver, method, name, compiled)


# Times, events, tangents, unused inputs, and cost.


def hessian_and_differences(function, inputs):
    """Return the Hessian of a scalar function of a vector by autograd, and by finite differences of gradients."""
    leaf = inputs.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    rows = torch.stack([torch.autograd.grad(part, leaf, retain_graph=True)[0] for part in first])
    h, moved = 1e-3, []
    for i in range(len(inputs)):
        slopes = []
        for part in (-2, -1, 1, 2):
            x = inputs.clone()
            x[i] += part * h
            x.requires_grad_()
            slopes.append(torch.autograd.grad(function(x), x)[0])
        moved.append((slopes[0] - 8 * slopes[1] + 8 * slopes[2] - slopes[3]) / (12 * h))
    return rows, torch.stack(moved)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_second_derivatives_through_times(batch):
    """Check the full Hessian in (k, y0, times) of y' = -k y sin(t + y), forward and backward in time."""
    for ts in ([0.2, 0.5, 1.3], [1.3, 0.5, 0.2]):

        def function(x):
            field = lambda t, y: -x[0] * y * torch.sin(t + y)
            ys = pn.solve(field, x[1:2][None], x[2:], solver="Vern7", batch=batch, rtol=1e-10, atol=1e-10).ys
            return ys.sum().square() + ys[1].sum()

        found, expected = hessian_and_differences(function, torch.tensor([0.7, 0.8, *ts], dtype=torch.float64))
        assert expected.abs().min() > 1e-3  # no entry is negligible
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_second_derivatives_of_a_decay_by_its_times():
    """For y = exp(-k (t1 - t0)), mixed derivatives with respect to k and a time, in either order, have closed forms."""
    k, t0, t1 = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, 0.1, 1.7))
    y = pn.solve(
        lambda t, y: -k * y, torch.ones((), dtype=torch.float64), torch.stack([t0, t1]), rtol=1e-11, atol=1e-11
    ).ys[-1]
    exact = torch.exp(-k * (t1 - t0))
    for first in (k, t0, t1):
        ours, theirs = (torch.autograd.grad(value, first, create_graph=True)[0] for value in (y, exact))
        for second in (k, t0, t1):
            a, b = (torch.autograd.grad(value, second, retain_graph=True)[0] for value in (ours, theirs))
            assert abs(float(a - b)) < 1e-8


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_second_derivatives_through_event_times(batch):
    """A ball thrown up from height h at speed v reaches the height c; its time and speed there have closed forms."""

    def closed(x):
        h, v, g, c = x
        t = (v + torch.sqrt(v * v + 2 * g * (h - c))) / g
        return t + (v - g * t).square() * t

    def solved(x):
        h, v, g, c = x
        event = pn.Event(lambda t, y: y[..., 0] - c, direction=-1)
        fall = lambda t, y: torch.stack([y[..., 1], -g * torch.ones_like(y[..., 1])], -1)
        y0 = torch.stack([h, v])
        start = y0[None] if batch == "independent" else y0
        met = pn.solve(fall, start, [0.0, 5.0], events=event, batch=batch, rtol=1e-10, atol=1e-10).events
        return met.times[0] + met.states[0, 1].square() * met.times[0]

    point = torch.tensor([1.0, 2.0, 9.81, 0.3], dtype=torch.float64)
    expected = torch.autograd.functional.hessian(closed, point)
    torch.testing.assert_close(torch.autograd.functional.hessian(solved, point), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_second_derivatives_by_what_only_the_condition_knows(batch):
    """The level c occurs only in the condition: y = exp(-t) reaches c at t = -log c, with second derivative 1 / c^2."""
    c = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    met = pn.solve(
        lambda t, y: -y, torch.ones(1, 1, dtype=torch.float64), [0.0, 5.0], rtol=1e-11, atol=1e-11, batch=batch,
        events=pn.Event(lambda t, y: y.reshape(-1) - c),
    ).events  # fmt: skip
    (first,) = torch.autograd.grad(met.times.sum(), c, create_graph=True)
    (second,) = torch.autograd.grad(first, c)
    assert abs(float(first.detach()) + 1 / 0.4) < 1e-7 and abs(float(second) - 1 / 0.16) < 1e-6


DIRECTION = torch.tensor([0.3, -0.2, 0.1, 0.2, -0.1], dtype=torch.float64)
POINT = torch.tensor([0.7, 0.8, 0.2, 0.5, 1.3], dtype=torch.float64)  # k, y0, three times


def solved_along(part, solver, batch, inputs, held):
    """Solve with `inputs` moved by `part` times the direction, or with dual numbers if `part` is None."""
    moved = {}
    for name, some in (("k", slice(0, 1)), ("y0", slice(1, 2)), ("ts", slice(2, 5))):
        value, along = POINT[some].clone(), DIRECTION[some]
        if name == inputs:
            value = torch.autograd.forward_ad.make_dual(value, along) if part is None else value + part * along
        moved[name] = value
    tight = LOOSE[0] if SOLVERS[solver].order < 4 else TIGHT[0]
    settings = {"rtol": tight, "atol": tight} if SOLVERS[solver].adaptive else {"step_size": 0.02}
    return pn.solve(
        lambda t, y: -moved["k"] * y * torch.sin(t + y), moved["y0"][None], moved["ts"], solver=solver, batch=batch,
        parameters={} if held else {"k": moved["k"]}, **settings,
    ).ys  # fmt: skip


@pytest.mark.parametrize("solver", TORCH_SOLVERS)
@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize("inputs, held", [("k", False), ("k", True), ("y0", False), ("ts", False)])
def test_forward_mode_is_right_or_refused(inputs, held, batch, solver):
    found = []
    for recording in (False, True):
        with torch.autograd.forward_ad.dual_level(), torch.set_grad_enabled(recording):
            try:
                ys = solved_along(None, solver, batch, inputs, held)
            except pn.ArgumentError as error:
                assert "forward-mode" in str(error)
                assert batch == "independent" or SOLVERS[solver].kind != "explicit"
                continue
            found.append(torch.autograd.forward_ad.unpack_dual(ys).tangent)
    if batch == "independent" or SOLVERS[solver].kind != "explicit":
        assert not found
        return
    ahead, behind = (solved_along(part, solver, batch, inputs, held) for part in (1e-4, -1e-4))
    allowed = {1: 0.1, 2: 2e-3, 3: 1e-3}.get(SOLVERS[solver].order, 1e-5) if inputs == "ts" or solver == "BS3" else 1e-5
    for tangent in found:
        torch.testing.assert_close(tangent, (ahead - behind) / 2e-4, rtol=allowed, atol=allowed)


@pytest.mark.parametrize("gradient", METHODS)
def test_forward_mode_beside_a_gradient_is_right_or_refused(gradient):
    """Forward mode in y0 and reverse mode in k at once: both derivatives are correct, or an error is raised."""
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(y0, torch.ones_like(y0))

        def solve():
            return pn.solve(lambda t, y: -k * y, dual, [0.0, 1.0], parameters={"k": k}, gradient=gradient).ys[-1]

        if gradient != "Backprop":
            with pytest.raises(pn.ArgumentError, match="forward-mode"):
                solve()
            return
        found, tangent = torch.autograd.forward_ad.unpack_dual(solve())
        assert abs(float(tangent.detach()) - np.exp(-0.5)) < 1e-6
        assert abs(float(torch.autograd.grad(found.sum(), k)[0]) + np.exp(-0.5)) < 1e-5


def test_transforms_of_torch_func():
    """Check jvp, jacfwd, grad and hessian of a solve with the solution y = exp(-k) y0."""
    y0, k = torch.tensor([2.0], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)

    def end(k):
        return pn.solve(lambda t, y: -k * y, y0, [0.0, 1.0], parameters={"k": k}, rtol=1e-10, atol=1e-10).ys[-1].sum()

    exact = 2 * np.exp(-0.5)
    assert abs(float(torch.func.jvp(end, (k,), (torch.ones_like(k),))[1]) + exact) < 1e-8
    assert abs(float(torch.func.jacfwd(end)(k)) + exact) < 1e-8
    assert abs(float(torch.func.grad(end)(k)) + exact) < 1e-8


def test_forward_mode_through_events():
    """The tangents of a falling ball's landing time and speed agree with finite differences in its initial height."""

    def fall(height):
        ball = lambda t, y: torch.stack([y[1], -9.81 * torch.ones_like(y[0])])
        start = torch.stack([height, 0 * height])
        met = pn.solve(ball, start, [0.0, 5.0], events=pn.Event(lambda t, y: y[0]), rtol=1e-10, atol=1e-10).events
        return torch.stack([met.times[0], met.states[0, 1]])

    height = torch.tensor(10.0, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(height, torch.ones_like(height))
        tangent = torch.autograd.forward_ad.unpack_dual(fall(dual)).tangent
    time = np.sqrt(20 / 9.81)
    torch.testing.assert_close(
        tangent, torch.tensor([time / 20, -9.81 * time / 20], dtype=torch.float64), rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams"])
@pytest.mark.parametrize("moved", ["y0", "t", "k"])
def test_forward_mode_through_the_drop_in(moved, method):
    point = {
        name: torch.tensor(v, dtype=torch.float64) for name, v in (("y0", [0.8]), ("t", [0.2, 0.5, 1.3]), ("k", 0.7))
    }
    along = {"y0": [0.5], "t": [0.1, 0.2, 0.3], "k": 0.4}

    def solve(odeint, x, **more):
        field = lambda t, y: -x["k"] * y * torch.sin(t + y)
        return odeint(field, x["y0"], x["t"], method=method, rtol=1e-9, atol=1e-9, **more)

    direction = torch.tensor(along[moved], dtype=torch.float64)
    ahead, behind = (solve(pn.odeint, {**point, moved: point[moved] + h * direction}) for h in (1e-4, -1e-4))
    with torch.autograd.forward_ad.dual_level():
        dual = {**point, moved: torch.autograd.forward_ad.make_dual(point[moved], direction)}
        tangent = torch.autograd.forward_ad.unpack_dual(solve(pn.odeint, dual)).tangent
        with pytest.raises(pn.ArgumentError, match="forward-mode"):
            solve(pn.odeint_adjoint, dual, adjoint_params=(dual["k"],))
        with pytest.raises(pn.ArgumentError, match="forward-mode"):
            pn.odeint_event(
                lambda t, y: -dual["k"] * y + 0 * dual["y0"] + 0 * dual["t"][0], point["y0"], point["t"][0],
                event_fn=lambda t, y: y - 0.5,
            )  # fmt: skip
    torch.testing.assert_close(tangent, (ahead - behind) / 2e-4, rtol=1e-4, atol=1e-4)


def test_a_time_of_dense_output_that_wants_a_gradient_is_refused():
    solution = pn.solve(lambda t, y: -y, torch.ones(1, dtype=torch.float64), [0.0, 1.0], dense=True)
    with pytest.raises(pn.ArgumentError, match="t requires a gradient"):
        solution(torch.tensor(0.5, dtype=torch.float64, requires_grad=True))


class Partly(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.unused = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, t, y):
        return -self.used * y


@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P", "Kvaerno5"])
@pytest.mark.parametrize("asked", ["ys", "dense output"])
def test_unused_parameters_get_zeros_with_dense_output(asked, solver):
    module = Partly()
    solution = pn.solve(module, torch.ones(1, dtype=torch.float64), [0.0, 1.0], dense=True, solver=solver)
    (solution.ys[-1] if asked == "ys" else solution(1.0)).sum().backward()
    assert module.unused.grad is not None and torch.equal(module.unused.grad, torch.zeros(3, dtype=torch.float64))
    assert abs(float(module.used.grad) + np.exp(-0.5)) < 1e-4


SENSITIVE = {  # singular, huge, tiny and zero sensitivities, and kinks: field, y0, parameters, tolerances
    "root": (lambda t, y, p: 1 - p[0] * torch.sqrt(y), [1e-9], [0.5], {}),
    "power": (lambda t, y, p: y ** p[0] - 0.1 * y, [1e-6], [2 / 3], {}),
    "tiny parameter": (lambda t, y, p: -1e9 * p[0] * y, [1.0], [1e-9], {}),
    "huge growth": (lambda t, y, p: p[0] * y, [1.0], [4.0], {}),
    "kink": (lambda t, y, p: torch.stack([y[1], 0.1 - p[0] * torch.relu(y[0])]), [1.0, 0.0], [1.0], {}),
    "only relative": (lambda t, y, p: torch.stack([-p[0] * y[0], -p[1] * y[1]]), [1.0, 2.0], [0.3, 0.5], {"atol": 0.0}),
    "own tolerances": (
        lambda t, y, p: torch.stack([-p[0] * y[0], y[0] - p[1] * y[1]]),
        [1.0, 2.0],
        [0.3, 0.5],
        {"atol": [1e-12, 1e-5]},
    ),
}


@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P"])
@pytest.mark.parametrize("name", SENSITIVE)
def test_forward_mode_gradients_take_the_states_own_steps(name, solver):
    """Singular, huge or zero sensitivities do not change the steps, nor much the number of evaluations."""
    field, start, parameters, settings = SENSITIVE[name]
    found = {}
    for gradient in ("Backprop", "ForwardMode"):
        y0, p = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (start, parameters))
        solution = pn.solve(
            lambda t, y, p=p: field(t, y, p),
            y0,
            [0.0, 5.0],
            parameters={"p": p},
            gradient=gradient,
            solver=solver,
            **settings,
        )
        found[gradient] = solution, torch.autograd.grad(solution.ys[-1].sum(), [y0, p])
    (ours, gradients), (theirs, expected) = found["ForwardMode"], found["Backprop"]
    assert (ours.accepted, ours.rejected) == (theirs.accepted, theirs.rejected)
    most = theirs.nfev + 1 if solver == "Tsit5" else 4 * theirs.nfev
    assert ours.nfev <= most
    for a, b in zip(gradients, expected):
        torch.testing.assert_close(a, b, rtol=1e-9 if solver == "Tsit5" else 1e-4, atol=1e-12)


@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5", "AutoTsit5(Rosenbrock23)"])
def test_forward_mode_evaluations_do_not_grow_with_the_numbers(solver):
    """The number of evaluations is about the same for 1 and 30 parameters, and for 3 and 12 state components."""
    counts = []
    for n, m in ((3, 1), (3, 30), (12, 30)):
        p = torch.full((m,), 0.7 / m, dtype=torch.float64, requires_grad=True)
        rates = torch.linspace(1, 30, 3, dtype=torch.float64).repeat(n // 3)
        field = lambda t, y, p=p, rates=rates: -p.sum() * rates * (y - torch.cos(t)) ** 3
        y0 = torch.full((n,), 1.5, dtype=torch.float64)
        counts.append(pn.solve(field, y0, [0.0, 1.0], parameters={"p": p}, gradient="ForwardMode", solver=solver).nfev)
    assert max(counts) <= 1.5 * min(counts)


@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5"])
def test_a_recorded_stiff_solve_costs_the_same_for_every_step(monkeypatch, solver):
    """Eight times as many steps cost eight times as much; computing a Jacobian must not traverse all earlier steps."""
    k = torch.tensor([2.0, 0.5], dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad

    def operations_walked(steps):
        """Return the number of recorded operations that autograd visits to compute Jacobians during the solve."""
        walked = 0

        def counting(outputs, inputs, *args, **kwargs):
            nonlocal walked
            walked += operations_between(inputs, outputs)
            return gradient(outputs, inputs, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(torch.autograd, "grad", counting)
            ys = pn.solve(
                lambda t, y: -k * y * y + torch.cos(t),
                torch.ones(2, dtype=torch.float64),
                [0.0, 1.0],
                solver=solver,
                step_size=1 / steps,
            ).ys
        assert gradient(ys[-1].sum(), k)[0].abs().min() > 0
        return walked

    assert 0 < operations_walked(160) <= 9 * operations_walked(20)


def operations_between(inputs, outputs):
    """Return the number of recorded operations from the outputs back to the oldest input, or all if one is a leaf."""
    inputs, outputs = ([x] if isinstance(x, torch.Tensor) else x for x in (inputs, outputs))
    oldest = min(0 if x.grad_fn is None else x.grad_fn._sequence_nr() for x in inputs)
    seen, left = set(), [x.grad_fn for x in outputs]
    while left:
        node = left.pop()
        if node is not None and node not in seen and node._sequence_nr() >= oldest:
            seen.add(node)
            left += [before for before, _ in node.next_functions]
    return len(seen)


def test_second_derivatives_by_the_adjoint_of_the_drop_in_are_refused():
    """Without this error, a penalty on a gradient would silently contribute nothing to the gradient."""
    k, t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), torch.tensor([0.0, 1.0], dtype=torch.float64)
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    ys = pn.odeint_adjoint(lambda t, y: -k * y, y0, t, adjoint_params=(k,))
    with pytest.raises(pn.ArgumentError, match="create_graph is True.*use odeint"):
        torch.autograd.grad(ys[-1].sum(), y0, create_graph=True)


# Fields solved from a point where a derivative is infinite, zero or discontinuous: field, parameter, and derivatives of
# the state at t = 2 with respect to the parameter and to y0, from finite differences of solves accurate to 11 digits.
POINTS = {
    "root": (lambda t, y, k: k - 0.5 * torch.sqrt(y), 1.0, 1.5332, 0.4488),
    "power below one": (lambda t, y, k: 1 - y**k, 0.5, 0.4981, 0.1586),
    "power above one": (lambda t, y, k: 1 - y**k, 1.5, 0.0901, 0.1009),
    "zero": (lambda t, y, k: k * y * y, 1.0, 0.0, 1.0),
    "kink": (lambda t, y, k: k - torch.abs(y), 1.0, 0.8647, 0.1353),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "solver", some_of([name for name in TORCH_SOLVERS if SOLVERS[name].kind == "explicit"], "Tsit5", "RK4")
)
@pytest.mark.parametrize("name", POINTS)
def test_where_a_derivative_is_infinite_or_zero(name, solver, method):
    """The gradient is correct, raises an error, or is not finite; it is never a wrong finite number."""
    field, parameter, by_parameter, by_start = POINTS[name]
    k, y0 = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (parameter, [0.0]))
    settings = {"rtol": 1e-5, "atol": 1e-6} if SOLVERS[solver].adaptive else {"step_size": 0.01}
    try:
        ys = pn.solve(
            lambda t, y: field(t, y, k), y0, [0.0, 2.0], parameters={"k": k}, gradient=method, solver=solver, **settings
        ).ys
        found = torch.autograd.grad(ys[-1].sum(), [k, y0])
    except pn.SolverError as error:
        assert "finite" in str(error)
        assert name in ("root", "power below one", "power above one")
        return
    for value, expected in zip(found, (by_parameter, by_start)):
        value = float(value)
        assert abs(value - expected) < 0.05 if np.isfinite(value) else name in ("root", "power below one")


@pytest.mark.parametrize("method", METHODS)
def test_a_parameter_with_two_names_counts_once(method):
    k, y0 = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), torch.ones(1, 1, dtype=torch.float64)
    ys = pn.solve(
        lambda t, y: -k * y, y0, [0.0, 1.0], parameters={"k": k, "rate": k}, gradient=method, rtol=1e-9, atol=1e-9
    ).ys
    assert abs(float(torch.autograd.grad(ys[-1].sum(), k)[0]) + np.exp(-0.5)) < 1e-6
