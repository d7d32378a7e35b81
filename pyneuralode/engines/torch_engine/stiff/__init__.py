"""Methods for stiff problems: Rosenbrock and ESDIRK methods, and switching between an explicit and a stiff method."""

from __future__ import annotations

from functools import lru_cache

import torch

from ....solvers import Solver
from ....tableaus import TABLEAUS, Tableau
from ..march import Method
from . import coefficients
from .coefficients import EXPLICIT_FALLBACK, SDIRK, Rosenbrock
from .jacobians import LinearizableSlope
from .rosenbrock import RosenbrockMethod
from .sdirk import SDIRKMethod
from .switching import AutoSwitch, AutoSwitchMethod

__all__ = ["STIFF", "LinearizableSlope", "as_method", "find_tableau"]

_BASES = coefficients.STIFF

STIFF: dict[str, Rosenbrock | SDIRK | AutoSwitch] = {
    **_BASES,
    "AutoTsit5(Rosenbrock23)": AutoSwitch("AutoTsit5(Rosenbrock23)", TABLEAUS["Tsit5"], 3.5068, _BASES["Rosenbrock23"]),
    "AutoVern7(Rodas5P)": AutoSwitch("AutoVern7(Rodas5P)", TABLEAUS["Vern7"], 4.64, _BASES["Rodas5P"]),
}

Coefficients = Tableau | Rosenbrock | SDIRK | AutoSwitch


def find_tableau(solver: Solver | Tableau) -> Coefficients:
    """Return the coefficients of a solver that the torch engine supports, or the caller's own tableau."""
    return solver if isinstance(solver, Tableau) else TABLEAUS.get(solver.name) or STIFF[solver.name]


_KINDS = {Rosenbrock: RosenbrockMethod, SDIRK: SDIRKMethod}


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached tensors are reused in later solves, which may be differentiated
def as_method(
    tableau: Coefficients, dtype: torch.dtype, device: torch.device
) -> Method | RosenbrockMethod | SDIRKMethod | AutoSwitchMethod:
    """Return the method with the given coefficients, converted to tensors."""
    if isinstance(tableau, Tableau):
        return Method(tableau, dtype, device)
    if isinstance(tableau, AutoSwitch):
        explicit = as_method(tableau.explicit, dtype, device)
        return AutoSwitchMethod(tableau, explicit, RosenbrockMethod(tableau.stiff, explicit))
    return _KINDS[type(tableau)](tableau, as_method(EXPLICIT_FALLBACK, dtype, device))
