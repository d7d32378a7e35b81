"""One explicit Runge-Kutta step, as in torchdiffeq, with as few tensor operations as possible.

It differs from the engine's `Step` in three ways: the time of a stage may be nudged to one side of a discontinuity; the
last stage is always used as the first of the next step, even if it is not the derivative at the end; and step sizes may
be tensors, so that fixed steps can be differentiated with respect to the times.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..tableaus import Tableau
from .slope import FlatSlope, Time

MAX_CHAIN = 3  # up to this many stages are added one by one; more are combined by a matrix-vector product


@dataclass(frozen=True)
class Weights:
    """A linear combination of stages: their indices, their weights, and the ratios of the weights to the first one."""

    used: list[int]
    tensor: Tensor
    lead: float
    ratios: list[float]

    def total(self, stages: list[Tensor]) -> Tensor:
        """Return the weighted sum of the stages (n,), divided by `lead` if at most MAX_CHAIN stages are used."""
        used = self.used
        if len(used) > MAX_CHAIN:
            stack = torch.stack(stages if len(used) == len(stages) else [stages[j] for j in used])
            return torch.mv(stack.t(), self.tensor)
        total = stages[used[0]]
        for j, ratio in zip(used[1:], self.ratios):
            total = torch.add(total, stages[j], alpha=ratio)
        return total

    def add(self, y: Tensor, stages: list[Tensor], h: Time) -> Tensor:
        """Return y + h times the weighted sum, which is computed before y is added.

        This keeps rounding errors out of the stages and the error estimate if rtol is near the dtype's precision.
        """
        scale = h if len(self.used) > MAX_CHAIN else self.lead * h
        total = self.total(stages)
        return torch.add(y, total, alpha=scale) if type(scale) is float else y + total * scale

    def scaled(self, stages: list[Tensor], h: Time) -> Tensor:
        """Return h times the weighted sum."""
        return self.total(stages) * (h if len(self.used) > MAX_CHAIN else self.lead * h)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached tensors are reused by later solves, which autograd may record
def combination_weights(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> list[Weights]:
    """Return the weights for each stage after the first, for the solution, and for any error estimate."""
    rows = [*tableau.A[1:], tableau.b, *([] if tableau.error is None else tableau.error)]
    result = []
    for row in rows:
        used = np.flatnonzero(row).tolist()
        numbers = row[used].tolist()
        tensor = torch.tensor(numbers, dtype=dtype, device=device)
        result.append(Weights(used, tensor, numbers[0], [number / numbers[0] for number in numbers[1:]]))
    return result


@lru_cache(maxsize=64)
def stage_times(tableau: Tableau) -> list[float]:
    """Return the times of the stages after the first, as fractions of the step."""
    return tableau.c[1:].tolist()


class RungeKuttaStep:
    """One step of size `h` from (t, y) to (t_end, end) with the first stage given.

    `nudge` is applied to the time of stages at the end of the step. If the derivative depends only on the leading
    components (`FlatSlope.active`), the other components are integrals, combined only once, at the end of the step.
    """

    __slots__ = ("end", "h", "slope", "stages", "t", "t_end", "tableau", "weights", "y")

    def __init__(
        self,
        tableau: Tableau,
        slope: FlatSlope,
        t: Time,
        t_end: Time,
        h: Time,
        y: Tensor,
        first: Tensor,
        nudge: int = 0,
    ):
        self.tableau, self.weights = tableau, combination_weights(tableau, y.dtype, y.device)
        self.slope, self.t, self.t_end, self.y = slope, t, t_end, y
        self.h = slope.direction * h
        self.stages = [first]
        active, times = slope.active, stage_times(tableau)
        start, heads = (y, self.stages) if active is None else (y[:active], [first[:active]])
        for weights, c in zip(self.weights, times):
            at = weights.add(start, heads, self.h)
            stage = slope(t_end, at, nudge) if c == 1 else slope(t + c * h, at)
            self.stages.append(stage)
            if active is not None:
                heads.append(stage[:active])
        if tableau.fsal and active is None:
            self.end = at
        else:
            self.end = self.weights[len(times)].add(y, self.stages, self.h)

    def error(self) -> Tensor:
        """Return the estimated error (n,)."""
        return self.weights[-1].scaled(self.stages, self.h)

    def at(self, theta: np.ndarray | Tensor) -> Tensor:
        """Return the states (k, n) at fractions theta (k,) of the step, differentiable if theta is a tensor."""
        interpolant = self.tableau.interpolant
        exponents = np.arange(1, interpolant.shape[1] + 1)
        if isinstance(theta, Tensor):
            like = {"dtype": theta.dtype, "device": theta.device}
            powers = theta[:, None] ** torch.as_tensor(exponents, **like)
            weights = powers @ torch.tensor(interpolant.T, **like)
        else:
            weights = torch.from_numpy(theta[:, None] ** exponents @ interpolant.T)
        return torch.addmm(self.y, (weights * self.h).to(self.y), torch.stack(self.stages))
