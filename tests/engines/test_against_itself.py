"""The same solve written in many ways gives the same solution: NumPy or torch, one sample or a batch, compiled or not,
either engine, times as a list, an array or a tensor."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import pyneuralode as pn
from pyneuralode import fields
from pyneuralode.dropin import odeint, odeint_adjoint
from pyneuralode.dropin.problem import METHODS
from pyneuralode.engines.torch_engine.dynamics import bind
from pyneuralode.errors import ArgumentError
from pyneuralode.gradients import gradients_of
from pyneuralode.solvers import SOLVERS, solvers_of

F64 = torch.float64
NAMES = solvers_of("torch")

# One field of every class; add new classes here.
FIELDS = {
    "MLP": pn.MLP((2, 6, 2), "tanh", input_map="cube", init_bias=0.3),
    "Linear": pn.Linear(((-0.2, 2.0), (-1.5, -0.1))),
    "SEIR": pn.SEIR(0.3, 3.0, 0.4),
    "Equations": pn.Equations({"x": "v", "v": "sin(t) - mu*sin(x) - 0.1*v*abs(v)"}, {"mu": 2.0}),
    "HyperMLP": pn.HyperMLP(2, 5, 4),
    "ConcatMLP": pn.ConcatMLP((3, 6, 3), init_bias=0.2),
    "GatedMLP": pn.GatedMLP((2, 6, 2)),
    "ConcatConv": pn.ConcatConv(1, 2, 2, (2,)),
}
TS = np.array([0.2, 0.35, 0.8, 1.1])


def tolerance_of(solver):
    return 1e-5 if SOLVERS[solver].order <= 3 or "23" in solver else 1e-7


def test_every_kind_of_field_is_here():
    ours = {name for name, kind in fields.registered_fields().items() if getattr(fields, name, None) is kind}
    assert set(FIELDS) == ours


@cache
def start_of(name):
    y0 = np.random.default_rng(3).uniform(0.1, 0.9, FIELDS[name].dim)
    return torch.tensor(y0 / y0.sum() if name == "SEIR" else y0)


@cache
def function_of(name):
    """Return the field as a function of (t, y), as a user would write it; t has shape (B, 1) for samples (B, d)."""
    field = FIELDS[name]
    parameters = {key: torch.tensor(value) for key, value in field.initial(0).items()}
    own, _ = bind(field, parameters)

    def of_samples(t, y):
        if t.ndim < 2:
            return own(t, y)
        return torch.cat([own(time.reshape(()), state[None]) for time, state in zip(t, y)])

    return of_samples


class Module(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.function, self.one = function_of(name), nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, t, y):
        return self.one * self.function(t, y)


def control_of(solver):
    adaptive, tolerance = SOLVERS[solver].adaptive, tolerance_of(solver)
    return {"solver": solver, "engine": "torch"} | (
        {"rtol": tolerance, "atol": tolerance} if adaptive else {"step_size": 0.06}
    )


@cache
def plain(name, solver):
    """Return the states (T, d) from the simplest solve: torch tensors, not compiled."""
    with torch.no_grad():
        return pn.solve(FIELDS[name], start_of(name), TS, compiled=False, **control_of(solver)).ys


# Ways to write the solve: functions of a field's name and the settings of a solve that return the states (T, d).


def in_numpy(name, settings):
    ys = pn.solve(FIELDS[name], start_of(name).numpy(), TS, compiled=False, **settings).ys
    assert isinstance(ys, np.ndarray)
    return ys


def as_a_list(name, settings):
    return pn.solve(FIELDS[name], start_of(name).tolist(), TS.tolist(), **settings).ys


def compiled(name, settings):
    return pn.solve(FIELDS[name], start_of(name), torch.tensor(TS), **settings).ys


def prepared_for_other_parameters(name, settings):
    model = pn.NeuralODE(FIELDS[name], seed=1, **settings)
    prepared = model.prepare(start_of(name), TS)
    values = {key: torch.tensor(value, requires_grad=True) for key, value in FIELDS[name].initial(0).items()}
    return prepared.solve(values, start_of(name), TS).ys


def as_a_callable(name, settings):
    return pn.solve(function_of(name), start_of(name), TS, **settings).ys


def as_a_module(name, settings):
    return pn.solve(Module(name), start_of(name), TS, **settings).ys


def as_a_model(name, settings):
    return pn.NeuralODE(FIELDS[name], **settings)(start_of(name), TS)


def as_a_tuple(name, settings):
    y0, call = start_of(name), function_of(name)

    def slope(t, parts):
        return tuple(call(t, torch.cat([parts[0].reshape(-1), parts[1]])).split([1, len(y0) - 1]))

    first, others = pn.solve(slope, (y0[:1], y0[1:]), TS, **settings).ys
    return torch.cat([first, others], dim=1)


def as_a_matrix(name, settings):
    """Solve with the state as a matrix of one column."""
    call = function_of(name)
    return pn.solve(lambda t, y: call(t, y[:, 0])[:, None], start_of(name)[:, None], TS, **settings).ys[..., 0]


def as_a_batch_of_one(name, settings):
    return pn.solve(FIELDS[name], start_of(name)[None], TS, **settings).ys[:, 0]


def independent_formulas(name, settings):
    y0 = start_of(name)
    return pn.solve(FIELDS[name], torch.stack([0.5 * y0, y0]), TS, batch="independent", **settings).ys[:, 1]


def independent_callable(name, settings):
    y0 = start_of(name)
    rows = [np.array([0.1, 0.3]), TS, TS[::-1]]
    samples = torch.stack([0.5 * y0, y0, y0])
    return pn.solve(function_of(name), samples, rows, batch="independent", **settings).ys[1]


def of_a_view(name, settings):
    """Solve from an initial state that is a reversed view of every second number of a read-only array."""
    wide = np.repeat(start_of(name).numpy()[::-1], 2)
    wide.flags.writeable = False
    return pn.solve(FIELDS[name], wide[::-2], TS, **settings).ys


def dense_there(name, settings):
    solution = pn.solve(FIELDS[name], start_of(name), TS[[0, -1]], dense=True, **settings)
    return solution(TS)


def watching_an_event(name, settings):
    """Solve with an event that never occurs."""
    event = pn.Event(lambda t, y: y.sum() + 100)
    return pn.solve(FIELDS[name], start_of(name), TS, events=event, **settings).ys


def with_gradients(method):
    def way(name, settings):
        values = {key: torch.tensor(value, requires_grad=True) for key, value in FIELDS[name].initial(0).items()}
        start = start_of(name).clone().requires_grad_()
        return pn.solve(FIELDS[name], start, TS, parameters=values, gradient=method, compiled=False, **settings).ys

    return way


WAYS = {
    way.__name__: way
    for way in (
        in_numpy, as_a_list, compiled, prepared_for_other_parameters, as_a_callable, as_a_module, as_a_model, as_a_tuple, as_a_matrix,
        as_a_batch_of_one, independent_formulas, independent_callable, of_a_view, dense_there, watching_an_event,
    )
} | {f"with {method}": with_gradients(method) for method in gradients_of("torch")}  # fmt: skip
EVERY = 5  # every way is tested with every solver, each for about one field in five


def solvers_for(name, way):
    shift = list(FIELDS).index(name) + list(WAYS).index(way)
    return [solver for i, solver in enumerate(NAMES) if (i + shift) % EVERY == 0]


def test_every_way_sees_every_solver_and_every_field():
    for way in WAYS:
        assert {solver for name in FIELDS for solver in solvers_for(name, way)} == set(NAMES)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FIELDS)
def test_another_way_to_say_it_says_the_same(name, way):
    for solver in solvers_for(name, way):
        settings = control_of(solver)
        if way == "watching_an_event" and "step_size" not in settings and not SOLVERS[solver].adaptive:
            continue
        ys = np.asarray(torch.as_tensor(WAYS[way](name, settings)).detach())
        expected = plain(name, solver).numpy()
        assert ys.shape == expected.shape and ys.dtype == np.float64
        # The steps are the same, except for the residuals of Newton's iteration.
        free = SOLVERS[solver].kind == "sdirk" or way == "with ForwardMode"  # ForwardMode may choose other steps
        bound = 10 * tolerance_of(solver) if free else 1e-10
        np.testing.assert_allclose(ys, expected, rtol=0, atol=bound, err_msg=f"{name}, {way}, {solver}")


# Times.

LATE = 1e4  # float32 resolves times only to 1e-3 there, much coarser than the error bounds
WHOLE = [0, 1, 2]

TIMES = {
    "a list": list,
    "a tuple": tuple,
    "a list of NumPy's numbers": lambda ts: list(np.array(ts)),
    "an array": np.array,
    "a tensor": lambda ts: torch.tensor(ts, dtype=F64),
    "a view of an array": lambda ts: np.repeat(np.array(ts), 2)[::2],
    "an array backwards": lambda ts: np.array(ts[::-1])[::-1],
    "a column of a table": lambda ts: np.stack([ts, ts], axis=1)[:, 0],
}
OF_WHOLE = TIMES | {
    "a list of ints": lambda ts: [int(t) for t in ts],
    "ints and floats": lambda ts: [int(t) if i % 2 else float(t) for i, t in enumerate(ts)],
    "an array of ints": lambda ts: np.array(ts, dtype=np.int64),
    "an array of small ints": lambda ts: np.array(ts, dtype=np.int16),
    "float32": lambda ts: np.array(ts, dtype=np.float32),
    "a float32 tensor": lambda ts: torch.tensor(ts, dtype=torch.float32),
    "float16": lambda ts: np.array(ts, dtype=np.float16),
}


def never(t, y):
    return y.sum(-1) + 100


def event(t, y):
    """Return a condition that crosses zero at t = LATE + 0.3."""
    return t.reshape(y.shape[:-1]) - (LATE + 0.3)


SWING = pn.Equations({"x": "v", "v": "-9*x + 0*t"})
FAST = pn.Equations({"x": "-30*(x - cos(t))"})


def swing(t, y):
    return torch.stack([y[..., 1], -9 * y[..., 0]], dim=-1)


Y0 = torch.tensor([1.0, 0.0], dtype=F64)
TIGHT = {"rtol": 1e-8, "atol": 1e-8, "engine": "torch"}

# Solves with times in every form, each returning the states (T, 2).
DOORS = {
    "compiled": lambda ts: pn.solve(SWING, Y0, ts, solver="Vern7", **TIGHT).ys,
    "NumPy": lambda ts: pn.solve(SWING, Y0.numpy(), ts, solver="Vern7", compiled=False, **TIGHT).ys,
    "callable": lambda ts: pn.solve(swing, Y0, ts, solver="DP8", **TIGHT).ys,
    "stiff": lambda ts: pn.solve(SWING, Y0, ts, solver="Rodas5P", **TIGHT).ys,
    "independent formulas": lambda ts: pn.solve(SWING, Y0[None], ts, batch="independent", solver="Vern7", **TIGHT).ys[
        :, 0
    ],
    "independent callable": lambda ts: pn.solve(swing, Y0[None], ts, batch="independent", solver="Vern7", **TIGHT).ys[
        :, 0
    ],
    "independent rows": lambda ts: pn.solve(swing, Y0[None], [ts], batch="independent", solver="Vern7", **TIGHT).ys[0],
    "dense": lambda ts: pn.solve(swing, Y0, [ts[0], ts[-1]], dense=True, solver="Vern7", **TIGHT)(ts),
    "events": lambda ts: pn.solve(swing, Y0, ts, events=pn.Event(never), solver="Vern7", **TIGHT).ys,
    "independent events": lambda ts: pn.solve(
        swing, Y0[None], ts, batch="independent", events=pn.Event(never), solver="Vern7", **TIGHT
    ).ys[:, 0],
    "model": lambda ts: pn.NeuralODE(SWING, solver="Vern7", **TIGHT)(Y0, ts),
    **{
        method: lambda ts, method=method: pn.solve(
            swing, Y0.clone().requires_grad_(), ts, gradient=method, solver="Vern7", **TIGHT
        ).ys.detach()
        for method in gradients_of("torch")
    },
}


def swung(ts):
    since = np.array([float(t) - float(ts[0]) for t in ts])
    return np.stack([np.cos(3 * since), -3 * np.sin(3 * since)], axis=1)


@pytest.mark.parametrize("door", DOORS)
def test_whole_times_in_any_form_and_any_direction(door):
    for i, (form, make) in enumerate(OF_WHOLE.items()):
        ts = [-t for t in WHOLE] if i % 2 else WHOLE
        np.testing.assert_allclose(np.asarray(DOORS[door](make(ts))), swung(ts), rtol=0, atol=1e-6, err_msg=form)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", TIMES)
def test_times_that_single_precision_cannot_hold(form, door):
    ts = [LATE, LATE + 0.1, LATE + 0.7, LATE + 0.7001]
    np.testing.assert_allclose(np.asarray(DOORS[door](TIMES[form](ts))), swung(ts), rtol=0, atol=1e-6)


@pytest.mark.parametrize("independent", [False, True], ids=["joint", "independent"])
@pytest.mark.parametrize("form", TIMES)
def test_events_between_times_that_single_precision_cannot_hold(form, independent):
    ts = [LATE, LATE + 0.1, LATE + 0.7]
    y0, more = (Y0[None], {"batch": "independent"}) if independent else (Y0, {})
    solution = pn.solve(
        swing, y0, TIMES[form](ts), events=pn.Event(event, terminal=False), solver="Vern7", **TIGHT, **more
    )
    assert solution.events.times.tolist() == pytest.approx([LATE + 0.3], abs=1e-7)
    np.testing.assert_allclose(solution.events.states.reshape(1, 2), swung([LATE, LATE + 0.3])[1:], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(solution.ys).reshape(3, 2), swung(ts), rtol=0, atol=1e-6)


@pytest.mark.parametrize("door", DOORS)
def test_rounded_times_are_the_rounded_ones(door):
    """float32 times have exactly their stored values, even where those are not exactly 0.1 or 0.7."""
    ts = np.array([0.0, 0.1, 0.7], dtype=np.float32)
    for given in (ts, torch.tensor(ts)):
        np.testing.assert_allclose(np.asarray(DOORS[door](given)), swung(ts), rtol=0, atol=1e-6)


def test_a_tensor_of_ints_is_answered():
    with pytest.raises(ArgumentError, match="ts.double()"):
        pn.solve(swing, Y0, torch.arange(3), engine="torch")


@pytest.mark.parametrize("form", TIMES)
def test_single_precision_states_take_times_in_double(form):
    """Step times are computed in double precision; only the state and the time passed to the field are float32."""
    ts = [LATE, LATE + 0.1, LATE + 0.7]
    for dynamics, compiled in ((SWING, True), (SWING, False), (swing, True)):
        ys = pn.solve(dynamics, Y0.float(), TIMES[form](ts), rtol=1e-5, atol=1e-5, compiled=compiled, engine="torch").ys
        np.testing.assert_allclose(ys.numpy(), swung(ts), rtol=0, atol=1e-3)


# torchdiffeq's interface.

SAME_STEPS = {"euler": "Euler", "midpoint": "Midpoint", "heun2": "Heun", "rk4": "RK38"}
ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver")
SEVERAL_STEPS = ("heun3", "explicit_adams", "implicit_adams", "fixed_adams")


def test_every_method_of_odeint_is_here():
    assert {*SAME_STEPS, *ADAPTIVE, *SEVERAL_STEPS} == set(METHODS)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("method", METHODS)
def test_odeint_says_what_solve_says(method, name):
    call, y0, t = function_of(name), start_of(name), torch.tensor(TS)
    settings, expected, bound = {"method": method}, pn.solve(call, y0, TS, solver="Vern7", **TIGHT).ys, 1e-3
    if method in SAME_STEPS:
        settings["options"], bound = {"step_size": 0.05}, 1e-10
        ts = np.round(np.arange(TS[0], TS[-1] + 0.01, 0.05), 12)  # every output time is on this grid
        expected = pn.solve(call, y0, ts, solver=SAME_STEPS[method], engine="torch").ys[np.searchsorted(ts, TS - 1e-9)]
    elif method in ADAPTIVE:
        # Outputs are interpolated, and dopri8's interpolant is inaccurate, so the steps are kept short.
        settings |= {"rtol": 1e-6, "atol": 1e-6, "options": {} if method == "scipy_solver" else {"max_step": 0.1}}
    else:
        # The explicit Adams method is unstable unless its steps are very short; see `pyneuralode.dropin.adams`.
        settings["options"] = {"step_size": 0.02, "max_order": 4} if "adams" in method else {"step_size": 0.02}
    np.testing.assert_allclose(odeint(call, y0, t, **settings), expected, rtol=0, atol=bound)
    if method != "scipy_solver":
        ys = odeint_adjoint(call, y0, t, adjoint_params=(), **settings)
        np.testing.assert_allclose(ys, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams"])
def test_odeint_of_a_tuple_says_the_same(method, name):
    call, y0, t = function_of(name), start_of(name), torch.tensor(TS)

    def slope(t, parts):
        return tuple(call(t, torch.cat(parts)).split([1, len(y0) - 1]))

    whole = odeint(call, y0, t, method=method, rtol=1e-8, atol=1e-8)
    parts = odeint(slope, (y0[:1], y0[1:]), t, method=method, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-6)


# Julia.


@pytest.mark.parametrize("solver", [name for name in SOLVERS if "julia" in SOLVERS[name].engines])
@pytest.mark.parametrize("name", FIELDS)
def test_julia_says_the_same(name, solver, julia):
    kind = SOLVERS[solver]
    order = 1e-9 if kind.order > 3 else 1e-7
    settings = {"rtol": order, "atol": order} if kind.adaptive else {"step_size": 1e-3}
    with torch.no_grad():
        truth = pn.solve(FIELDS[name], start_of(name), TS, solver="Vern7", **TIGHT).ys.numpy()
        ys = pn.solve(FIELDS[name], start_of(name).numpy(), TS, solver=solver, engine="julia", **settings).ys
    bound = 3e-3 if solver == "Euler" else 1e-5
    np.testing.assert_allclose(ys, truth, rtol=0, atol=bound)


def test_julia_takes_times_in_any_form(julia):
    for form, make in OF_WHOLE.items():
        ys = pn.solve(SWING, Y0.numpy(), make(WHOLE), solver="Vern7", **(TIGHT | {"engine": "julia"})).ys
        np.testing.assert_allclose(ys, swung(WHOLE), rtol=0, atol=1e-7, err_msg=form)
