"""The path for a user's own Python functions, solved by Julia through diffeqpy.

This is the slow path: every evaluation leaves Julia's compiled code for Python and comes back. That takes 1.2 us in
addition to the Python function's own time (0.4 us for one line of NumPy), measured on one core, whereas a 2-50-2
network described as an `MLP` takes 0.3 us in total. Gradients are not available. The purpose of this path is to provide
the solvers that the torch engine does not have, for right-hand sides that can only be written in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from ...fields import VectorField
from ...problem import Control, Problem, Solution
from ...problem.problem import MassMatrix, Noise, Residual
from ..backend import Backend, Prepared
from .diffeqpy_modules import diffeqpy
from .lacking import lacking, lacking_events
from .python_callbacks import Callback, Start, finish, julia_failures, python_functions
from .sde_dae import solve_noise, solve_residual
from .session import with_julia
from .transfer import plain_control


class PythonFields(Backend):
    """The backend for Python functions of NumPy arrays, also with noise, a mass matrix or a residual; no gradients."""

    name = "julia"

    @staticmethod
    def is_for(field: Any) -> bool:
        """Return whether a field is a plain Python function."""
        return not isinstance(field, (VectorField, nn.Module))

    def unsupported(self, problem: Problem) -> str | None:
        signature, control = problem.signature, problem.control
        if (sentence := lacking(problem) or lacking_events(problem)) is not None:
            return sentence
        if signature.parameters:
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
        name = problem.solver.name
        if isinstance(problem.form, Noise) and not problem.solver.adaptive and control.step_size is None:
            return f"step_size is None, but {name} does not choose its own steps: give a value, such as 0.01."
        if isinstance(problem.form, Residual) and control.step_size is not None:
            return f"step_size is {control.step_size}, but {name} chooses its steps itself: leave step_size out."
        if isinstance(problem.form, Residual) and np.ndim(control.rtol):
            return f"rtol has shape {np.shape(control.rtol)}, but {name} uses the same rtol for all components: give a number."
        return None

    def prepare(self, problem: Problem) -> PythonPrepared:
        return PythonPrepared(problem)

    def yields(self, problem: Problem) -> str | None:
        if problem.form is not None:
            return None
        return "the field is a Python callable, which Julia would have to call back at every step"


class PythonPrepared(Prepared):
    """A prepared problem whose field is a Python function; Julia calls Python at every evaluation."""

    engine = "julia (diffeqpy)"

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        problem, form = self.problem, self.problem.form
        start = Start(problem, y0, ts)
        if isinstance(form, Noise):
            return solve_noise(problem, form, start)
        if isinstance(form, Residual):
            return solve_residual(problem, form, start)
        return _solve(problem, start, form.matrix if isinstance(form, MassMatrix) else None)


def _solve(problem: Problem, start: Start, mass_matrix: np.ndarray | None) -> Solution:
    """Solve ``M dy/dt = f(t, y)``; M (n, n) is the identity unless given."""
    name, control = problem.solver.name, problem.control
    field = Callback(problem.field, start, inputs=1)

    def integrate(Main: Any) -> Solution:
        ode, functions, array = diffeqpy("ode", Main), python_functions(Main), Main.collect
        slope = functions.Slope(field, *field.inputs, field.output, array(start.small(control)))
        mass = {} if mass_matrix is None else {"mass_matrix": array(mass_matrix)}
        equations = ode.ODEFunction(slope, jac=functions.jacobian(slope), tgrad=functions.time_slope(slope), **mass)
        at_times = {"saveat": array(start.ts), "save_everystep": False, "dense": False}
        saving = {"dense": True} if problem.dense else at_times
        with julia_failures(Main):
            initial_value_problem = ode.ODEProblem(equations, array(start.y0), start.span)
            controls = _controls(control, Main)
            solution = functions.integrate(initial_value_problem, name, array(start.ts), controls, **saving)
        return finish(solution, start, field.calls, name, problem.dense, Main)

    return with_julia(integrate)


def _controls(control: Control, Main: Any) -> Any:
    """Return the controls as an object of the Julia package's type Control."""
    given = {name: value for name, value in plain_control(control).items() if value is not None}
    return Main.PyNeuralODE.Control(
        **{name: Main.collect(value) if isinstance(value, np.ndarray) else value for name, value in given.items()}
    )
