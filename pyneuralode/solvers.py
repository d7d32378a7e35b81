"""The catalogue of solvers: every name once, with its order, its kind and the engines that have it.

The names are SciML's, matched without regard to case.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ArgumentError, unknown_name


@dataclass(frozen=True)
class Solver:
    """One method: `order` of convergence, `kind` ("explicit"), `adaptive` if it estimates its error."""

    name: str
    order: int
    kind: str
    adaptive: bool
    engines: tuple[str, ...]
    about: str


_TORCH = ("torch",)

SOLVERS: dict[str, Solver] = {
    solver.name: solver
    for solver in (
        Solver("Euler", 1, "explicit", False, _TORCH, "Euler's method; linear interpolant"),
        Solver("Midpoint", 2, "explicit", False, _TORCH, "explicit midpoint rule"),
        Solver("Heun", 2, "explicit", False, _TORCH, "Heun's trapezoidal method"),
        Solver("RK4", 4, "explicit", False, _TORCH, "the classical Runge-Kutta method"),
        Solver("RK38", 4, "explicit", False, _TORCH, "Kutta's 3/8 rule"),
        Solver("BS3", 3, "explicit", True, _TORCH, "Bogacki-Shampine 3(2), for loose tolerances"),
        Solver("DP5", 5, "explicit", True, _TORCH, "Dormand-Prince 5(4)"),
        Solver("Tsit5", 5, "explicit", True, _TORCH, "Tsitouras 5(4), the first choice for non-stiff problems"),
        Solver("Vern7", 7, "explicit", True, _TORCH, "Verner's most efficient 7(6), for tight tolerances"),
        Solver("DP8", 8, "explicit", True, _TORCH, "Hairer's 8(5,3), for very tight tolerances"),
    )
}

_LOWERED = {name.lower(): name for name in SOLVERS}


def find_solver(name: str) -> Solver:
    """Return the catalogue's entry for `name`, matched without regard to case."""
    try:
        return SOLVERS[_LOWERED[name.lower()]]
    except (KeyError, AttributeError):
        raise unknown_name("solver", name, SOLVERS) from None


def require_engine(solver: Solver, engine: str) -> None:
    """Raise if `engine` lacks `solver`, saying which engine has it."""
    if engine not in solver.engines:
        raise ArgumentError(
            f"solver {solver.name!r} is not in the {engine} engine: write engine={solver.engines[0]!r}."
        )
