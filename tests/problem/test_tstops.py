"""`tstops`, times at which a step must end: no solver, gradient method or kind of model misses a short dose."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.julia_engine.backend import JULIA
from pyneuralode.engines.julia_engine.transfer import plain_control
from pyneuralode.flows.dynamics import solve_integrals

# x' = -K x + RATE during the dose, x' = -K x otherwise; x(0) = 0.
K, RATE, BEGIN, END, LAST = 0.3, 40.0, 5.0, 5.05, 20.0
STOPS = [END, 99.0, BEGIN]  # unordered, and one of them outside the span
TIMES = [0.0, 4.0, 5.03, 9.0, LAST]


def exact(t, rate=RATE, k=K):
    t = np.asarray(t, dtype=float)
    during = rate / k * (1 - np.exp(-k * (np.clip(t, BEGIN, END) - BEGIN)))
    return during * np.exp(-k * np.maximum(t - END, 0))


def dosed(t, x, rate=RATE):
    return rate * ((t >= BEGIN) & (t < END)) - K * x


def solve(f=dosed, x0=(0.0,), ts=TIMES, tstops=STOPS, **settings):
    return pn.solve(f, np.array(x0), ts, engine="torch", tstops=tstops, **{"rtol": 1e-8, "atol": 1e-8, **settings})


SOLVERS = ["BS3", "Tsit5", "DP8", "Rodas5P", "Kvaerno5", "AutoTsit5(Rosenbrock23)"]


def loose(solver):
    return {"rtol": 1e-5, "atol": 1e-5} if solver in ("BS3", "AutoTsit5(Rosenbrock23)") else {}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_dose_shorter_than_a_step_is_seen(solver):
    missed = solve(solver=solver, ts=[0.0, LAST], tstops=(), **loose(solver)).ys[:, 0]
    assert np.all(missed == 0)  # without tstops, the solver misses the dose
    tolerance = 50 * loose(solver).get("rtol", 1e-8)
    np.testing.assert_allclose(solve(solver=solver, **loose(solver)).ys[:, 0], exact(TIMES), atol=tolerance)


@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P"])
def test_a_dose_is_seen_by_a_solve_back_in_time(solver):
    def dosed_backwards(t, x):  # at a jump, the value after it in the direction of the solve
        return RATE * ((t > BEGIN) & (t <= END)) - K * x

    back = solve(dosed_backwards, x0=[exact(12.0)], ts=[12.0, 5.02, 1.0], solver=solver).ys[:, 0]
    np.testing.assert_allclose(back, exact([12.0, 5.02, 1.0]), atol=5e-7)


@pytest.mark.parametrize("settings", [{"step_size": 0.3}, {}], ids=["step_size", "from time to time"])
@pytest.mark.parametrize("solver, last", [("Euler", 0.0), ("Midpoint", 0.0), ("RK4", 1 / 6)])
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_fixed_steps_end_there_too(solver, last, settings, batch):
    """For a slope that jumps from 0 to 1 at BEGIN, only the last stage (weight `last`) of one step causes an error."""

    def ramp(t, x):
        return (t >= BEGIN).to(x.dtype) + 0 * x

    ts = np.linspace(0, 10, 12)
    ys = solve(ramp, [[0.0]], ts, [BEGIN], solver=solver, batch=batch, **settings).ys[-1, 0, 0]
    across = 0.2 if settings else BEGIN - ts[ts < BEGIN][-1]
    assert ys == pytest.approx(10 - BEGIN + last * across, abs=1e-12)
    assert abs(solve(ramp, [[0.0]], ts, (), solver=solver, batch=batch, **settings).ys[-1, 0, 0] - ys) > 1e-3


METHODS = ["Backprop", pn.Checkpointed(every=3), "BacksolveAdjoint", "InterpolatingAdjoint", "ForwardMode"]


@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method if isinstance(method, str) else "Checkpointed")
def test_gradients_see_the_dose(solver, method):
    rate = torch.tensor(RATE, dtype=torch.float64, requires_grad=True)
    x0 = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    ys = pn.solve(
        lambda t, x: dosed(t, x, rate), x0, TIMES, engine="torch", parameters={"rate": rate}, gradient=method, solver=solver,
        tstops=STOPS, rtol=1e-6, atol=1e-6,
    ).ys  # fmt: skip
    by_rate, by_start = torch.autograd.grad(ys.sum(), (rate, x0))
    assert float(by_rate) == pytest.approx(exact(TIMES, 1.0).sum(), abs=1e-5)
    assert float(by_start) == pytest.approx(np.exp(-K * np.array(TIMES)).sum(), rel=1e-5)


def test_dense_output_and_events_see_the_dose():
    solution = solve(dense=True)
    np.testing.assert_allclose(solution([4.9, 5.01, 5.2])[:, 0], exact([4.9, 5.01, 5.2]), atol=1e-6)
    rising = pn.Event(lambda t, x: x[0] - 1.0, direction=1)
    met = solve(events=rising)
    moment = BEGIN - math.log(1 - K / RATE) / K
    assert met.events.times[0] == pytest.approx(moment, abs=1e-8)


@pytest.mark.parametrize(
    "ts", [TIMES, np.array([TIMES, [3.0, 5.01, 5.04, 6.0, 8.0], [7.0, 5.02, 4.0, 3.0, 2.0]])], ids=str
)
@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P"])
def test_every_sample_of_a_batch_stops_there(ts, solver):
    rows = np.broadcast_to(np.asarray(ts), (3, 5))
    starts = exact(rows[:, 0])[:, None]
    ys = solve(x0=starts, ts=ts, batch="independent", solver=solver).ys
    ys = ys[..., 0].T if np.ndim(ts) == 1 else ys[..., 0]
    np.testing.assert_allclose(
        ys, exact(rows), atol=1e-5
    )  # for samples solved backward, the slope has the wrong value exactly at the jumps


# Compiled solves: a linear field, which does not depend on time, and formulas with smooth pulses.

LINEAR = pn.Linear(((-0.02, -0.1), (0.1, -0.02)))
MANY = np.linspace(0.05, 9.95, 67)


@pytest.mark.parametrize("method", ["Backprop", pn.Checkpointed(every=5)], ids=["Backprop", "Checkpointed"])
@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize(
    "field",
    [LINEAR, pn.Equations({"x": "-k*x - y", "y": "x - k*y"}, parameters={"k": 0.02})],
    ids=["network", "formulas"],
)
def test_compiled_steps_end_there_as_generic_ones_do(field, batch, method):
    def run(compiled, tstops):
        parameters = {name: torch.tensor(value).requires_grad_() for name, value in field.initial(0).items()}
        y0 = torch.tensor([[1.0, 0.5], [0.3, -1.0]], dtype=torch.float64, requires_grad=True)
        solution = pn.solve(
            field, y0, [0.0, 3.3, 10.0], engine="torch", compiled=compiled, parameters=parameters, gradient=method, batch=batch,
            tstops=tstops, rtol=1e-4, atol=1e-4,
        )  # fmt: skip
        gradients = torch.autograd.grad(solution.ys.square().sum(), (y0, *parameters.values()))
        return solution, gradients

    (fast, fast_gradients), (slow, slow_gradients) = run(True, MANY), run(False, MANY)
    assert fast.engine == "torch (compiled)" and slow.engine == "torch"
    assert np.min(fast.accepted) > len(MANY) and np.array_equal(fast.accepted, slow.accepted)
    assert np.max(run(True, ())[0].accepted) < len(MANY)
    torch.testing.assert_close(fast.ys, slow.ys, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(fast_gradients, slow_gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P", "Kvaerno5", "AutoTsit5(Rosenbrock23)"])
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_formulas_see_a_short_pulse(solver, batch):
    pulse = pn.Equations({"x": "a*exp(-((t - 5)/0.01)**2)"}, parameters={"a": 3.0})
    x0, loosely = [[0.0], [1.0]], {"rtol": 1e-5, "atol": 1e-5} if solver.startswith("Auto") else {}
    solution = solve(pulse, x0, [0.0, 10.0], [4.9, 5.0, 5.1], solver=solver, batch=batch, **loosely)
    assert solution.engine == "torch (compiled)"
    gained = (solution.ys[-1] - np.array(x0))[:, 0]
    np.testing.assert_allclose(gained, 3 * 0.01 * math.sqrt(math.pi), atol=1e-4 if loosely else 1e-6)
    np.testing.assert_allclose(solve(pulse, x0, [0.0, 10.0], (), solver=solver, batch=batch).ys[-1], x0, atol=1e-12)


def test_a_size_that_a_stop_cut_short_is_not_forgotten():
    """After a step shortened to 1e-9 by a stop, the previous step size is used instead of growing slowly from 1e-9."""
    ends = np.linspace(1, 9, 9)
    stops = np.sort(np.concatenate([ends, ends + 1e-9]))
    for settings in ({"compiled": True}, {"compiled": False}, {"batch": "independent", "compiled": False}):
        solution = solve(LINEAR, [[1.0, 0.0]], [0.0, 10.0], stops, rtol=1e-5, atol=1e-5, **settings)
        assert np.max(solution.accepted + solution.rejected) < 40


def test_flows_stop_there():
    def steps(compiled, tstops, span):
        flow = pn.ContinuousFlow(
            pn.HyperMLP(dim=2, width=4, hidden=4), engine="torch", compiled=compiled, seed=1, tstops=tstops
        )
        state = torch.linspace(-1, 1, 10).view(5, 2)
        with torch.no_grad():
            return solve_integrals(flow, state, span, None)

    stops = np.linspace(0.01, 0.99, 60)
    for span in ((0.0, 1.0), (1.0, 0.0)):
        fast, slow, free = steps(True, stops, span), steps(False, stops, span), steps(True, (), span)
        assert fast.accepted == slow.accepted >= 61 > 3 * free.accepted
        torch.testing.assert_close(fast.ys, slow.ys)
        torch.testing.assert_close(fast.integrals.trace, slow.integrals.trace)
        torch.testing.assert_close(fast.ys, free.ys, rtol=1e-3, atol=1e-3)


def test_models_keep_them(tmp_path):
    model = pn.NeuralODE(LINEAR, engine="torch", tstops=np.array([3, 1]))
    assert model.control.tstops == (1.0, 3.0)
    model.save(tmp_path / "model.safetensors")
    again = pn.load(tmp_path / "model.safetensors")
    assert again.control == model.control
    ts = [0.0, 2.0, 4.0]
    np.testing.assert_array_equal(again.solve([1.0, 0.0], ts).ys, model.solve([1.0, 0.0], ts).ys)
    flow = pn.ContinuousFlow(pn.MLP((2, 4, 2)), engine="torch", tstops=[0.5])
    flow.save(tmp_path / "flow.safetensors")
    assert pn.load(tmp_path / "flow.safetensors").control.tstops == (0.5,)


@pytest.mark.parametrize("wrong", [5.0, [math.nan], [math.inf, 1.0], ["a"], [[1.0, 2.0]], [1j], [True], None], ids=str)
def test_what_are_no_times_is_refused(wrong):
    with pytest.raises(pn.ArgumentError, match=r"tstops is .*: give a sequence of finite times"):
        solve(tstops=wrong)


def test_julia_gets_the_controls_that_it_has_and_no_tstops():
    source = (Path(pn.__file__).parents[1] / "julia" / "src" / "control.jl").read_text()
    signature = re.search(r"^function Control\(; (.*?)\)$", source, re.MULTILINE | re.DOTALL)[1]
    assert set(plain_control(pn.Control())) == set(re.findall(r"(\w+) =", signature))
    asked = pn.NeuralODE(LINEAR, tstops=[1.0]).settings().problem(LINEAR.initial(), np.ones(2), [0.0, 2.0])
    assert JULIA.unsupported(asked) == "tstops are given, which the Julia engine does not support yet: leave them out."
