"""The selection of the Julia package's code path for a problem; Julia only checks the selection.

The names are those in julia/src/paths.jl.
"""

from __future__ import annotations

from ...errors import ArgumentError, kind_of
from ...fields import MLP, SEIR, Linear
from ...gradients import OF_STEPS, ForwardMode, GradientMethod, JuliaAdjoint
from ...problem import Problem
from ...solvers import Solver
from ...tableaus import Tableau

DISCRETE = "discrete"
"""The Julia package's own compiled explicit steps, with their exact discrete adjoint."""

SENSITIVITY = "sensitivity"
"""SciML's solver, with SciMLSensitivity's continuous adjoints or with dual numbers propagated through the solver."""

BATCHED_SENSITIVITY = "batched_sensitivity"
"""SciML's explicit solvers and continuous adjoints on whole arrays: used on a GPU and for flows."""

NO_GRADIENT = "no_gradient"
"""SciML's solver, with nothing stored for gradients."""

_DEVICE_FIELDS = (MLP, Linear, SEIR)


def engine_name(path: str) -> str:
    """Return the name of a path in `Solution.engine`."""
    return "julia (fast)" if path == DISCRETE else "julia (sciml)"


def find_path(problem: Problem, device: str) -> tuple[str | None, str]:
    """Return the path of a solve and "", or None and the reason why no path supports it.

    Parameters
    ----------
    problem : Problem
        A problem whose field, solver and gradient method the Julia package supports.
    device : str
        The type of the state's device, such as "cpu".
    """
    solver, gradient, wanted = problem.solver, problem.gradient, problem.path
    if device != "cpu":
        if wanted == "fast":
            return None, "path is 'fast', which Julia supports only on the CPU: write path='sciml'."
        return _find_device_path(problem)
    if wanted == "fast" and (reason := _why_not_fast(problem)) is not None:
        return None, reason
    if problem.dense:  # without gradients, which dense solves do not support
        return NO_GRADIENT, ""
    of_steps = isinstance(gradient, OF_STEPS)
    # Also used without a gradient, so that the trajectory does not depend on whether a gradient is requested.
    if of_steps and problem.compiled and has_compiled_steps(solver) and wanted != "sciml":
        return DISCRETE, ""
    if not problem.differentiated:
        return NO_GRADIENT, ""
    if of_steps and wanted == "sciml":
        return None, (
            f"path is 'sciml', but gradient is {type(gradient).__name__!r}, which SciML does not have: write "
            "gradient='InterpolatingAdjoint'."
        )
    if of_steps:
        return None, (
            f"gradient is {type(gradient).__name__!r}, which Julia supports only for explicit solvers that both "
            "engines have, in compiled code (compiled=True): write gradient='InterpolatingAdjoint'."
        )
    return SENSITIVITY, ""


def _why_not_fast(problem: Problem) -> str | None:
    """Return why the package's own steps do not support a problem on the CPU."""
    solver, gradient = problem.solver, type(problem.gradient).__name__
    if not has_compiled_steps(solver):
        return (
            f"path is 'fast', which does not support solver={solver.name!r}: use an explicit solver, such as 'Tsit5'."
        )
    if not isinstance(problem.gradient, OF_STEPS):
        return f"path is 'fast', which does not support gradient={gradient!r}: write gradient='Backprop'."
    if problem.dense or not problem.compiled:
        return f"path is 'fast', which does not support {'dense=True' if problem.dense else 'compiled=False'}: leave it out."
    return None


def require_path(problem: Problem, device: str = "cpu") -> str:
    """Return the path that `find_path` finds; raise ArgumentError if there is none."""
    path, reason = find_path(problem, device)
    if path is None:
        raise ArgumentError(reason)
    return path


def find_flow_path(solver: Solver | Tableau, gradient: GradientMethod, wanted: str = "auto") -> tuple[str | None, str]:
    """Return the path of a continuous flow and "", or None and the reason why no path supports it."""
    if isinstance(gradient, ForwardMode):
        return None, "gradient is 'ForwardMode', which flows in Julia do not support: write gradient='Backprop'."
    if isinstance(gradient, JuliaAdjoint):
        return (
            None,
            "gradient is Julia source, which flows in Julia do not support: write gradient='GaussAdjoint', for example.",
        )
    if _is_implicit(solver):
        return None, _implicit_reason(solver)
    of_steps = isinstance(gradient, OF_STEPS)
    if wanted == ("sciml" if of_steps else "fast"):
        other = "InterpolatingAdjoint" if of_steps else "Backprop"
        return (
            None,
            f"path is {wanted!r}, which does not support gradient={type(gradient).__name__!r}: write gradient={other!r}.",
        )
    if not of_steps:
        return BATCHED_SENSITIVITY, ""
    if has_compiled_steps(solver):
        return DISCRETE, ""
    return None, (
        f"gradient is {type(gradient).__name__!r}, but {solver.name} has no compiled steps in Julia: "
        "write gradient='InterpolatingAdjoint'."
    )


def has_compiled_steps(solver: Solver | Tableau) -> bool:
    """Return whether the Julia package has compiled steps for a solver.

    It has compiled steps for those explicit solvers that the torch engine also supports.
    """
    return solver.kind == "explicit" and "torch" in solver.engines


def _find_device_path(problem: Problem) -> tuple[str | None, str]:
    field, solver, gradient = problem.field, problem.solver, problem.gradient
    if not isinstance(field, _DEVICE_FIELDS):
        return None, (f"the field is {kind_of(field)}, which Julia supports only on the CPU: write y0.cpu().")
    if _is_implicit(solver):
        return None, _implicit_reason(solver)
    if not problem.differentiated:
        return NO_GRADIENT, ""
    if isinstance(gradient, (*OF_STEPS, ForwardMode, JuliaAdjoint)):
        return None, (
            f"gradient is {type(gradient).__name__!r}, which Julia supports only on the CPU: on a GPU write "
            "gradient='InterpolatingAdjoint'."
        )
    return BATCHED_SENSITIVITY, ""


def _is_implicit(solver: Solver | Tableau) -> bool:
    return solver.kind not in ("explicit", "stabilized")


def _implicit_reason(solver: Solver | Tableau) -> str:
    return (
        f"solver is {solver.name!r}, which needs the Jacobian of a whole batch: use an explicit solver, such as Tsit5."
    )
