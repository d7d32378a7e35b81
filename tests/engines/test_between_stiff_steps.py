"""Stiff solvers: the accuracy of states inside steps, and Newton iterations whose changes are at rounding level."""

import numpy as np
import pytest
import torch

import pyneuralode as pn

TOLERANCE = 1e-8
STIFF = ["Rodas5P", "Kvaerno5", "KenCarp4", "AutoVern7(Rodas5P)"]
# x = sin t, which attracts all nearby solutions within a microsecond (Prothero and Robinson 1974).
FALL = pn.Equations({"x": "-lam*(x - a*sin(t)) + a*cos(t)"}, parameters={"lam": 1e6, "a": 1.0})


def fall(t, x):
    return -1e6 * (x - torch.sin(t)) + torch.cos(t)


def solve(field, ts, solver, y0=(0.0,), **settings):
    settings = {"rtol": TOLERANCE, "atol": TOLERANCE, **settings}
    return pn.solve(field, np.array(y0), ts, engine="torch", solver=solver, **settings)


def misses(ys, ts):
    """Return the errors in units of the tolerance."""
    truth = np.sin(np.asarray(ts))
    return np.abs(ys[:, 0] - truth) / (TOLERANCE * (1 + np.abs(truth)))


@pytest.mark.parametrize("solver", STIFF)
@pytest.mark.parametrize("count", [11, 100])
@pytest.mark.parametrize("path", ["compiled", "generic", "backwards"])
def test_states_at_times_inside_steps_are_as_good_as_at_their_ends(solver, count, path):
    if path == "generic" and solver == "KenCarp4":
        pytest.skip("its steps are so short that nothing is learned from them")
    ts = np.linspace(0, 10, count)
    field = FALL
    if path == "backwards":
        field, ts = pn.Equations({"x": "lam*(x - sin(t)) + cos(t)"}, parameters={"lam": 1e6}), -ts
    solution = solve(field, ts, solver, compiled=path != "generic")
    assert solution.engine == ("torch" if path == "generic" else "torch (compiled)")
    assert misses(solution.ys, ts).max() < 3
    alone = solve(field, ts[[0, -1]], solver, compiled=path != "generic")
    assert solution.accepted <= alone.accepted + 3 * count  # only a few additional steps, not short steps everywhere


@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5"])
def test_dense_output_is_as_good_as_the_ends(solver):
    ts = np.random.default_rng(0).uniform(0, 4, 200)
    assert misses(solve(fall, [0.0, 4.0], solver, dense=True)(ts), ts).max() < 3


@pytest.mark.parametrize("method", ["Backprop", "Checkpointed"])
@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5"])
def test_gradients_of_states_inside_steps(solver, method):
    """The solution is x = a sin t, so the gradient with respect to `a` is known exactly."""
    ts = torch.linspace(0, 4, 7, dtype=torch.float64)
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    parameters = {"lam": torch.tensor(1e6, dtype=torch.float64), "a": a}
    ys = pn.solve(
        FALL, torch.zeros(1, dtype=torch.float64), ts, engine="torch", parameters=parameters, gradient=method, solver=solver,
        rtol=TOLERANCE, atol=TOLERANCE,
    ).ys  # fmt: skip
    weights = torch.linspace(-1, 2, 7, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((ys[:, 0] * weights).sum(), a)
    assert float(gradient) == pytest.approx(float((torch.sin(ts) * weights).sum()), abs=2e-6)


@pytest.mark.parametrize("solver", ["Rosenbrock23", "Rodas5P", "KenCarp4"])
def test_steps_that_are_good_inside_stay_as_they_are(solver):
    """On Robertson's problem, output times inside steps do not change the steps and cost only a few evaluations."""
    robertson = pn.Equations(
        {"a": "k3*b*c - k1*a", "b": "k1*a - k3*b*c - k2*b*b", "c": "k2*b*b"},
        parameters={"k1": 0.04, "k2": 3e7, "k3": 1e4},
    )
    settings = {"y0": (1.0, 0.0, 0.0), "rtol": 1e-5, "atol": 1e-8}
    few, many = (solve(robertson, ts, solver, **settings) for ts in ([0.0, 1e4], np.linspace(0, 1e4, 200)))
    assert (many.accepted, many.rejected) == (few.accepted, few.rejected)
    assert few.nfev < many.nfev <= few.nfev + 3 * many.accepted


# Stages found by Newton's iteration, with last changes at rounding level.


@pytest.mark.parametrize("solver", ["Kvaerno5", "KenCarp4"])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-6), (np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("slope", [3.37, 0.1, -1e3, 1e-9])
def test_a_constant_slope_is_no_trouble(solver, dtype, tolerance, slope):
    y0 = np.array([-0.373, 100.0], dtype)
    solution = pn.solve(lambda t, y: 0 * y + slope, y0, [0.0, 1.0], solver=solver, rtol=tolerance, atol=tolerance)
    assert solution.rejected == 0 and solution.accepted < 20
    np.testing.assert_allclose(solution.ys[-1], y0 + dtype(slope), rtol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("solver", ["Kvaerno5", "KenCarp4"])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "generic"])
@pytest.mark.parametrize("rate", [1e-3, 1.0, 1e4])
def test_a_state_at_rest_is_no_trouble_at_the_tightest_tolerance(solver, compiled, rate):
    """The initial guess already satisfies the stage equations to rounding, and the tolerance is close to rounding."""
    field = pn.Equations({"x": "-rate*(x - 0.1*c)", "y": "rate*(0.3*x - y)"}, parameters={"rate": rate, "c": 7e3})
    rest = np.array([0.1 * 7e3, 0.3 * (0.1 * 7e3)])
    solution = solve(field, [0.0, 1.0, 10.0], solver, rest, compiled=compiled, rtol=1e-14, atol=1e-14)
    assert solution.rejected == 0 and solution.accepted < 30
    np.testing.assert_allclose(solution.ys[-1], rest, rtol=1e-13)
