"""Equations of other forms than ``dy/dt = f(t, y)``: with noise, with a mass matrix, implicit in dy/dt, or with delays.

Julia solves them with packages that diffeqpy loads. A described field (`VectorField`) crosses once, as a Julia
function; a Python function is called back at every evaluation, which is as slow as in `python_fields`. Gradients are
not available.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ArgumentError, SolverError
from ...fields import VectorField
from ...problem import Control, Problem, Solution
from ...problem.problem import Delays, MassMatrix, Noise, Residual
from ..backend import Backend, Prepared
from . import session
from .diffeqpy_modules import diffeqpy
from .lacking import lacking
from .python_callbacks import Callback, Start, finish, julia_failures, python_functions
from .python_fields import refuse_values, solve_slope
from .session import Handle, with_julia
from .transfer import field_request


class Forms(Backend):
    """The backend for problems with a `form`; no gradients."""

    name = "julia"

    def unsupported(self, problem: Problem) -> str | None:
        if (sentence := lacking(problem) or refuse_values(problem)) is not None:
            return sentence
        name, form, control = problem.solver.name, problem.form, problem.control
        if isinstance(form, Noise) and not problem.solver.adaptive and control.step_size is None:
            return f"step_size is None, but {name} does not choose its own steps: give a value, such as 0.01."
        if isinstance(form, Residual) and control.step_size is not None:
            return f"step_size is {control.step_size}, but {name} chooses its steps itself: leave step_size out."
        if isinstance(form, Residual) and np.ndim(control.rtol):
            return f"rtol has shape {np.shape(control.rtol)}, but {name} uses the same rtol for all components: give a number."
        return None

    def prepare(self, problem: Problem) -> FormPrepared:
        return FormPrepared(problem)


class FormPrepared(Prepared):
    """A prepared problem with a `form`."""

    engine = "julia (diffeqpy)"

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        return _solve(self.problem.form, self.problem, parameters, Start(self.problem, y0, ts))


@functools.singledispatch
def _solve(form: Any, problem: Problem, parameters: Mapping[str, Any], start: Start) -> Solution:
    """Solve a problem of this form."""
    raise TypeError(f"no equations have the form {type(form).__name__}")


class _Side:
    """A function f(t, y) in the equations: a described field with its parameters, or a Python function."""

    def __init__(self, field: Any, parameters: Mapping[str, Any], start: Start, name: str = "f"):
        self._described = isinstance(field, VectorField)
        if self._described:
            arrays = {key: np.asarray(value, dtype=start.y0.dtype) for key, value in parameters.items()}
            state = start.y0.reshape(start.shape if len(start.shape) == 1 else (-1, start.shape[-1])).T
            request = {"field": field_request(field), "parameters": arrays, "u0": state}
            self._handle = Handle(session.call("function", request)["handle"])
        else:
            self.callback = Callback(field, start, 1, name)

    def in_julia(self, Main: Any, small: Any) -> Any:
        """Return the function as an object in Julia; `small` is `Start.small` as a Julia array."""
        functions = python_functions(Main)
        if self._described:
            self._function = functions.Described(Main.PyNeuralODE.HANDLES[self._handle.number])
            return self._function
        callback = self.callback
        return functions.Slope(callback, *callback.inputs, callback.output, small)

    def calls(self) -> int:
        """Return the number of evaluations."""
        return int(self._function.calls[()]) if self._described else self.callback.calls


@_solve.register
def _(form: Noise, problem: Problem, parameters: Mapping[str, Any], start: Start) -> Solution:
    """Solve the Ito equation ``dy = f(t, y) dt + g(t, y) dW`` with an independent Wiener process for each component."""
    solver, control = problem.solver.name, problem.control
    drift = _Side(problem.field, parameters, start)
    noise = _Side(form.size, form.parameters or {}, start, name="g")

    def integrate(Main: Any) -> Solution:
        from juliacall import convert

        package, SciMLBase, array = diffeqpy("sde", Main), Main.PyNeuralODE.SciMLBase, Main.collect
        small = array(start.small(control))
        # StochasticDiffEq draws a random seed if the seed is 0.
        settings = _settings(control, start, Main) | {"seed": convert(Main.UInt64, form.seed + 1)}
        # Between steps, the path would be a straight line, which is too smooth for a random path.
        settings["tstops"] = array(start.ts)
        with julia_failures(Main):
            pair = [side.in_julia(Main, small) for side in (drift, noise)]
            equations = SciMLBase.SDEProblem(*pair, array(start.y0), start.span)
            solution = SciMLBase.solve(equations, getattr(package, solver)(), **settings)
        _require_success(solution, solver, control, Main)
        return finish(solution, start, drift.calls(), solver, False, Main)

    return with_julia(integrate)


@_solve.register
def _(form: MassMatrix, problem: Problem, parameters: Mapping[str, Any], start: Start) -> Solution:
    """Solve ``M dy/dt = f(t, y)``."""
    side, mass_matrix = _Side(problem.field, parameters, start), form.matrix

    def integrate(Main: Any) -> Solution:
        slope = side.in_julia(Main, Main.collect(start.small(problem.control)))
        return solve_slope(problem, slope, start, side.calls, Main, mass_matrix=Main.collect(mass_matrix))

    return with_julia(integrate)


@_solve.register
def _(form: Residual, problem: Problem, parameters: Mapping[str, Any], start: Start) -> Solution:
    """Solve ``residual(t, y, dy/dt) = 0`` from y0 and its derivative dy0."""
    solver, control, dense = problem.solver.name, problem.control, problem.dense
    dy0 = start.array("dy0", form.dy0)
    function = Callback(problem.field, start, 2, "the residual")
    if form.differential is None:
        _require_consistent(function, start, dy0, control)
        marked = {}
    else:
        marked = {"differential_vars": start.array("differential", form.differential).astype(bool)}

    def integrate(Main: Any) -> Solution:
        package, SciMLBase = diffeqpy("ida" if solver == "IDA" else "ode", Main), Main.PyNeuralODE.SciMLBase
        functions, array = python_functions(Main), Main.collect
        slopes = functions.Residual(function, *function.inputs, function.output, array(start.small(control)))
        equations = SciMLBase.DAEFunction(slopes, jac=functions.jacobian(slopes))
        # Unlike IDA, DFBDF differentiates the equations to find consistent initial values, and no Jacobian can be given
        # for this; DFBDF uses finite differences, because dual numbers cannot be passed to Python.
        method = package.IDA() if solver == "IDA" else package.DFBDF(autodiff=Main.PyNeuralODE.AutoFiniteDiff())
        settings = _settings(control, start, Main, dense)
        with julia_failures(Main):
            flags = {name: array(value) for name, value in marked.items()}
            implicit = SciMLBase.DAEProblem(equations, array(dy0), array(start.y0), start.span, **flags)
            solution = SciMLBase.solve(implicit, method, **settings)
        _require_success(solution, solver, control, Main)
        return finish(solution, start, function.calls, solver, dense, Main)

    return with_julia(integrate)


@_solve.register
def _(form: Delays, problem: Problem, parameters: Mapping[str, Any], start: Start) -> Solution:
    """Solve ``dy/dt = f(t, y(t), y(t - lag), ...)`` with constant lags, by the method of steps."""
    field, control, solver = problem.field, problem.control, problem.solver.name
    history = Callback(form.history, start, 0, "history")
    function = None if isinstance(field, str) else Callback(field, start, 1 + len(form.lags), "f")

    def integrate(Main: Any) -> Solution:
        package, functions, array = diffeqpy("dde", Main), python_functions(Main), Main.collect
        SciMLBase = Main.PyNeuralODE.SciMLBase
        lags = array(np.array(form.lags, dtype=float))
        with julia_failures(Main):
            past = functions.History(history, history.output)
            if function is None:
                slope, p = functions.delay_source(field, list(parameters), list(parameters.values()))
            else:
                slope = functions.Delayed(
                    function, function.inputs[0], Main.tuple(*function.inputs[1:]), function.output, lags
                )
                p = None
            equations = SciMLBase.DDEProblem(slope, array(start.y0), past, start.span, p, constant_lags=lags)
            method = package.MethodOfSteps(functions.algorithm(solver))
            # States that DelayDiffEq saves at requested times were wrong by up to 1.4 with DP5, DP8, FBDF and Rodas5P; its
            # solution as a function of time was right.
            settings = _settings(control, start, Main, dense=True)
            solution = SciMLBase.solve(equations, method, **settings)
        _require_success(solution, solver, control, Main)
        calls = int(solution.stats.nf) if function is None else function.calls
        found = finish(solution, start, calls, solver, True, Main)
        return found if problem.dense else replace(found, dense=None)

    return with_julia(integrate)


def _settings(control: Control, start: Start, Main: Any, dense: bool = False) -> dict[str, Any]:
    """Return the controls as SciML's keywords, with the times at which states are saved unless the output is dense."""
    times = Main.collect(start.ts)
    tolerances = {"reltol": control.rtol, "abstol": control.atol}
    settings = {name: Main.collect(value) if np.ndim(value) else float(value) for name, value in tolerances.items()}
    settings |= {"maxiters": int(control.max_steps), "verbose": False}
    if not dense:
        settings |= {"saveat": times, "save_everystep": False}
    if control.step_size is not None:
        return settings | {"adaptive": False, "dt": float(control.step_size), "tstops": times}
    largest = control.max_step if np.isfinite(control.max_step) else None
    sizes = {"dt": control.first_step, "dtmin": control.min_step or None, "dtmax": largest}
    return settings | {name: float(size) for name, size in sizes.items() if size is not None}


def _require_success(solution: Any, solver: str, control: Control, Main: Any) -> None:
    if not Main.PyNeuralODE.SciMLBase.successful_retcode(solution):
        t = float(solution.t[-1])
        raise SolverError(
            f"{solver} stopped with {solution.retcode}, after the saved time t = {t:g}: loosen rtol and atol, increase "
            f"max_steps = {control.max_steps}, or look for a singularity.",
            t,
        )


def _require_consistent(function: Callback, start: Start, dy0: np.ndarray, control: Control) -> None:
    """Raise unless the residual is zero at the first time: without `differential`, Julia cannot correct y0 and dy0."""
    for array, value in zip(function.inputs, (start.y0, dy0)):
        array[:] = value
    function(float(start.ts[0]))
    wrong = np.abs(function.output) > control.atol + control.rtol * np.maximum(np.abs(start.y0), np.abs(dy0))
    if wrong.any():
        where = int(wrong.argmax())
        raise ArgumentError(
            f"the residual is {function.output[where]:g} at the first time (flat index {where}): give a y0 and dy0 for "
            "which it is 0, or use differential to mark the components whose derivatives occur, so that Julia can correct y0 and dy0."
        )
