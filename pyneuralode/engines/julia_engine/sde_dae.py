"""A user's own Python functions in equations with noise, or implicit in the slope.

Every evaluation is as slow as in `python_fields`, and there are no gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...arguments import real_array
from ...errors import ArgumentError, SolverError
from ...problem import Control, Problem, Solution
from . import python_fields
from .diffeqpy_modules import diffeqpy
from .python_callbacks import Callback, Start, finish, julia_failures, python_functions
from .session import with_julia
from .transfer import refuse_tstops

SDE_SOLVERS = ("SOSRI", "SOSRA", "SRIW1", "SRA1", "EM")
# Which of diffeqpy's modules has them; IDA is Sundials'.
RESIDUAL_SOLVERS = {"IDA": "de", "DFBDF": "ode"}
# Those of our catalog that take a mass matrix with rows of zeros.
MASS_MATRIX_SOLVERS = ("Rodas5P", "Rosenbrock23", "FBDF")


def solve_noise(f: Callable, g: Callable, y0: Any, ts: Any, solver: str, control: Control, seed: int) -> Solution:
    """Solve Ito's ``dy = f(t, y) dt + g(t, y) dW`` with a Wiener process of its own for each component."""
    start = Start(y0, ts)
    if solver == "EM" and control.step_size is None:
        raise ArgumentError(
            "step_size is None, but EM does not choose its steps itself: give one, such as step_size=0.01."
        )
    control = start.control(control, control.step_size is None)
    drift, noise = Callback(f, start, 1, "f"), Callback(g, start, 1, "g")

    def integrate(Main: Any) -> Solution:
        from juliacall import convert

        de, functions, array = diffeqpy("de", Main), python_functions(Main), Main.collect
        small = array(start.small(control))
        pair = [functions.Slope(side, *side.inputs, side.output, small) for side in (drift, noise)]
        # StochasticDiffEq takes the seed 0 for "draw one".
        settings = _settings(control, start, Main) | {"seed": convert(Main.UInt64, seed + 1)}
        with julia_failures(Main):
            problem = de.SDEProblem(*pair, array(start.y0), _span(start))
            solution = de.solve(problem, getattr(de, solver)(), **settings)
        _require_success(solution, solver, control, Main)
        return finish(solution, start, drift.calls, solver, False, Main)

    return with_julia(integrate)


def solve_mass_matrix(
    f: Callable, y0: Any, ts: Any, mass_matrix: Any, solver: str, control: Control, dense: bool
) -> Solution:
    """Solve ``M dy/dt = f(t, y)``."""
    n, shape = np.size(y0), np.shape(mass_matrix)
    if shape != (n, n):
        raise ArgumentError(f"mass_matrix has shape {shape} and y0 {n} components: give shape {(n, n)}.")
    problem = Problem(f, {}, y0, ts, solver, control, None, dense)
    return python_fields.solve(problem, real_array("mass_matrix", mass_matrix).astype(float))


def solve_residual(
    residual: Callable,
    y0: Any,
    ts: Any,
    dy0: Any,
    differential: Any,
    solver: str,
    control: Control,
    dense: bool,
) -> Solution:
    """Solve ``residual(t, y, dy/dt) = 0`` from y0 and its slope dy0."""
    start = Start(y0, ts)
    control = start.control(control, True)
    if control.step_size is not None:
        raise ArgumentError(
            f"step_size is {control.step_size}, but {solver} chooses its steps itself: leave step_size out."
        )
    if np.ndim(control.rtol):
        raise ArgumentError(f"rtol has shape {np.shape(control.rtol)}, but {solver} takes one for all: give a number.")
    dy0 = start.array("dy0", dy0)
    function = Callback(residual, start, 2, "the residual")
    if differential is None:
        _require_consistent(function, start, dy0, control)
        marked = {}
    else:
        marked = {"differential_vars": start.array("differential", differential).astype(bool)}

    def integrate(Main: Any) -> Solution:
        module, functions, array = (
            diffeqpy(RESIDUAL_SOLVERS[solver], Main),
            python_functions(Main),
            Main.collect,
        )
        slopes = functions.Residual(function, *function.inputs, function.output, array(start.small(control)))
        equations = module.DAEFunction(slopes, jac=functions.jacobian(slopes))
        # Only DFBDF differentiates what is not given, the start's equations, by itself; dual numbers cannot
        # cross to Python.
        method = module.IDA() if solver == "IDA" else module.DFBDF(autodiff=Main.PyNeuralODE.AutoFiniteDiff())
        settings = _settings(control, start, Main)
        if dense:
            del settings["saveat"], settings["save_everystep"]
        with julia_failures(Main):
            flags = {name: array(value) for name, value in marked.items()}
            problem = module.DAEProblem(equations, array(dy0), array(start.y0), _span(start), **flags)
            solution = module.solve(problem, method, **settings)
        _require_success(solution, solver, control, Main)
        return finish(solution, start, function.calls, solver, dense, Main)

    return with_julia(integrate)


def _span(start: Start) -> tuple[float, float]:
    return float(start.ts[0]), float(start.ts[-1])


def _settings(control: Control, start: Start, Main: Any) -> dict[str, Any]:
    """Return the controls and the times as SciML's keywords."""
    refuse_tstops(control)
    times = Main.collect(start.ts)
    tolerances = {"reltol": control.rtol, "abstol": control.atol}
    settings = {name: Main.collect(value) if np.ndim(value) else float(value) for name, value in tolerances.items()}
    settings |= {
        "saveat": times,
        "save_everystep": False,
        "maxiters": int(control.max_steps),
        "verbose": False,
    }
    if control.step_size is not None:
        # Steps end at the times asked for; in between these methods interpolate by straight lines only.
        return settings | {"adaptive": False, "dt": float(control.step_size), "tstops": times}
    if control.first_step is not None:
        settings["dt"] = float(control.first_step)
    if control.min_step > 0:
        settings["dtmin"] = float(control.min_step)
    if np.isfinite(control.max_step):
        settings["dtmax"] = float(control.max_step)
    return settings


def _require_success(solution: Any, solver: str, control: Control, Main: Any) -> None:
    if not Main.PyNeuralODE.SciMLBase.successful_retcode(solution):
        t = float(solution.t[-1])
        raise SolverError(
            f"{solver} stopped after t = {t:g} with {solution.retcode}: loosen rtol and atol, raise "
            f"max_steps = {control.max_steps}, or look for a singularity there.",
            t,
        )


def _require_consistent(function: Callback, start: Start, dy0: np.ndarray, control: Control) -> None:
    """Raise unless the residual is zero at the start: without marks Julia would not know what to correct."""
    for array, value in zip(function.inputs, (start.y0, dy0)):
        array[:] = value
    function(float(start.ts[0]))
    wrong = np.abs(function.output) > control.atol + control.rtol * np.maximum(np.abs(start.y0), np.abs(dy0))
    if wrong.any():
        where = int(wrong.argmax())
        raise ArgumentError(
            f"the residual is {function.output[where]:g} at the start (flat index {where}): give a y0 and dy0 at "
            "which it is 0, or say in differential which components have a slope, and Julia finds the rest."
        )
