"""`odeint`, `odeint_adjoint` and `odeint_event` compared with torchdiffeq 0.2.5."""

import math
import warnings

import pytest
import torch

from pyneuralode import dropin
from pyneuralode.dropin import odeint, odeint_adjoint, odeint_event
from pyneuralode.errors import ArgumentError, SolverError

torchdiffeq = pytest.importorskip("torchdiffeq")

FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams"]
ADAPTIVE = ["dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun"]
F64, F32 = torch.float64, torch.float32


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class VectorField(torch.nn.Module):
    """A nonlinear, non-autonomous field on (..., 2) that counts its evaluations."""

    def __init__(self, dtype=F64, timed=True):
        super().__init__()
        self.A = torch.nn.Parameter(torch.tensor([[-0.3, 1.2], [-1.1, -0.2]], dtype=dtype))
        self.bias = torch.nn.Parameter(torch.tensor([0.1, -0.2], dtype=dtype))
        self.evaluations, self.timed = 0, timed

    def forward(self, t, y):
        self.evaluations += 1
        assert isinstance(t, torch.Tensor) and t.ndim == 0
        wave = 1 + 0.3 * torch.sin(2 * t) if self.timed else 1
        return torch.tanh(y @ self.A + self.bias) * wave


class Pair(VectorField):
    """The field `VectorField` for a tuple of a state (2,) and a scalar."""

    def forward(self, t, state):
        y, z = state
        return super().forward(t, y), -z * torch.cos(t) + y.sum()


def start(dtype=F64, shape="tensor"):
    if shape == "tensor":
        return torch.tensor([[1.0, 0.5], [0.2, -1.0], [2.0, 0.0]], dtype=dtype)
    return torch.tensor([1.0, 0.5], dtype=dtype), torch.tensor(0.7, dtype=dtype)


def times(dtype=F64, falling=False, n=21, end=2.0):
    t = torch.linspace(0.0, end, n, dtype=dtype) ** 1.5
    return t.flip(0) if falling else t


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def both(make, y0, t, call="odeint", **arguments):
    """Return (field, solution) from pyneuralode, and (field, solution) from torchdiffeq."""
    found = []
    for library in (dropin, torchdiffeq):
        field = make()
        function = library.odeint if call == "odeint" else library.odeint_adjoint
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the Adams methods' coarse steps do not always converge
            found.append((field, function(field, y0, t, **arguments)))
    return found


def assert_equal(ours, theirs, rtol, atol):
    assert type(ours) is type(theirs)
    for a, b in zip(parts(ours), parts(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("shape", ["tensor", "tuple"])
@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_agree_to_rounding(method, shape, falling, dtype):
    make = lambda: (Pair if shape == "tuple" else VectorField)(dtype)
    (f, ours), (g, theirs) = both(make, start(dtype, shape), times(dtype, falling), method=method)
    # explicit_adams amplifies rounding errors, since its weights reach 300. In float32, the numbers of corrector
    # iterations may differ by one.
    loose = 1000 if method == "explicit_adams" else 10 if method in ("implicit_adams", "fixed_adams") else 1
    rounding = loose * (1e-12 if dtype == F64 else 2e-5)
    assert_equal(ours, theirs, rounding, rounding)
    assert abs(f.evaluations - g.evaluations) <= (0 if dtype == F64 else 2)


@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("shape", ["tensor", "tuple"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_steps_agree(method, shape, falling, dtype):
    make = lambda: (Pair if shape == "tuple" else VectorField)(dtype)
    rtol = 1e-6 if dtype == F64 and method != "adaptive_heun" else 1e-4
    (f, ours), (g, theirs) = both(
        make, start(dtype, shape), times(dtype, falling), method=method, rtol=rtol, atol=rtol / 10
    )
    # Rounding in the error estimate changes the steps, most in float32 and for dopri8, whose dense output is
    # coarse (order 4). There, both solutions have errors of 1e-4 to 5e-3.
    agreement = 5e-3 if dtype == F32 else 1e-6 if method == "dopri8" else 1e-11
    assert_equal(ours, theirs, agreement, agreement)
    one_step = 13 if method == "dopri8" else 6
    assert abs(f.evaluations - g.evaluations) <= (0 if dtype == F64 else max(one_step, 0.03 * g.evaluations))


@pytest.mark.parametrize("solver", ["LSODA", "RK45", "Radau"])
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
def test_scipy_solver(falling, solver):
    # An autonomous field, because torchdiffeq rounds LSODA's times to float32.
    make = lambda: VectorField(timed=False)
    arguments = {"method": "scipy_solver", "options": {"solver": solver}}
    (f, ours), (g, theirs) = both(make, start(), times(F64, falling), **arguments)
    assert_equal(ours, theirs, 1e-12, 1e-12)
    assert f.evaluations == g.evaluations


def test_complex_state():
    matrix = torch.tensor([[0.1j, 1.0], [-1.0, 0.2]], dtype=torch.complex128)
    y0 = torch.tensor([1.0 + 1j, 0.5j], dtype=torch.complex128)
    for method in ("dopri5", "adaptive_heun", "rk4", "implicit_adams"):
        arguments = {"method": method, "rtol": 1e-6, "atol": 1e-8}
        ours = odeint(lambda t, y: matrix @ y * torch.cos(t), y0, times(), **arguments)
        theirs = torchdiffeq.odeint(lambda t, y: matrix @ y * torch.cos(t), y0, times(), **arguments)
        assert_equal(ours, theirs, 1e-10, 1e-10)
    exact = torch.matrix_exp(matrix * torch.sin(times())[-1]) @ y0
    ours = odeint(lambda t, y: matrix @ y * torch.cos(t), y0, times())
    torch.testing.assert_close(ours[-1], exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "rk4", "implicit_adams", "explicit_adams", "midpoint"])
@pytest.mark.parametrize("call", ["odeint", "adjoint"])
@pytest.mark.parametrize("shape", ["tensor", "tuple"])
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
def test_gradients(falling, shape, call, method):
    """Gradients with respect to parameters, initial state and times, and the numbers of evaluations in both passes."""
    found, rtol = [], 1e-4 if method == "bosh3" else 1e-7
    options = {"step_size": 0.07} if method in ("midpoint", "rk4") else None
    for pick in (0, 1):
        y0 = start(F64, shape)
        for part in parts(y0):
            part.requires_grad_()
        t = times(F64, falling, n=6).requires_grad_()
        make = Pair if shape == "tuple" else VectorField
        arguments = {"method": method, "rtol": rtol, "atol": rtol / 100, "options": options}
        field, solution = both(make, y0, t, call, **arguments)[pick]
        loss = sum((part**2).sum() for part in parts(solution))
        found.append([*torch.autograd.grad(loss, [*field.parameters(), *parts(y0), t]), field.evaluations])
    (*ours, count), (*theirs, count_theirs) = found
    exact = call == "odeint" and method not in ("dopri5", "dopri8", "bosh3")
    for a, b in zip(ours, theirs):
        agreement = 1e-9 if exact else 100 * rtol
        torch.testing.assert_close(a, b, rtol=agreement, atol=agreement)
    assert abs(count - count_theirs) <= (0 if call == "odeint" else 0.02 * count_theirs)


def test_gradients_against_finite_differences():
    field, y0 = VectorField(), start()

    def loss(t, function=odeint):
        return (function(field, y0, t, rtol=1e-10, atol=1e-12) ** 2).sum()

    t = times(n=4)
    h = 1e-5
    with torch.no_grad():
        truth = torch.stack([(loss(t + h * e) - loss(t - h * e)) / (2 * h) for e in torch.eye(4, dtype=F64)])
    for function in (odeint, odeint_adjoint):
        moving = t.clone().requires_grad_()
        gradient = torch.autograd.grad(loss(moving, function), moving)[0]
        torch.testing.assert_close(gradient, truth, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("norm", [None, "seminorm", "own"])
@pytest.mark.parametrize("shape", ["tensor", "tuple"])
def test_adjoint_norms(shape, norm):
    seen = []

    def own(state):
        seen.append([tuple(part.shape) for part in state])
        return max(part.abs().max() for part in state)

    options = {} if norm is None else {"norm": own if norm == "own" else norm}
    counts, gradients, shapes = [], [], []
    for pick in (0, 1):
        seen.clear()
        pair = both(
            Pair if shape == "tuple" else VectorField,
            start(F64, shape),
            times(n=4),
            "adjoint",
            adjoint_options=options,
            adjoint_rtol=1e-5,
            adjoint_atol=1e-7,
            adjoint_method="dopri5",
        )
        field, solution = pair[pick]
        sum(part.sum() for part in parts(solution)).backward()
        counts.append(field.evaluations)
        gradients.append([p.grad for p in field.parameters()])
        shapes.append(seen[:1])
    assert counts[0] == counts[1]
    assert shapes[0] == shapes[1]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_adjoint_params_can_be_given():
    p = torch.tensor(0.7, dtype=F64, requires_grad=True)
    frozen = torch.tensor(0.7, dtype=F64)
    y = odeint_adjoint(lambda t, y: -p * y, torch.ones(1, dtype=F64), times(), adjoint_params=(p, frozen))
    y[-1].sum().backward()
    end = float(times()[-1])
    assert float(p.grad) == pytest.approx(-end * math.exp(-0.7 * end), rel=1e-6)
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    odeint_adjoint(lambda t, y: -y, y0, times(), adjoint_params=())[-1].sum().backward()
    assert float(y0.grad) == pytest.approx(math.exp(-end), rel=1e-6)


class Recorded(VectorField):
    """A field that records every call of its callbacks."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def _note(self, kind, t, y, dt):
        assert t.ndim == dt.ndim == 0
        shape = [tuple(part.shape) for part in parts(y)]
        self.calls.append((kind, float(t), shape, float(parts(y)[-1].sum()), float(dt)))

    def callback_step(self, t, y, dt):
        self._note("step", t, y, dt)

    def callback_accept_step(self, t, y, dt):
        self._note("accept", t, y, dt)

    def callback_reject_step(self, t, y, dt):
        self._note("reject", t, y, dt)

    def callback_step_adjoint(self, t, y, dt):
        self._note("step back", t, y, dt)

    def callback_accept_step_adjoint(self, t, y, dt):
        self._note("accept back", t, y, dt)


@pytest.mark.parametrize(
    "call,method,falling",
    [
        ("odeint", "dopri5", False),
        ("odeint", "dopri5", True),
        ("odeint", "rk4", True),
        ("adjoint", "bosh3", False),
    ],
)
def test_callbacks_come_in_the_same_sequence(call, method, falling):
    calls = []
    for pick in (0, 1):
        options = {"first_step": 0.5} if method == "dopri5" else {}
        arguments = {"method": method, "options": options, "rtol": 1e-6, "atol": 1e-8}
        field, solution = both(Recorded, start(), times(F64, falling, n=5), call, **arguments)[pick]
        solution.sum().backward()
        calls.append(field.calls)
    ours, theirs = calls
    assert [c[0] for c in ours] == [c[0] for c in theirs]
    if method == "dopri5":
        assert {"step", "accept", "reject"} <= {c[0] for c in ours}
    for a, b in zip(ours, theirs):
        assert a[2] == b[2]
        assert a[1] == pytest.approx(b[1], abs=1e-6) and a[3:] == pytest.approx(b[3:], rel=1e-4, abs=1e-6)


def test_callbacks_that_are_not_called_are_named():
    with pytest.warns(
        UserWarning, match="func has callback_accept_step, callback_reject_step, which rk4 does not call"
    ):
        odeint(Recorded(), start(), times(), method="rk4")


@pytest.mark.parametrize(
    "method,options",
    [
        ("rk4", {"step_size": 0.13}),
        ("rk4", {"step_size": 0.13, "interp": "cubic"}),
        ("rk4", {"step_size": 0.13, "perturb": True}),
        ("heun2", {"grid_constructor": lambda f, y0, t: torch.cat([t[:1], (t[:1] + t[1:2]) / 2, t[1:]])}),
        ("implicit_adams", {"step_size": 0.05, "max_order": 5, "max_iters": 2}),
        ("explicit_adams", {"step_size": 0.05, "max_order": 6}),
        ("euler", {"step_size": 0.1, "norm": torch.linalg.vector_norm}),
    ],
)
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
def test_options_of_fixed_steps(falling, method, options):
    (f, ours), (g, theirs) = both(VectorField, start(), times(F64, falling, n=7), method=method, options=options)
    assert_equal(ours, theirs, 1e-11, 1e-11)
    assert f.evaluations <= g.evaluations
    if options.get("interp") != "cubic":  # torchdiffeq uses the slope at the step's end for every output
        assert f.evaluations == g.evaluations


@pytest.mark.parametrize(
    "options",
    [
        {"min_step": 0.05},
        {"max_step": 0.03},
        {"first_step": 0.001},
        {"safety": 0.5},
        {"ifactor": 2.0, "dfactor": 0.5},
        {"step_t": torch.tensor([0.31, 0.9], dtype=F64)},
        {"jump_t": torch.tensor([0.5], dtype=F64)},
        {"step_t": torch.tensor([0.31, 0.9], dtype=F64), "jump_t": torch.tensor([0.6, 1.1], dtype=F64)},
        {"norm": lambda y: y.abs().max()},
        {"dtype": F32},
    ],
    ids=lambda o: "-".join(o),
)
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_options_of_adaptive_steps(method, falling, options):
    plain = odeint(VectorField(), start(), times(F64, falling, n=7), method=method, rtol=1e-5, atol=1e-7)
    arguments = {"method": method, "options": options, "rtol": 1e-5, "atol": 1e-7}
    (f, ours), (g, theirs) = both(VectorField, start(), times(F64, falling, n=7), **arguments)
    assert_equal(ours, theirs, 1e-9, 1e-9)
    assert f.evaluations == g.evaluations
    if "dtype" not in options:
        assert not torch.allclose(ours, plain, rtol=1e-12, atol=1e-12)  # the option has an effect


def test_tolerance_for_each_part():
    arguments = {"rtol": (1e-4, 1e-8), "atol": (torch.tensor([1e-4, 1e-6]), 1e-9)}
    (f, ours), (g, theirs) = both(Pair, start(F64, "tuple"), times(), **arguments)
    assert_equal(ours, theirs, 1e-10, 1e-10)
    assert f.evaluations == g.evaluations
    rtol = torch.tensor([1e-3, 1e-7], dtype=F64)
    (f, ours), (g, theirs) = both(VectorField, start(), times(), rtol=rtol)
    assert_equal(ours, theirs, 1e-10, 1e-10)
    assert f.evaluations == g.evaluations


def test_the_grid_constructor_sees_the_users_time():
    seen = []

    def grid(func, y0, t):
        seen.append((t.clone(), func(t[0], y0)))
        return t

    t = times(F64, falling=True, n=5)
    odeint(VectorField(), start(), t, method="euler", options={"grid_constructor": grid})
    torch.testing.assert_close(seen[0][0], t)
    torch.testing.assert_close(seen[0][1], VectorField()(t[0], start()))


def test_a_discontinuity_is_met_from_both_sides():
    def kicked(t, y):
        kicked.count += 1
        return torch.where(t < 0.5, -1.0, 1.0).to(y) * torch.ones_like(y)

    y0, t = torch.zeros(1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    counts = []
    for options in ({}, {"jump_t": torch.tensor([0.5], dtype=F64)}):
        kicked.count = 0
        y = odeint(kicked, y0, t, options=options)
        counts.append(kicked.count)
    assert abs(float(y[-1])) < 1e-14
    assert counts[1] < counts[0] / 3


class Ball(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gravity = torch.nn.Parameter(torch.tensor(9.8, dtype=F64))

    def forward(self, t, state):
        _, speed = state
        return speed, -self.gravity * torch.ones_like(speed) - 0.1 * speed


def ground(t, state):
    return torch.stack([state[0].reshape(()), 100.0 - state[0].reshape(())])


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    "method,options",
    [("dopri5", None), ("bosh3", None), ("rk4", {"step_size": 0.01}), ("rk4", {"step_size": 0.01, "interp": "cubic"})],
)
def test_events_and_their_gradients(method, options, reverse, interface):
    found = []
    for library in (dropin, torchdiffeq):
        ball = Ball()
        y0 = tuple(torch.tensor([value], dtype=F64, requires_grad=True) for value in (10.0, 3.0))
        t0 = torch.tensor(0.2, dtype=F64, requires_grad=True)
        when, (height, speed) = library.odeint_event(
            ball,
            y0,
            t0,
            event_fn=ground,
            reverse_time=reverse,
            odeint_interface=getattr(library, interface),
            method=method,
            options=options,
            rtol=1e-8,
            atol=1e-10,
        )
        loss = when**2 + speed[-1].sum()
        gradients = torch.autograd.grad(loss, [ball.gravity, *y0, t0])
        found.append([when.detach(), height.detach(), speed.detach(), *gradients])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert float(found[0][1][-1]) == pytest.approx(0, abs=1e-8)


def test_event_of_odeint_itself():
    for method, options in (("dopri5", None), ("midpoint", {"step_size": 0.05})):
        levels = torch.tensor([0.5, -9.0], dtype=F64)
        arguments = {"method": method, "options": options, "event_fn": lambda t, y: y - levels}
        field = lambda t, y: -y
        y0, t = torch.tensor([2.0, 1.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
        when, states = odeint(field, y0, t, **arguments)
        theirs = torchdiffeq.odeint(field, y0, t, **arguments)
        assert_equal((when, states), theirs, 1e-8, 1e-8)
        assert float(when) == pytest.approx(math.log(4), rel=1e-3)


def test_parameters_of_the_event_function_get_their_gradient():
    level = torch.tensor(0.5, dtype=F64, requires_grad=True)
    when, _ = odeint_event(
        lambda t, y: -y, torch.ones(1, dtype=F64), torch.tensor(0.0, dtype=F64), event_fn=lambda t, y: y - level
    )
    assert float(torch.autograd.grad(when, level)[0]) == pytest.approx(-2.0, rel=1e-6)  # when = -log(level)


def test_explicit_adams_diverges_and_recovers_as_torchdiffeqs_does():
    errors = {}
    for n in (20, 80, 640):
        t = torch.linspace(0, 1, n + 1, dtype=F64)
        ours, theirs = (
            f(lambda t, y: -y, torch.ones(1, dtype=F64), t, method="explicit_adams")
            for f in (odeint, torchdiffeq.odeint)
        )
        errors[n] = float((ours[-1] - math.exp(-1)).abs())
        assert errors[n] == pytest.approx(float((theirs[-1] - math.exp(-1)).abs()), rel=1e-3, abs=1e-14)
    assert errors[80] > 100 * errors[20] and errors[640] < 1e-10


def test_orders_of_the_fixed_methods():
    def end(n, **arguments):
        return odeint(VectorField(), start(), torch.linspace(0, 1, n + 1, dtype=F64), **arguments)[-1]

    exact = end(1, rtol=1e-12, atol=1e-13)
    for method, order in (("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)):
        errors = [float((end(n, method=method) - exact).abs().max()) for n in (40, 80)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def test_one_time_and_one_component():
    y0 = torch.tensor(1.0, dtype=F64)
    for method in ("dopri5", "rk4", "scipy_solver"):
        assert odeint(lambda t, y: -y, y0, torch.tensor([0.3]), method=method).shape == (1,)
    y = odeint(lambda t, y: -y, y0, torch.tensor([0.0, 1.0], dtype=F64))
    assert y.shape == (2,) and float(y[-1]) == pytest.approx(math.exp(-1))


def test_unused_options_warn():
    with pytest.warns(UserWarning, match="dopri5 ignores the option 'step_size': its options are"):
        odeint(VectorField(), start(), times(), options={"step_size": 0.1})
    with pytest.warns(UserWarning, match="rk4 ignores the options 'eps', 'safety'"):
        odeint(VectorField(), start(), times(), method="rk4", options={"eps": 0.1, "safety": 1})
    with pytest.warns(UserWarning, match="below 4"):
        odeint(VectorField(), start(), times(), method="implicit_adams", options={"max_order": 3})


TWO = torch.tensor([0.0, 1.0])


@pytest.mark.parametrize(
    "change,kind,words",
    [
        ({"method": "Dopri5"}, ValueError, "did you mean 'dopri5'"),
        ({"method": "scipy_solver", "event_fn": lambda t, y: y.min(), "t": TWO}, ValueError, "does not support events"),
        ({"t": torch.tensor([0.0, 1.0, 1.0])}, AssertionError, "t contains 1 and then 1"),
        ({"t": torch.tensor([0.0, 2.0, 1.0])}, AssertionError, "t contains 2 and then 1"),
        ({"t": torch.tensor([[0.0, 2.0]])}, AssertionError, "one-dimensional"),
        ({"t": torch.tensor([0, 1])}, TypeError, "t.double"),
        ({"t": [0.0, 1.0]}, AssertionError, "t is a list"),
        ({"y0": [torch.ones(2)]}, AssertionError, "y0 is a list"),
        ({"y0": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "y0.double"),
        ({"rtol": -1.0}, ValueError, "rtol is -1"),
        ({"rtol": torch.tensor(1e-3, requires_grad=True)}, AssertionError, "rtol requires a gradient"),
        ({"rtol": (1e-3, 1e-3), "y0": (torch.ones(2),)}, AssertionError, "rtol has 2 parts"),
        ({"event_fn": lambda t, y: y}, ValueError, "t contains 21 times"),
        ({"event_fn": lambda t, y: y.min() + 3, "t": TWO, "method": "rk4"}, AssertionError, "step_size"),
        ({"method": "rk4", "options": {"step_size": -0.1}}, ValueError, "step_size is -0.1"),
        ({"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": len}}, ValueError, "both"),
        ({"method": "euler", "options": {"grid_constructor": lambda f, y, t: t[1:]}}, AssertionError, "from"),
        ({"method": "rk4", "options": {"interp": "spline"}}, ValueError, "interp is 'spline'"),
        ({"method": "fixed_adams", "options": {"max_order": 13}}, AssertionError, "max_order is 13"),
        ({"options": {"step_t": [0.5], "jump_t": [0.5]}}, ValueError, "0.5 twice"),
        ({"func": lambda t, y: 1.0}, TypeError, "func returned a float"),
        ({"func": lambda t, y: torch.ones(5, dtype=F64)}, ValueError, r"shape \(5,\)"),
    ],
)
def test_bad_arguments(change, kind, words):
    arguments = {"func": VectorField(), "y0": start(), "t": times(), **change}
    with pytest.raises(ArgumentError, match=words) as caught:
        odeint(arguments.pop("func"), arguments.pop("y0"), arguments.pop("t"), **arguments)
    assert isinstance(caught.value, kind)


def test_bad_arguments_of_the_adjoint():
    with pytest.raises(ValueError, match="adjoint_params is not given"):
        odeint_adjoint(lambda t, y: -y, start(), times())
    with pytest.raises(ValueError, match="give adjoint_options too"):
        odeint_adjoint(VectorField(), start(), times(), options={"first_step": 0.1}, adjoint_method="rk4")


def test_a_solve_that_cannot_go_on():
    y0, t = torch.ones(1, dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    blowup = lambda t, y: y**2
    with pytest.raises(SolverError, match="the step size underflowed at t = 1") as caught:
        odeint(blowup, y0, t)
    assert isinstance(caught.value, AssertionError) and caught.value.t == pytest.approx(1, abs=1e-3)
    with pytest.raises(AssertionError, match="max_num_steps = 5"):
        odeint(blowup, y0, t, options={"max_num_steps": 5})
    with pytest.raises(AssertionError, match="non-finite"):
        odeint(lambda t, y: y * math.nan, y0, t)
    with pytest.raises(AssertionError, match="non-finite"):
        odeint(lambda t, y: y * math.nan, y0, t, options={"min_step": 0.1})


@pytest.mark.parametrize("settings", [{"method": "dopri5"}, {"method": "rk4", "options": {"step_size": 0.1}}])
def test_an_event_function_that_is_nan_is_no_event(settings):
    """torchdiffeq treats a NaN as an event."""
    y0, t0 = torch.ones(1, dtype=F64), torch.tensor(0.0, dtype=F64)
    with pytest.raises(AssertionError, match=r"event_fn is NaN at t = 1\.[23]"):
        odeint_event(lambda t, y: -y, y0, t0, event_fn=lambda t, y: torch.sqrt(1.25 - t), **settings)
    with pytest.raises(SolverError, match="event_fn is NaN at t = 0:"):
        odeint_event(lambda t, y: -y, y0, t0, event_fn=lambda t, y: math.nan * t, **settings)


def test_a_trial_outside_the_domain_is_shortened():
    """torchdiffeq stops at the first non-finite trial step."""
    field = lambda t, y: -torch.sqrt(y)
    t = torch.tensor([0.0, 1.9], dtype=F64)
    y = odeint(field, torch.ones(1, dtype=F64), t, rtol=1e-4, atol=1e-6, options={"first_step": 3.0})
    assert float(y[-1]) == pytest.approx((1 - 1.9 / 2) ** 2, abs=1e-4)


def test_the_field_is_double_differentiable_through_odeint():
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    y = odeint(lambda t, y: -(y**2), y0, times(), rtol=1e-9, atol=1e-11)[-1]
    first = torch.autograd.grad(y, y0, create_graph=True)[0]
    second = torch.autograd.grad(first, y0)[0]
    end = float(times()[-1])
    assert float(second) == pytest.approx(-2 * end / (1 + end) ** 3, rel=1e-6)  # y = y0 / (1 + y0 t)


# Uses of torchdiffeq in other packages: slopes of other shapes, dense output, differentiated event times.

FIXED_AND_OTHERS = ["dopri5", "dopri8", "rk4", "implicit_adams", "scipy_solver"]


def decay_in(shape):
    """A field whose slope has a different shape from the state."""
    return lambda t, y: -(y * (1 + t)).reshape(shape)


@pytest.mark.parametrize("method", FIXED_AND_OTHERS)
@pytest.mark.parametrize(
    "state,slope,in_tuples_only",
    [
        ((), (1,), False),
        ((), (1, 1), False),
        ((3,), (1, 3), False),
        ((2, 3), (1, 1, 2, 3), False),
        ((3, 1), (3,), True),
        ((3, 1), (1, 3), True),
        ((2, 3), (6,), True),
        ((3,), (3, 1), True),
    ],
    ids=str,
)
def test_slopes_are_broadcast_as_torchdiffeq_broadcasts_them(state, slope, in_tuples_only, method):
    y0 = torch.arange(1.0, 1.0 + torch.Size(state).numel(), dtype=F64).reshape(state)
    other = torch.tensor([0.4, -0.2], dtype=F64)
    field, t = decay_in(slope), torch.linspace(0, 1, 4, dtype=F64)
    options = {"solver": "RK45"} if method == "scipy_solver" else None
    pairs = (lambda t, y: (field(t, y[0]), -y[1])), (y0, other)
    for func, start in [pairs] if in_tuples_only else [pairs, (field, y0)]:
        ours, theirs = (f(func, start, t, method=method, options=options) for f in (odeint, torchdiffeq.odeint))
        assert_equal(ours, theirs, 1e-9, 1e-9)
        exact = y0 * math.exp(-1.5)
        torch.testing.assert_close(parts(ours)[0][-1], exact, rtol=1e-3, atol=1e-3)
    if in_tuples_only and method != "scipy_solver":
        with pytest.raises(ArgumentError, match="dy/dt in the state's shape"):
            odeint(field, y0, t, method=method)


def test_a_slope_of_another_shape_moves_the_event_right():
    """A slope (N,) for a state (N, 1) is multiplied by the event's gradient without broadcasting to (N, N)."""
    k = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = (torch.tensor([[2.0], [3.0], [4.0]], dtype=F64),)
    when, _ = odeint_event(
        lambda t, y: (-k * y[0].reshape(-1),), y0, torch.tensor(0.0, dtype=F64), event_fn=lambda t, y: y[0].sum() - 4.5
    )
    assert float(when.detach()) == pytest.approx(math.log(2), abs=1e-7)
    assert float(torch.autograd.grad(when, k)[0]) == pytest.approx(-math.log(2), rel=1e-6)


@pytest.mark.parametrize("method,options", [("dopri5", None), ("rk4", {"step_size": 0.05}), ("dopri5", {"dtype": F32})])
@pytest.mark.parametrize("state", [F32, F64], ids=["state 32", "state 64"])
@pytest.mark.parametrize("time", [F32, F64], ids=["time 32", "time 64"])
def test_the_times_of_events_have_torchdiffeqs_dtypes(time, state, method, options):
    found = []
    for library in (dropin, torchdiffeq):
        seen, k = set(), torch.tensor(1.0, dtype=state, requires_grad=True)

        def event(t, y):
            seen.add(t.dtype)
            return y - 0.5

        y0, start = torch.tensor(1.0, dtype=state, requires_grad=True), torch.tensor([0.0, 1.0], dtype=time)
        arguments = {"event_fn": event, "method": method, "options": options}
        field = lambda t, y: -k * y
        when, states = library.odeint(field, y0, start, **arguments)
        dtypes = [seen.copy(), when.dtype, states.dtype]
        for when, states in (
            library.odeint_event(field, y0, start[0], **arguments),
            library.odeint_adjoint(field, y0, start, adjoint_params=(k,), **arguments),
        ):
            dtypes += [when.dtype, states.dtype]
            assert when.requires_grad and float(when.detach()) == pytest.approx(math.log(2), rel=3e-4)
        found.append(dtypes)
    assert found[0] == found[1]


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("method,options", [("dopri5", None), ("rk4", {"step_size": 0.01, "interp": "cubic"})])
def test_the_time_of_an_adjoint_event_has_its_gradient(method, options, falling):
    """torchdiffeq's test event_tests.TestEventHandling.test_adjoint; torchdiffeq's own gradient is zero there."""
    k, level = (torch.tensor(value, dtype=F64, requires_grad=True) for value in (0.7, 0.5))
    y0 = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    t = torch.tensor([0.3, 1.3], dtype=F64)
    sign = -1.0 if falling else 1.0
    times = (t.flip(0) - 1.0 if falling else t).clone().requires_grad_()
    when, states = odeint_adjoint(
        lambda t, y: -sign * k * y,
        y0,
        times,
        event_fn=lambda t, y: y[0] - level,
        method=method,
        options=options,
        adjoint_params=(k,),
    )
    span = math.log(2) / 0.7  # y[0] halves
    assert float(when.detach()) == pytest.approx(0.3 + sign * span, abs=1e-6)
    found = torch.autograd.grad(when, [k, level, y0, times], retain_graph=True)
    truth = [-sign * span / 0.7, -sign / (0.7 * 0.5), [sign / 0.7, 0.0], [1.0, 0.0]]
    for gradient, value in zip(found, truth):
        torch.testing.assert_close(gradient, torch.tensor(value, dtype=F64), rtol=1e-5, atol=1e-6)
    # torchdiffeq's gradient; odeint_event also includes the change of the event time.
    at_fixed_time = torch.autograd.grad(states[-1, 1], k)[0]
    assert float(at_fixed_time) == pytest.approx(-span * 1.0, rel=1e-5)


@pytest.mark.parametrize("options", [None, {"first_step": 0.3}, {"max_step": 0.2}], ids=str)
def test_dense_output_is_torchdiffeqs(options):
    found = []
    for library in (dropin, torchdiffeq):
        field, y0 = VectorField(), start().requires_grad_()
        state = library.odeint_dense(
            field,
            y0,
            torch.tensor(0.1, dtype=F64),
            torch.tensor(2.0, dtype=F64),
            rtol=1e-6,
            atol=1e-8,
            method="dopri5",
            options=options,
        )
        t = torch.tensor(0.83, dtype=F64, requires_grad=True)
        values = [state(moment) for moment in (torch.tensor(0.1, dtype=F64), t, torch.tensor(1.999, dtype=F64))]
        found.append((values, torch.autograd.grad(sum(v.square().sum() for v in values), [y0, t, *field.parameters()])))
    for agreement, ours, theirs in zip((1e-11, 1e-6), *found):  # torchdiffeq also differentiates the step sizes
        torch.testing.assert_close(ours, theirs, rtol=agreement, atol=agreement)


def test_dense_output_backwards_and_at_many_times():
    y0, times = start(), torch.linspace(1.0, -1.0, 5, dtype=F64)
    state = dropin.odeint_dense(VectorField(), y0, times[0], -1.0)
    torch.testing.assert_close(state(times), odeint(VectorField(), y0, times), rtol=1e-8, atol=1e-9)
    assert state(times[:4].reshape(2, 2)).shape == (2, 2, 3, 2) and state(times[0]).shape == (3, 2)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"method": "dopri8"}, "method is 'dopri8'"),
        ({"y0": (start(),)}, "y0 is a tuple"),
        ({"t0": 0.0}, "t0 is a float"),
        ({"t1": torch.tensor(0.0)}, "strictly"),
        ({"at": 2.5}, "t is 2.5, outside the solved time span, 0 to 1"),
    ],
)
def test_dense_output_refuses_by_assertions_too(change, words):
    arguments = {"y0": start(), "t0": torch.tensor(0.0), "t1": torch.tensor(1.0), "at": 0.5, "method": None} | change
    at = arguments.pop("at")
    with pytest.raises(AssertionError, match=words) as caught:
        dropin.odeint_dense(VectorField(), arguments.pop("y0"), arguments.pop("t0"), arguments.pop("t1"), **arguments)(
            torch.tensor(at, dtype=F64)
        )
    assert isinstance(caught.value, ArgumentError)
