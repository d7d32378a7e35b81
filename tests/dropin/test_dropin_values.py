"""`odeint` and `odeint_dense` return the values of torchdiffeq 0.2.5."""

import math

import pytest
import torch
from torchdiffeq_problems import F32, F64, Pair, VectorField, assert_equal, both, parts, start, times, torchdiffeq

from pyneuralode import dropin
from pyneuralode.dropin import odeint
from pyneuralode.errors import ArgumentError

FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams"]
ADAPTIVE = ["dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun"]


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


def test_tolerance_for_each_part():
    arguments = {"rtol": (1e-4, 1e-8), "atol": (torch.tensor([1e-4, 1e-6]), 1e-9)}
    (f, ours), (g, theirs) = both(Pair, start(F64, "tuple"), times(), **arguments)
    assert_equal(ours, theirs, 1e-10, 1e-10)
    assert f.evaluations == g.evaluations
    rtol = torch.tensor([1e-3, 1e-7], dtype=F64)
    (f, ours), (g, theirs) = both(VectorField, start(), times(), rtol=rtol)
    assert_equal(ours, theirs, 1e-10, 1e-10)
    assert f.evaluations == g.evaluations


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


def test_a_trial_outside_the_domain_is_shortened():
    """torchdiffeq stops at the first non-finite trial step."""
    field = lambda t, y: -torch.sqrt(y)
    t = torch.tensor([0.0, 1.9], dtype=F64)
    y = odeint(field, torch.ones(1, dtype=F64), t, rtol=1e-4, atol=1e-6, options={"first_step": 3.0})
    assert float(y[-1]) == pytest.approx((1 - 1.9 / 2) ** 2, abs=1e-4)


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
    for func, y in [pairs] if in_tuples_only else [pairs, (field, y0)]:
        ours, theirs = (f(func, y, t, method=method, options=options) for f in (odeint, torchdiffeq.odeint))
        assert_equal(ours, theirs, 1e-9, 1e-9)
        exact = y0 * math.exp(-1.5)
        torch.testing.assert_close(parts(ours)[0][-1], exact, rtol=1e-3, atol=1e-3)
    if in_tuples_only and method != "scipy_solver":
        with pytest.raises(ArgumentError, match="dy/dt in the state's shape"):
            odeint(field, y0, t, method=method)


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
