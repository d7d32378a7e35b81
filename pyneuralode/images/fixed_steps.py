"""Steps of equal size by an explicit Runge-Kutta method, for states that are tensors of any shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..engines.torch_engine.slopes import evaluated
from ..engines.torch_engine.tableaus import TABLEAUS, Tableau
from ..errors import ArgumentError
from ..solvers import find_solver


def explicit_tableau(solver: str | Tableau) -> Tableau:
    """Return the coefficients of an explicit method of the catalog, or the tableau itself."""
    if isinstance(solver, Tableau):
        return solver
    name = find_solver(solver).name
    if name not in TABLEAUS:
        raise ArgumentError(
            f"solver is {solver!r}, which cannot take given steps: write an explicit one, such as 'Euler', 'Midpoint' or "
            "'RK4'."
        )
    return TABLEAUS[name]


def step(tableau: Tableau, slope: Callable[[float, Tensor], Tensor], t: float, y: Tensor, h: float) -> Tensor:
    """Return the state at t + h from y at t, for y' = slope(t, y); a negative h goes back."""
    stages: list[Tensor] = []
    for row, c in zip(tableau.A, tableau.c):
        at = combined(y, h, row, stages)
        # A copy: the user's function may fill the same memory at its next call.
        stages.append(evaluated(slope, t + float(c) * h, at, at, "the field").clone())
    return combined(y, h, tableau.b, stages)


def moment(t: float, like: Tensor) -> Tensor:
    """Return the time as a tensor of shape (), of the dtype and on the device of `like`."""
    return torch.full((), t, dtype=like.dtype, device=like.device)


def combined(y: Tensor, h: float, weights: Iterable[float], stages: list[Tensor]) -> Tensor:
    """Return y + h sum_i weights[i] stages[i] over the stages there are."""
    for weight, stage in zip(weights, stages):
        if weight:
            y = torch.add(y, stage, alpha=h * float(weight))
    return y
