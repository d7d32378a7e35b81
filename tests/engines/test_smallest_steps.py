"""The smallest step size is limited by the rounding of the time: a solve continues with such steps if the error
allows it, and otherwise ends with an error."""

import math

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.errors import SolverError

FAR = 1e15  # neighboring float64 numbers differ by 1/8 here
DECAY = pn.Linear(((-0.01, 0.0), (0.0, -0.02)))
FORMULAS = pn.Equations({"a": "-k*a", "b": "-2*k*b"}, parameters={"k": 0.01})
SOLVERS = ["Tsit5", "Vern7", "Rodas5P", "Kvaerno5", "AutoTsit5(Rosenbrock23)"]


def decay(t, y):
    return y * torch.tensor([-0.01, -0.02], dtype=y.dtype)


def solve(f, y0, ts, **settings):
    return pn.solve(f, np.array(y0), ts, engine="torch", **settings)


def test_few_times_between_start_and_end_suffice():
    """The usual trial step of 1e-6, and a first step estimated from it, would not change a time of 1e15 at all."""
    span = np.array([0.0, 100.0, 1000.0])
    exact = np.exp(np.outer(span, [-0.01, -0.02]))
    cases = [(decay, solver, {"batch": batch}) for solver in SOLVERS for batch in ("joint", "independent")]
    cases += [(FORMULAS, solver, {"compiled": compiled}) for solver in SOLVERS for compiled in (True, False)]
    cases += [(DECAY, solver, {"compiled": compiled}) for solver in ("Tsit5", "Vern7") for compiled in (True, False)]
    for sign in (1, -1):
        for field, solver, settings in cases:
            start = [[1.0, 1.0]] if "batch" in settings else [1.0, 1.0]
            solution = solve(field, start, sign * FAR + span, solver=solver, **settings)
            np.testing.assert_allclose(solution.ys.reshape(3, 2), exact, atol=2e-5, err_msg=f"{solver} {settings}")


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "generic"])
def test_a_flow_between_times_far_from_zero(compiled):
    def log_prob(start):
        flow = pn.ContinuousFlow(
            DECAY, times=(start, start + 50.0), engine="torch", compiled=compiled, dtype=torch.float64
        )
        return flow.log_prob(torch.tensor([[0.3, -0.2], [1.0, 2.0]], dtype=torch.float64)).detach()

    torch.testing.assert_close(log_prob(FAR), log_prob(0.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "BS3"])
def test_times_in_nanoseconds(solver):
    """A zero initial state does not reveal the time scale; a first step suitable for seconds would exceed the span."""
    unit = 1e-9
    ts = unit * np.array([0.0, 0.13, 1.4])
    rates = {"a": 1.5, "b": 0.6, "k": 0.36, "unit": unit}
    units = {"x_": "x/unit", "y_": "y/unit"}
    formulas = pn.Equations({"x": "a - x_", "y": "x_/(k + x_) - b*y_"}, parameters=rates, let=units)
    settings = {"solver": solver, "rtol": 1e-4, "atol": 1e-5 * unit}
    for more in ({"compiled": True}, {"compiled": False}, {"batch": "independent"}):
        start = [[0.0, 0.0]] if "batch" in more else [0.0, 0.0]
        ys = solve(formulas, start, ts, **settings, **more).ys.reshape(3, 2) / unit
        np.testing.assert_allclose(
            ys[1:], [[0.18285685, 0.02464464], [1.13010455, 0.60921725]], rtol=2e-3
        )  # SciPy at a tolerance of 1e-12


@pytest.mark.parametrize("solver", SOLVERS)
def test_times_in_unix_milliseconds(solver):
    """Times near 1.7e12 ms are resolved to 0.00024 ms; the estimated first step for this slope is shorter than that."""
    start, hour = 1.7e12, 3.6e6

    def slope(t, y):
        phase = 2 * math.pi * (t - start) / hour
        return torch.stack([torch.cos(phase) * 2 * math.pi / hour, -50 * (y[1] - y[0])])

    ts = start + (np.array([0.0, 10.0]) if solver in ("Tsit5", "Vern7") else hour * np.arange(3) / 4)
    ys = solve(slope, [0.0, 0.0], ts, solver=solver, rtol=1e-6, atol=1e-6).ys
    np.testing.assert_allclose(ys[1:, 0], np.sin(2 * math.pi * (ts[1:] - start) / hour), atol=1e-4)
    np.testing.assert_allclose(ys[1:, 1], ys[1:, 0], atol=1e-4)


@pytest.mark.parametrize(
    "method", ["BacksolveAdjoint", "InterpolatingAdjoint", "Backprop", "Checkpointed", "ForwardMode"]
)
@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P"])
def test_gradients_between_times_that_almost_touch(method, solver):
    near = 0.3 + 3 * math.ulp(0.3)
    ts = [0.0, 0.3, near, 1.0, 1.0 + 2 * math.ulp(1.0)]
    k = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    ys = pn.solve(
        lambda t, y: -k * y, torch.ones(2, dtype=torch.float64), ts, parameters={"k": k}, gradient=method, solver=solver,
        engine="torch", rtol=1e-9, atol=1e-9,
    ).ys  # fmt: skip
    (gradient,) = torch.autograd.grad(ys[:, 0].sum(), k)
    exact = -sum(t * math.exp(-0.7 * t) for t in ts)
    assert float(gradient) == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize("path", ["generic", "batched", "formulas", "network"])
def test_min_step_is_a_bound_and_no_end(path):
    """The step control proposes a step below min_step; a step of min_step is accepted, since its error is small."""
    settings = {"solver": "BS3", "rtol": 1e-2, "atol": 1e-2, "first_step": 150.0, "min_step": 50.0}
    field = {"generic": decay, "batched": decay, "formulas": FORMULAS, "network": DECAY}[path]
    start, batch = ([[1.0, 1.0]], "independent") if path == "batched" else ([1.0, 1.0], "joint")
    solution = solve(field, start, [0.0, 200.0], batch=batch, **settings)
    assert np.min(solution.rejected) >= 1 and np.max(solution.accepted) <= 10
    np.testing.assert_allclose(solution.ys[-1].ravel(), np.exp([-2.0, -4.0]), atol=0.02)


# Problems that cannot be solved end early with an error.


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", ["generic", "compiled", "batched"])
@pytest.mark.parametrize("far", [0.0, 1e9])
def test_a_singularity_ends_a_solve_soon(solver, path, far):
    field = pn.Equations({"y": "y**2"}) if path == "compiled" else lambda t, y: y * y
    start, batch = ([[1.0]], "independent") if path == "batched" else ([1.0], "joint")
    with pytest.raises(
        SolverError, match=r"the step fell to .* below the minimum of .* \(rounding of t allows no shorter step\)"
    ) as caught:
        solve(field, start, [far, far + 2.0], solver=solver, batch=batch, rtol=1e-5, atol=1e-5, max_steps=3000)
    assert caught.value.t - far == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_a_step_of_min_step_with_too_large_an_error_ends_a_solve(batch):
    with pytest.raises(SolverError, match="below the minimum of 5, because the error stays above the tolerance"):
        solve(lambda t, y: -y * torch.cos(3 * t), [[1.0]], [0.0, 100.0], batch=batch, min_step=5.0)
