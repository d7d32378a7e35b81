"""What the steps of all stiff methods have in common."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..march import Norm, interpolate


class StiffStep:
    """A step from (t, y) to (t_end, end), with the attributes of `march.Step`.

    `method.tableau` and `method.error` (s,) weigh its `stages`, s tensors (n,) of the size of a change of the state.
    """

    trouble: str | None = None
    stages: list[Tensor]
    end: Tensor

    def __init__(self, method, t: float, t_end: float, y: Tensor):
        self.method, self.t, self.t_end, self.y = method, t, t_end, y
        self.h = t_end - t

    def at(self, times: list[float]) -> Tensor:
        """Return the states (len(times), n) at times inside the step."""
        return torch.addmm(self.y, interpolate(self, times), torch.stack(self.stages))

    def error(self, rtol: float | Tensor, atol: float | Tensor, norm: Norm) -> float:
        """Return the norm of the estimated error over the tolerance; at most 1 is good."""
        if self.trouble:
            return math.inf
        with torch.no_grad():
            scale = torch.maximum(self.y.abs(), self.end.abs()).mul_(rtol).add_(atol)
            return float(norm(torch.mv(torch.stack(self.stages).t(), self.method.error).div_(scale)))
