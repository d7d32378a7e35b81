"""The path for a user's own Python functions, solved by Julia through diffeqpy.

This is the slow path: every evaluation leaves Julia's compiled code for Python and comes back. That takes 1.2 us in
addition to the Python function's own time (0.4 us for one line of NumPy), measured on one core, whereas a 2-50-2
network described as an `MLP` takes 0.3 us in total. Gradients are not available. The purpose of this path is to provide
the solvers that the torch engine does not have, for right-hand sides that can only be written in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from ...fields import VectorField
from ...problem import Control, Problem, Solution
from ..backend import Backend, Prepared
from .diffeqpy_modules import diffeqpy
from .lacking import lacking
from .python_callbacks import Callback, Start, finish, julia_failures, python_functions
from .session import with_julia
from .transfer import plain_control


class PythonFields(Backend):
    """The backend for Python functions of NumPy arrays; no gradients."""

    name = "julia"

    @staticmethod
    def is_for(field: Any) -> bool:
        """Return whether a field is a plain Python function."""
        return not isinstance(field, (VectorField, nn.Module))

    def unsupported(self, problem: Problem) -> str | None:
        return lacking(problem) or refuse_values(problem)

    def prepare(self, problem: Problem) -> PythonPrepared:
        return PythonPrepared(problem)

    def yields(self, problem: Problem) -> str | None:
        return "the field is a Python callable, which Julia would have to call back at every step"


class PythonPrepared(Prepared):
    """A prepared problem whose field is a Python function; Julia calls Python at every evaluation."""

    engine = "julia (diffeqpy)"

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        problem, start = self.problem, Start(self.problem, y0, ts)
        field = Callback(problem.field, start, inputs=1)

        def integrate(Main: Any) -> Solution:
            small = Main.collect(start.small(problem.control))
            slope = python_functions(Main).Slope(field, *field.inputs, field.output, small)
            return solve_slope(problem, slope, start, lambda: field.calls, Main)

        return with_julia(integrate)


def refuse_values(problem: Problem) -> str | None:
    """Return why Julia does not accept the values of a problem without gradients, or its batch; None if it does."""
    signature = problem.signature
    if problem.batch != "joint":
        return f"batch is {problem.batch!r}, which Julia does not support with a Python function: leave it out."
    if signature.parameters and not isinstance(problem.field, (VectorField, str)):
        return (
            f"parameters contains {', '.join(signature.parameters)}, but Julia computes no gradients of a Python function: leave "
            "parameters out."
        )
    if signature.layout.is_tuple:
        return "y0 is a tuple, which Julia does not support with a Python function: join its parts into one array."
    if not signature.layout.numpy:
        return (
            "y0 is a torch tensor, but Julia calls Python functions with NumPy arrays and computes no gradients: write "
            "y0.numpy()."
        )
    return None


def solve_slope(
    problem: Problem, slope: Any, start: Start, calls: Callable[[], int], Main: Any, **options: Any
) -> Solution:
    """Solve ``dy/dt = f(t, y)`` or, with the option `mass_matrix`, ``M dy/dt = f(t, y)``.

    `slope` is f as an object in Julia, and `calls` returns the number of its evaluations.
    """
    name, ode, functions, array = problem.solver.name, diffeqpy("ode", Main), python_functions(Main), Main.collect
    at_times = {"saveat": array(start.ts), "save_everystep": False, "dense": False}
    saving = {"dense": True} if problem.dense else at_times
    with julia_failures(Main):
        equations = ode.ODEFunction(slope, jac=functions.jacobian(slope), tgrad=functions.time_slope(slope), **options)
        initial_value_problem = ode.ODEProblem(equations, array(start.y0), start.span)
        controls = _controls(problem.control, Main)
        solution = functions.integrate(initial_value_problem, name, array(start.ts), controls, **saving)
    return finish(solution, start, calls(), name, problem.dense, Main)


def _controls(control: Control, Main: Any) -> Any:
    """Return the controls as an object of the Julia package's type Control."""
    given = {name: value for name, value in plain_control(control).items() if value is not None}
    return Main.PyNeuralODE.Control(
        **{name: Main.collect(value) if isinstance(value, np.ndarray) else value for name, value in given.items()}
    )
