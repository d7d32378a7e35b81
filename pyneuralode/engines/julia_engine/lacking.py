"""Checks that apply to every path of the Julia engine: solvers, gradient methods, events and controls."""

from __future__ import annotations

from ...problem import Problem
from ...solvers import Solver


def lacking(problem: Problem) -> str | None:
    """Return why the Julia engine does not support a problem's solver, gradient method, events or controls; None if it does."""
    solver, gradient = problem.solver, problem.gradient
    if not isinstance(solver, Solver):
        return f"solver is the custom tableau {solver.name!r}, which the Julia engine does not support: give the name of a solver, such as 'Tsit5'."
    if "julia" not in solver.engines:
        return f"solver is {solver.name!r}, which the Julia engine does not support: use another, such as 'Tsit5'."
    if "julia" not in gradient.engines:
        name = type(gradient).__name__
        return f"gradient is {name!r}, which the Julia engine does not support: use another, such as 'InterpolatingAdjoint'."
    if problem.events:
        return "events are given, which the Julia engine does not support yet: leave them out."
    if problem.control.tstops:
        return "tstops are given, which the Julia engine does not support yet: leave them out."
    return None
