"""Stochastic equations, and equations implicit in dy/dt, defined by a user's Python functions.

Every evaluation is as slow as in `python_fields`, and gradients are not available.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ArgumentError, SolverError
from ...problem import Control, Problem, Solution
from ...problem.problem import Noise, Residual
from .diffeqpy_modules import diffeqpy
from .python_callbacks import Callback, Start, finish, julia_failures, python_functions
from .session import with_julia

# The diffeqpy module of each solver for residuals; IDA is from Sundials.
RESIDUAL_MODULES = {"IDA": "de", "DFBDF": "ode"}


def solve_noise(problem: Problem, form: Noise, start: Start) -> Solution:
    """Solve the Ito equation ``dy = f(t, y) dt + g(t, y) dW`` with an independent Wiener process for each component."""
    solver, control = problem.solver.name, problem.control
    drift, noise = Callback(problem.field, start, 1, "f"), Callback(form.size, start, 1, "g")

    def integrate(Main: Any) -> Solution:
        from juliacall import convert

        de, functions, array = diffeqpy("de", Main), python_functions(Main), Main.collect
        small = array(start.small(control))
        pair = [functions.Slope(side, *side.inputs, side.output, small) for side in (drift, noise)]
        # StochasticDiffEq draws a random seed if the seed is 0.
        settings = _settings(control, start, Main) | {"seed": convert(Main.UInt64, form.seed + 1)}
        with julia_failures(Main):
            equations = de.SDEProblem(*pair, array(start.y0), start.span)
            solution = de.solve(equations, getattr(de, solver)(), **settings)
        _require_success(solution, solver, control, Main)
        return finish(solution, start, drift.calls, solver, False, Main)

    return with_julia(integrate)


def solve_residual(problem: Problem, form: Residual, start: Start) -> Solution:
    """Solve ``residual(t, y, dy/dt) = 0`` from y0 and its derivative dy0."""
    solver, control, dense, differential = problem.solver.name, problem.control, problem.dense, form.differential
    dy0 = start.array("dy0", form.dy0)
    function = Callback(problem.field, start, 2, "the residual")
    if differential is None:
        _require_consistent(function, start, dy0, control)
        marked = {}
    else:
        marked = {"differential_vars": start.array("differential", differential).astype(bool)}

    def integrate(Main: Any) -> Solution:
        module, functions, array = diffeqpy(RESIDUAL_MODULES[solver], Main), python_functions(Main), Main.collect
        slopes = functions.Residual(function, *function.inputs, function.output, array(start.small(control)))
        equations = module.DAEFunction(slopes, jac=functions.jacobian(slopes))
        # Unlike IDA, DFBDF differentiates the equations to find consistent initial values, and no Jacobian can be given
        # for this; DFBDF uses finite differences, because dual numbers cannot be passed to Python.
        method = module.IDA() if solver == "IDA" else module.DFBDF(autodiff=Main.PyNeuralODE.AutoFiniteDiff())
        settings = _settings(control, start, Main)
        if dense:
            del settings["saveat"], settings["save_everystep"]
        with julia_failures(Main):
            flags = {name: array(value) for name, value in marked.items()}
            implicit = module.DAEProblem(equations, array(dy0), array(start.y0), start.span, **flags)
            solution = module.solve(implicit, method, **settings)
        _require_success(solution, solver, control, Main)
        return finish(solution, start, function.calls, solver, dense, Main)

    return with_julia(integrate)


def _settings(control: Control, start: Start, Main: Any) -> dict[str, Any]:
    """Return the controls and the times as SciML's keywords."""
    times = Main.collect(start.ts)
    tolerances = {"reltol": control.rtol, "abstol": control.atol}
    settings = {name: Main.collect(value) if np.ndim(value) else float(value) for name, value in tolerances.items()}
    settings |= {"saveat": times, "save_everystep": False, "maxiters": int(control.max_steps), "verbose": False}
    if control.step_size is not None:
        # Steps end at the requested times, because these methods interpolate only linearly inside a step.
        return settings | {"adaptive": False, "dt": float(control.step_size), "tstops": times}
    largest = control.max_step if np.isfinite(control.max_step) else None
    sizes = {"dt": control.first_step, "dtmin": control.min_step or None, "dtmax": largest}
    return settings | {name: float(size) for name, size in sizes.items() if size is not None}


def _require_success(solution: Any, solver: str, control: Control, Main: Any) -> None:
    if not Main.PyNeuralODE.SciMLBase.successful_retcode(solution):
        t = float(solution.t[-1])
        raise SolverError(
            f"{solver} stopped after t = {t:g} with {solution.retcode}: loosen rtol and atol, increase "
            f"max_steps = {control.max_steps}, or look for a singularity there.",
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
