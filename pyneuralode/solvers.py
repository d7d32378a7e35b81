"""The catalog of solvers: the name, order and kind of each solver, and the engines that support it.

The names are SciML's; case is ignored. On the Julia engine, a name can also be Julia source of any other solver of
ordinary differential equations, such as "QNDF(autodiff=false)".

Solvers for stiff problems need the Jacobian of the field. The torch engine computes it by autograd: one matrix per
sample for a described field, one matrix of the whole state for a module or callable. For a function of NumPy arrays it
uses finite differences. Attributes of a module or callable can simplify or replace this computation (`jacobian` is also
an argument of `pyneuralode.solve`)::

    class Kinetics(torch.nn.Module):
        samplewise = True            # vectors along the last axis of y do not interact: one small matrix each
        def jacobian(self, t, y):    # has shape (*y.shape, y.shape[-1]); without samplewise (*y.shape, *y.shape)
            ...

With ``matrix_free = True`` the Jacobian is never formed and linear systems are solved by GMRES. The engine also does
this when the Jacobians together would contain more than ten million numbers.

Examples
--------
>>> from pyneuralode.solvers import find_solver, solvers_of
>>> find_solver("tsit5").order
5
>>> "FBDF" in solvers_of("torch"), "FBDF" in solvers_of("julia")
(False, True)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from .errors import unknown_name
from .julia_source import is_call


@dataclass(frozen=True)
class Solver:
    """A solver: its `order` of convergence, its `kind`, whether it is `adaptive`, and the engines that support it.

    Kinds: "explicit"; "stabilized" (explicit, for mildly stiff problems); "rosenbrock", "sdirk" and "bdf" (for stiff
    problems); "switching" (between an explicit solver and one for stiff problems); "source" (`name` is Julia source).
    """

    name: str
    order: float
    kind: str
    adaptive: bool
    engines: tuple[str, ...]
    about: str


_TORCH, _BOTH, _JULIA = ("torch",), ("torch", "julia"), ("julia",)


def _catalog(*solvers: Solver) -> dict[str, Solver]:
    return {solver.name: solver for solver in solvers}


SOLVERS = _catalog(
    Solver("Euler", 1, "explicit", False, _BOTH, "Euler's method; linear interpolant"),
    Solver("Midpoint", 2, "explicit", False, _BOTH, "explicit midpoint rule"),
    Solver("Heun", 2, "explicit", False, _BOTH, "Heun's trapezoidal method"),
    Solver("RK4", 4, "explicit", False, _BOTH, "the classical Runge-Kutta method"),
    Solver("RK38", 4, "explicit", False, _TORCH, "Kutta's 3/8 rule"),
    Solver("BS3", 3, "explicit", True, _BOTH, "Bogacki-Shampine 3(2) method, for loose tolerances"),
    Solver("DP5", 5, "explicit", True, _BOTH, "Dormand-Prince 5(4)"),
    Solver("Tsit5", 5, "explicit", True, _BOTH, "Tsitouras 5(4), the first choice for non-stiff problems"),
    Solver("Vern7", 7, "explicit", True, _BOTH, "Verner's most efficient 7(6) method, for tight tolerances"),
    Solver("DP8", 8, "explicit", True, _BOTH, "Hairer's 8(5,3) method, for very tight tolerances"),
    Solver("Vern9", 9, "explicit", True, _JULIA, "Verner's most efficient 9(8) method, for the tightest tolerances"),
    Solver("ROCK4", 4, "stabilized", True, _JULIA, "Abdulle's ROCK4, for mildly stiff diffusion problems"),
    Solver("Rosenbrock23", 2, "rosenbrock", True, _BOTH, "for stiff problems at loose tolerances"),
    Solver("Rodas5P", 5, "rosenbrock", True, _BOTH, "Steinebach's method, the first choice for stiff problems"),
    Solver("TRBDF2", 2, "sdirk", True, _JULIA, "for stiff problems at loose tolerances; damps oscillations"),
    Solver("KenCarp4", 4, "sdirk", True, _BOTH, "Kennedy and Carpenter's method, for large stiff problems"),
    Solver("Kvaerno5", 5, "sdirk", True, _BOTH, "Kvaerno's method, for stiff problems at tight tolerances"),
    Solver(
        "FBDF",
        5,
        "bdf",
        True,
        _JULIA,
        "variable-order BDF with fixed leading coefficients, for very large stiff problems",
    ),
    Solver("AutoTsit5(Rosenbrock23)", 5, "switching", True, _BOTH, "Tsit5 with Rosenbrock23 for stiff parts"),
    Solver("AutoVern7(Rodas5P)", 7, "switching", True, _BOTH, "Vern7 with Rodas5P for stiff parts"),
)

# Solvers for stochastic equations; only SOSRI and SRIW1 support any diagonal noise.
SDE_SOLVERS = _catalog(
    Solver(
        "SOSRI", 1.5, "noise", True, _JULIA, "Rackauckas and Nie's method, strong order 1.5, for any diagonal noise"
    ),
    Solver("SOSRA", 1.5, "noise", True, _JULIA, "Rackauckas and Nie's method, strong order 1.5, for additive noise"),
    Solver("SRIW1", 1.5, "noise", True, _JULIA, "Roessler's method, strong order 1.5, for any diagonal noise"),
    Solver("SRA1", 1.5, "noise", True, _JULIA, "Roessler's method, strong order 1.5, for additive noise"),
    Solver("EM", 0.5, "noise", False, _JULIA, "Euler-Maruyama method, strong order 0.5"),
)
# Solvers for implicit equations, f(t, y, dy/dt) = 0.
RESIDUAL_SOLVERS = _catalog(
    Solver("IDA", 5, "bdf", True, _JULIA, "Sundials' variable-order BDF"),
    Solver("DFBDF", 5, "bdf", True, _JULIA, "variable-order BDF with fixed leading coefficients"),
)
# Solvers of the catalog whose interpolants are accurate enough for the past of a delay equation: on two equations with known
# solutions, their errors were at most 10 tolerances. Rosenbrock23's were a million tolerances, those of the SDIRK methods 10,000.
DDE_SOLVERS = {
    name: SOLVERS[name]
    for name in ("BS3", "DP5", "Tsit5", "Vern7", "DP8", "Vern9", "Rodas5P", "FBDF", "AutoVern7(Rodas5P)")
}
# Solvers of the catalog that support a mass matrix with rows of zeros.
MASS_MATRIX_SOLVERS = {name: SOLVERS[name] for name in ("Rodas5P", "Rosenbrock23", "FBDF")}

_LOWERED = {name.lower(): name for name in (*SOLVERS, *SDE_SOLVERS, *RESIDUAL_SOLVERS)}


def find_solver(name: str, catalog: Mapping[str, Solver] = SOLVERS) -> Solver:
    """Return the solver with the given name, ignoring case, or a solver given by Julia source: "QNDF(autodiff=false)"."""
    try:
        return catalog[_LOWERED[name.lower()]]
    except (KeyError, AttributeError):
        if catalog is SOLVERS and is_call(name):
            return _solver_from_source(name)
        raise unknown_name("solver", name, catalog) from None


@lru_cache(maxsize=64)  # the same object each time, by which prepared problems are found again
def _solver_from_source(source: str) -> Solver:
    return Solver(source, float("nan"), "source", True, _JULIA, "any solver in Julia")


def solvers_of(engine: str) -> list[str]:
    """Return the names of the solvers that an engine supports."""
    return [name for name, solver in SOLVERS.items() if engine in solver.engines]
