"""Finite fields whose derivative is infinite or undefined at some states along the solution."""

import math

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.solvers import SOLVERS, solvers_of

STIFF = [name for name in solvers_of("torch") if SOLVERS[name].kind not in ("explicit", "stabilized")]


def torricelli(a: float = 1.0, b: float = 0.5) -> float:
    """Return h(5) for h' = a - b sqrt(h), h(0) = 0: t = (2/b) (-u - (a/b) log(1 - b u / a)), where u = sqrt(h)."""
    low, high = 0.0, a / b
    for _ in range(200):
        u = (low + high) / 2
        low, high = (u, high) if -u - a / b * math.log1p(-b * u / a) < 5 * b / 2 else (low, u)
    return u * u


TANK = pn.Equations({"h": "a - b*sqrt(h)"}, parameters={"a": 1.0, "b": 0.5})
# The growth of a cell from mass zero; the value is from SciPy's DOP853 and Radau at a tolerance of 3e-14.
CELL = pn.Equations({"m": "m**(2/3) - 0.1*m + 1"})
CELL_AT_5 = 18.667181151403
FORMULAS = {"tank": (TANK, torricelli()), "cell": (CELL, CELL_AT_5)}
CALLABLES = {
    "tank": lambda t, h: 1 - 0.5 * torch.sqrt(h),
    "cell": lambda t, m: m ** (2 / 3) - 0.1 * m + 1,
}


def relative_error(field, truth: float, **settings) -> float:
    settings = {"rtol": 1e-6, "atol": 1e-9, "engine": "torch"} | settings
    return abs(float(pn.solve(field, ts=[0.0, 5.0], **settings).ys[-1].reshape(-1)[0]) / truth - 1)


@pytest.mark.parametrize("solver", STIFF)
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("how", [{"compiled": True}, {"compiled": False}, {"batch": "independent"}], ids=str)
def test_a_start_where_the_jacobian_is_infinite_is_left_as_the_field_says(solver, name, how):
    field, truth = FORMULAS[name]
    y0 = np.zeros((2, 1)) if "batch" in how else np.zeros(1)
    assert relative_error(field, truth, y0=y0, solver=solver, **how) < 3e-5


@pytest.mark.parametrize("solver", STIFF)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_callables_leave_it_too(solver, dtype):
    tolerances = {"rtol": 1e-4, "atol": 1e-7} if dtype == torch.float32 else {}
    for name, field in CALLABLES.items():
        error = relative_error(field, FORMULAS[name][1], y0=torch.zeros(1, dtype=dtype), solver=solver, **tolerances)
        assert error < (1e-3 if tolerances else 3e-5)


@pytest.mark.parametrize("solver", STIFF)
def test_they_leave_it_in_every_unit(solver):
    """The solver works for any unit of h; with far too small finite differences, sqrt(h) would appear linear."""
    unit = 2.0**30

    def tank(t, y):
        h, u = y / unit
        return torch.stack([10910 * (u - 1.83 * torch.sqrt(h)), -0.5 * u + 0.1]) * 2**20

    y0 = torch.tensor([0.0, 634366669.6192], dtype=torch.float64)
    ys = pn.solve(tank, y0, [0.0, 0.034935761680503094], solver=solver, rtol=1e-7, atol=1e-7 * unit, engine="torch").ys
    assert ys[-1, 0].item() == pytest.approx(81117157.95, rel=3e-5)  # SciPy's DOP853 at 1e-11


@pytest.mark.parametrize("solver", STIFF)
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("formula", ["1 - x*x**0", "1 - x*x**p"])
def test_a_power_of_zero_has_the_derivative_zero(solver, compiled, formula):
    field = pn.Equations({"x": formula}, parameters={"p": 0.0} if "p" in formula else {})
    assert relative_error(field, 1 - math.exp(-5), y0=[0.0], solver=solver, compiled=compiled) < 1e-5


@pytest.mark.parametrize("solver", STIFF)
@pytest.mark.parametrize("compiled", [True, False])
def test_a_component_that_rests_at_such_a_point_does_not_make_a_stiff_system_slow(solver, compiled):
    """x stays at 0, where the derivative of sqrt(x) is infinite, while the stiff component z follows cos(t)."""
    field = pn.Equations({"x": "-1000*sqrt(x)", "z": "-1e6*(z - cos(t))"})
    solution = pn.solve(
        field, [0.0, 1.0], [0.0, 1.0], solver=solver, compiled=compiled, rtol=1e-6, atol=1e-9, engine="torch"
    )
    np.testing.assert_allclose(solution.ys[-1], [0.0, math.cos(1)], atol=3e-6)  # z lags by 1e-6 sin(t)
    assert solution.accepted < 2000


@pytest.mark.parametrize("solver", STIFF)
@pytest.mark.parametrize("sqrt", [torch.sqrt, lambda t: math.sqrt(float(t))], ids=["seen", "unseen by autograd"])
def test_a_slope_whose_derivative_by_time_is_infinite(solver, sqrt):
    """y' = -1000 (y - sqrt(t)), y(0) = 0: y = sqrt(t) - F(sqrt(1000 t)) / sqrt(1000), where F is Dawson's function."""
    dawson = pytest.importorskip("scipy.special").dawsn
    truth = 1 - float(dawson(math.sqrt(1000))) / math.sqrt(1000)
    solution = pn.solve(
        lambda t, y: -1000 * (y - sqrt(t)), np.zeros(1), [0.0, 1.0], solver=solver, rtol=1e-6, atol=1e-9, engine="torch"
    )
    assert abs(solution.ys[-1, 0] - truth) < 1e-5


@pytest.mark.parametrize("solver", STIFF)
def test_a_smooth_field_whose_autograd_derivative_is_nan(solver):
    """Autograd multiplies the infinite derivative of sqrt in the unused branch by 0, which gives NaN."""

    def field(t, y):
        return torch.where(y > 0.5, torch.sqrt(y - 0.5), torch.zeros_like(y)) - 1e4 * (y - torch.cos(t))

    solution = pn.solve(field, np.ones(1) / 4, [0.0, 1.5], solver=solver, rtol=1e-6, atol=1e-9, engine="torch")
    lag = math.cos(1.5) + math.sin(1.5) / 1e4 - math.cos(1.5) / 1e8
    assert abs(solution.ys[-1, 0] - lag) < 1e-5
    assert solution.accepted < 5000


@pytest.mark.parametrize("solver", STIFF)
def test_a_callable_that_computes_in_numpy(solver):
    def field(t, y):
        return torch.from_numpy(1 - 0.5 * np.sqrt(y.detach().numpy()))

    assert relative_error(field, torricelli(), y0=np.zeros(1), solver=solver) < 1e-5


def sensitivity(name: str, step: float = 1e-5) -> float:
    """Return dh(5)/da or dh(5)/db by central differences of fourth order."""

    def at(shift: float) -> float:
        return torricelli(**{"a": 1.0, "b": 0.5, name: {"a": 1.0, "b": 0.5}[name] + shift})

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


@pytest.mark.parametrize("solver", ["Tsit5", *STIFF])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("gradient", ["Backprop", "Checkpointed"])
def test_parameters_have_their_gradient_where_that_of_the_start_is_infinite(solver, compiled, gradient):
    parameters = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in TANK.initial().items()
    }
    ys = pn.solve(
        TANK, torch.zeros(1, dtype=torch.float64), [0.0, 5.0], parameters=parameters, solver=solver, compiled=compiled,
        gradient=gradient, rtol=1e-7, atol=1e-10, engine="torch",
    ).ys  # fmt: skip
    found = torch.autograd.grad(ys[-1, 0], list(parameters.values()))
    for name, value in zip(parameters, found):
        assert float(value) == pytest.approx(sensitivity(name), rel=2e-4)


@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P", "Kvaerno5"])
@pytest.mark.parametrize(
    "how", [{"compiled": True}, {"compiled": False}, {"batch": "independent"}, {"dense": True}], ids=str
)
@pytest.mark.parametrize("gradient", ["Backprop", "Checkpointed"])
def test_a_start_whose_gradient_is_infinite_is_refused_by_name(solver, how, gradient):
    y0 = torch.zeros((2, 1) if "batch" in how else 1, dtype=torch.float64, requires_grad=True)
    ys = pn.solve(TANK, y0, [0.0, 5.0], solver=solver, gradient=gradient, engine="torch", **how).ys
    with pytest.raises(pn.SolverError, match=r"the gradient is not finite.*start away from that point"):
        ys[-1].sum().backward()


@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P", "Kvaerno5"])
@pytest.mark.parametrize("gradient", ["InterpolatingAdjoint", "BacksolveAdjoint", "ForwardMode"])
def test_adjoints_that_end_in_such_a_start_and_sensitivities_that_begin_there_are_refused(solver, gradient):
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(
        pn.SolverError, match=f"a derivative of the field is not finite at the start.*{gradient} needs it"
    ):
        pn.solve(
            lambda t, h: 1 - k * torch.sqrt(h), torch.zeros(1, dtype=torch.float64), [0.0, 1.0, 2.0], parameters={"k": k},
            solver=solver, gradient=gradient, engine="torch",
        ).ys[-1].sum().backward()  # fmt: skip


def test_a_gradient_of_a_loss_that_is_not_finite_is_left_to_its_author():
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    for compiled in (True, False):
        ys = pn.solve(TANK, y0, [0.0, 5.0], compiled=compiled, engine="torch").ys
        assert torch.isnan(torch.autograd.grad((ys * torch.nan).sum(), y0)[0]).all()


# Rosenbrock methods differentiate the Jacobian, whose derivative with respect to the exponent is NaN in torch.
@pytest.mark.parametrize(
    "solver, compiled", [("Tsit5", False), ("Kvaerno5", False), *((name, True) for name in ("Tsit5", *STIFF))]
)
def test_the_gradient_by_an_exponent_of_zero(solver, compiled):
    """For x' = 1 - x x**p, p = 0, x(0) = 0: dx/dp = -exp(-t) times the integral of exp(s) x(s) log(x(s))."""
    s = np.linspace(0, 5, 200_001)[1:] - 5 / 400_000  # midpoints
    x = -np.expm1(-s)
    truth = -math.exp(-5) * float(np.sum(np.exp(s) * x * np.log(x))) * 5 / 200_000
    p = torch.zeros((), dtype=torch.float64, requires_grad=True)
    field = pn.Equations({"x": "1 - x*x**p"}, parameters={"p": 0.0})
    ys = pn.solve(
        field, torch.zeros(1, dtype=torch.float64), [0.0, 5.0], parameters={"p": p}, solver=solver, compiled=compiled,
        rtol=1e-7, atol=1e-10, engine="torch",
    ).ys  # fmt: skip
    assert float(torch.autograd.grad(ys[-1, 0], p)[0]) == pytest.approx(truth, rel=1e-4)
