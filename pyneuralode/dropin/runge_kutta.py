"""One explicit Runge-Kutta step in torchdiffeq's sense, with as few tensor operations as that needs.

It differs from the engine's `Step` in where a stage's time is nudged to one side of a discontinuity, in which stage
opens the next step (always the last one, even where that is not the slope at the end), and in that step sizes may be
tensors, so that fixed steps carry the gradient of the times.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..engines.torch_engine.march import Method, as_method
from ..engines.torch_engine.tableaus import Tableau
from .slope import Slope, Time


@lru_cache(maxsize=64)
def weights_of(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> tuple[Method, tuple[Tensor, ...]]:
    """Return the tableau as tensors, and its rows of weights: stages, solution, error estimate."""
    method = as_method(tableau, dtype, device)
    return method, method.weights.split(method.sizes)


class Step:
    """One step of size `h` from (t, y) to (t_end, end) with the first stage given.

    `nudge` is applied to the time of stages at the end of the step. Where the slope depends on the leading
    components only (`Slope.active`), the others are integrals and are combined once, at the end.
    """

    __slots__ = ("method", "rows", "slope", "t", "t_end", "h", "y", "stages", "end")

    def __init__(self, tableau: Tableau, slope: Slope, t: Time, t_end: Time, h: Time, y: Tensor, first: Tensor,
                 nudge: int = 0):
        self.method, self.rows = weights_of(tableau, y.dtype, y.device)
        self.slope, self.t, self.t_end, self.y = slope, t, t_end, y
        self.h = slope.direction * h
        self.stages = [first]
        active, c, s = slope.active, self.method.c, tableau.stages
        start, heads = (y, self.stages) if active is None else (y[:active], [first[:active]])
        for i in range(1, s):
            at = self._combine(start, heads, i - 1)
            stage = slope(t_end, at, nudge) if c[i] == 1 else slope(t + c[i] * h, at)
            self.stages.append(stage)
            if active is not None:
                heads.append(stage[:active])
        self.end = at if tableau.fsal and active is None else self._combine(y, self.stages, s - 1)

    def _combine(self, y: Tensor, stages: list[Tensor], row: int, keep: int = 1) -> Tensor:
        used, weights, h = self.method.used[row], self.rows[row], self.h
        if isinstance(h, Tensor):
            weights, h = weights * h, 1
        elif len(used) == 1 and keep:
            return torch.add(y, stages[used[0]], alpha=float(self.method.numbers[row][0]) * h)
        stack = torch.stack(stages if len(used) == len(stages) else [stages[j] for j in used])
        return torch.addmv(y, stack.t(), weights, beta=keep, alpha=h)

    def error(self) -> Tensor:
        """Return the estimated error (n,)."""
        return self._combine(self.y, self.stages, self.method.tableau.stages, keep=0)

    def at(self, theta: np.ndarray | Tensor) -> Tensor:
        """Return the states (k, n) at parts theta (k,) of the step; a tensor theta carries its gradient."""
        interpolant = self.method.tableau.interpolant
        powers = theta[..., None] ** np.arange(1, interpolant.shape[1] + 1) if isinstance(theta, np.ndarray) else (
            torch.stack([theta**q for q in range(1, interpolant.shape[1] + 1)], dim=-1))
        weights = powers @ (interpolant.T if isinstance(theta, np.ndarray) else torch.tensor(interpolant.T).to(powers))
        weights = torch.as_tensor(weights * self.h).to(self.y)
        return torch.addmm(self.y, weights, torch.stack(self.stages))
