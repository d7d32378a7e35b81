"""One explicit Runge-Kutta step of every row, and the states inside the step."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ....tableaus import Tableau
from .slope import BatchedSlope


class BatchedMethod:
    """A tableau as tensors of a given dtype and device."""

    def __init__(self, tableau: Tableau, dtype: torch.dtype, device: torch.device):
        def tensors(rows) -> list[Tensor]:
            return [torch.tensor(row, dtype=dtype, device=device) for row in rows]

        s = tableau.stages
        self.tableau, self.stages = tableau, s
        self.rows = tensors([row[:i] for i, row in enumerate(tableau.A)][1:])
        self.end = tensors([tableau.b])[0]
        self.error = tensors([] if tableau.error is None else tableau.error)
        self.extra = tensors([] if tableau.extra_A is None else [row[: s + i] for i, row in enumerate(tableau.extra_A)])
        self.c = tableau.c.tolist() + ([] if tableau.extra_c is None else tableau.extra_c.tolist())
        self.stage_fractions = torch.tensor(self.c, dtype=torch.float64, device=device)[:, None]
        self.interpolant = torch.tensor(tableau.interpolant, dtype=torch.float64, device=device)
        self.powers = torch.arange(1, self.interpolant.shape[1] + 1, dtype=torch.float64, device=device)
        self.end_stage = tableau.end_stage
        # Whether the slope at the end is known without the extra stages.
        self.has_end_slope = tableau.end_stage is not None and tableau.end_stage < s


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached tensors are reused in later solves, which may be differentiated
def batched_method(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> BatchedMethod:
    return BatchedMethod(tableau, dtype, device)


class _Stages:
    """The slopes (m, n) of a step's stages, stored in one block of memory, or separately if autograd records them."""

    def __init__(self, count: int, y: Tensor):
        self.block = None if torch.is_grad_enabled() else y.new_empty(count, *y.shape)
        self.free = [] if self.block is None else list(self.block.unbind())
        self.slopes: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.slopes)

    def append(self, slope: Tensor) -> None:
        self.slopes.append(slope if self.block is None else self.free[len(self.slopes)].copy_(slope))

    def first(self, count: int) -> Tensor:
        """Return the first `count` slopes (count, m, n)."""
        return torch.stack(self.slopes[:count]) if self.block is None else self.block[:count]


class BatchedStep:
    """A step of every row from (t, y) to (t_end, end). A row with t_end = t is unchanged."""

    def __init__(
        self, method: BatchedMethod, f: BatchedSlope, t: Tensor, t_end: Tensor, y: Tensor, first: Tensor | None
    ):
        self.method, self.f, self.t, self.t_end, self.y = method, f, t, t_end, y
        self.h = t_end - t
        self.scale = self.h.to(y.dtype)[:, None]
        self.times = torch.addcmul(t, method.stage_fractions, self.h).unbind()
        self.stages = _Stages(len(method.c), y)
        self.stages.append(f(t, y) if first is None else first)
        for i, row in enumerate(method.rows, start=1):
            at = self._combine(row)
            self.stages.append(f(self._time(i), at))
        self.end = at if method.tableau.fsal else self._combine(method.end)

    def _time(self, stage: int) -> Tensor:
        return self.t_end if self.method.c[stage] == 1 else self.times[stage]  # the field may be undefined after t_end

    def _sum(self, weights: Tensor) -> Tensor:
        """Return the sum of the first i stages, multiplied by the weights (i,)."""
        stages = self.stages.first(len(weights))
        return torch.mv(stages.view(len(weights), -1).t(), weights).view_as(self.y)

    def _combine(self, weights: Tensor) -> Tensor:
        return torch.addcmul(self.y, self.scale, self._sum(weights))

    @property
    def end_slope(self) -> Tensor | None:
        """The slope at the end, if this step evaluated it."""
        i = self.method.end_stage
        return self.stages.slopes[i] if i is not None and i < len(self.stages) else None

    @torch.no_grad()
    def error(self, rtol: float | Tensor, atol: float | Tensor) -> Tensor:
        """Return the root mean square (m,) of the estimated error over the tolerance; values up to 1 are accepted."""
        scale = torch.maximum(self.y.abs(), self.end.abs()).mul_(rtol).add_(atol)
        size = self.scale / scale
        estimates = [rms(self._sum(weights) * size) for weights in self.method.error]
        if len(estimates) == 1:
            return estimates[0]
        # As in Hairer's dop853: the fifth-order estimate, corrected by the third-order one.
        fifth, third = estimates
        return torch.where(fifth == 0, fifth, fifth * (fifth / torch.hypot(fifth, 0.1 * third)))

    def extend(self) -> None:
        """Evaluate the extra stages that only the interpolant needs."""
        for i in range(len(self.stages), len(self.method.c)):
            weights = self.method.extra[i - self.method.stages]
            at = self.end if i == self.method.tableau.end_stage else self._combine(weights)
            self.stages.append(self.f(self._time(i), at))

    def at_fractions(self, fractions: Tensor) -> Tensor:
        """Return the states (k, m, n) of all rows at the given `fractions` (k,) of their steps."""
        self.extend()
        weights = (fractions[:, None] ** self.method.powers @ self.method.interpolant.t()).to(self.y.dtype)
        moves = weights @ self.stages.first(len(self.method.c)).view(len(self.method.c), -1)
        return torch.addcmul(self.y, self.scale, moves.view(-1, *self.y.shape))

    def at(self, rows: Tensor, times: Tensor) -> Tensor:
        """Return the states (p, n) of rows (p,) at times (p,) inside their steps."""
        ends = times == self.t_end[rows]
        if len(self.stages) < len(self.method.c) and bool(ends.all()):
            return self.end[rows]
        self.extend()
        h = self.h[rows]
        theta = ((times - self.t[rows]) / h)[:, None]
        weights = (h[:, None] * (theta**self.method.powers @ self.method.interpolant.t())).to(self.y.dtype)
        stages = self.stages.first(len(self.method.c))[:, rows].transpose(0, 1)
        inside = self.y[rows] + torch.bmm(weights[:, None, :], stages)[:, 0]
        return torch.where(ends[:, None], self.end[rows], inside)


def rms(x: Tensor) -> Tensor:
    """Return the root mean squares (m,) of x (m, n), in double precision."""
    return torch.linalg.vector_norm(x, dim=1).to(torch.float64) / math.sqrt(x.shape[1])
