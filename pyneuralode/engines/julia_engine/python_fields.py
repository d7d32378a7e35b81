"""A user's own Python function solved by Julia's solvers, through diffeqpy.

This is the slow path: every evaluation leaves Julia's compiled code for Python and comes back. That takes
1.2 us beside the Python function's own time (0.4 us for one line of NumPy), measured on one core, where a
described 2-50-2 network takes 0.3 us in all; and there are no gradients. What it gives are the solvers that the
torch engine lacks, for right-hand sides that only Python can write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from ...errors import ArgumentError
from ...fields import VectorField
from ...problem import Control, Problem, Solution
from ...solvers import julia_solver
from ..torch_engine.dynamics import bind
from .diffeqpy_modules import diffeqpy
from .python_callbacks import Callback, Start, finish, julia_failures, python_functions
from .session import with_julia
from .transfer import plain_control


def applies(problem: Problem) -> bool:
    """Return whether the problem's field is a plain Python function."""
    return callable(problem.dynamics) and not isinstance(problem.dynamics, (VectorField, nn.Module))


def solve(problem: Problem, mass_matrix: np.ndarray | None = None) -> Solution:
    """Solve ``M dy/dt = f(t, y)`` for a Python function f of NumPy arrays; M (n, n) is the identity unless given."""
    entry = julia_solver(problem.solver)
    if problem.parameters:
        raise ArgumentError(
            f"parameters names {', '.join(problem.parameters)}, but Julia gives no gradients of a Python function: "
            "leave it out, or write engine='torch'."
        )
    function, _ = bind(problem.dynamics, {})
    start = Start(problem.y0, problem.ts)
    control = start.control(problem.control, entry.adaptive and problem.control.step_size is None)
    field = Callback(function, start, inputs=1)

    def integrate(Main: Any) -> Solution:
        ode, functions, array = diffeqpy("ode", Main), python_functions(Main), Main.collect
        slope = functions.Slope(field, *field.inputs, field.output, array(start.small(control)))
        mass = {} if mass_matrix is None else {"mass_matrix": array(mass_matrix)}
        equations = ode.ODEFunction(slope, jac=functions.jacobian(slope), tgrad=functions.time_slope(slope), **mass)
        span = float(start.ts[0]), float(start.ts[-1])
        saving = (
            {"dense": True} if problem.dense else {"saveat": array(start.ts), "save_everystep": False, "dense": False}
        )
        with julia_failures(Main):
            solution = functions.integrate(
                ode.ODEProblem(equations, array(start.y0), span),
                entry.name,
                array(start.ts),
                _controls(control, Main),
                **saving,
            )
        return finish(solution, start, field.calls, entry.name, problem.dense, Main)

    return with_julia(integrate)


def _controls(control: Control, Main: Any) -> Any:
    """Return the controls as the Julia package has them."""
    given = {name: value for name, value in plain_control(control).items() if value is not None}
    return Main.PyNeuralODE.Control(
        **{name: Main.collect(value) if isinstance(value, np.ndarray) else value for name, value in given.items()}
    )
