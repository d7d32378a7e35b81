"""Code shared by the steps of all stiff methods."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..march import Method, Norm, Slope, interpolate
from .coefficients import SDIRK, Rosenbrock
from .linearizations import ShiftedSolver


class StiffMethod:
    """Coefficients as tensors of a given dtype and device; `explicit` takes the steps that have no usable Jacobian."""

    def __init__(self, tableau: Rosenbrock | SDIRK, explicit: Method):
        self.tableau, self.explicit, self.c = tableau, explicit, tableau.c.tolist()
        self.error = self.tensor(tableau.error)

    def tensor(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=self.explicit.dtype, device=self.explicit.device)

    def stepper(self) -> StiffMethod:
        return self


class StiffStep:
    """A step from (t, y) to (t_end, end), with the attributes of `march.Step`.

    `method.tableau` and `method.error` (s,) contain the weights of its `stages`, s tensors (n,) with the units of the
    state; `solver` solves linear systems with I - gamma h J.
    """

    failure: str | None = None
    stages: list[Tensor]
    end: Tensor
    solver: ShiftedSolver

    def __init__(self, method: StiffMethod, t: float, t_end: float, y: Tensor):
        self.method, self.t, self.t_end, self.y = method, t, t_end, y
        self.h = t_end - t

    def moves(self, frozen: Tensor | None) -> bool:
        """Return whether the step changes one of the components that the mask `frozen` (n,) marks."""
        return frozen is not None and any(bool(stage[frozen].any()) for stage in self.stages)

    def at(self, times: list[float]) -> Tensor:
        """Return the states (len(times), n) at times inside the step."""
        return torch.addmm(self.y, interpolate(self, times), torch.stack(self.stages))

    def error(self, rtol: float | Tensor, atol: float | Tensor, norm: Norm) -> float:
        """Return the norm of the estimated error divided by the tolerance; a step is accepted if it is at most 1."""
        if self.failure:
            return math.inf
        with torch.no_grad():
            scale = torch.maximum(self.y.abs(), self.end.abs()).mul_(rtol).add_(atol)
            return float(norm(torch.mv(torch.stack(self.stages).t(), self.method.error).div_(scale)))

    @torch.no_grad()
    def interpolant_error(
        self, f: Slope, times: list[float], rtol: float | Tensor, atol: float | Tensor, norm: Norm
    ) -> float:
        """Return the largest norm of the interpolant's error estimate over the tolerance, at times inside the step.

        The error estimate of a step refers to its end, where very stiff components are accurate regardless of their
        values inside the step. One Newton step for the implicit equation u = u + gamma h (f(t, u) - u') changes an
        interpolated state u to the value that a stage at that time would have. The factor 1 - 1 / (1 - gamma h J)
        restricts this change to stiff components: for all others, the error at the end is sufficient.
        """
        interpolant, gamma, sizes = self.method.tableau.interpolant, self.method.tableau.gamma, []
        theta = (np.asarray(times)[:, None] - self.t) / self.h
        powers = np.arange(interpolant.shape[1])
        weights = torch.tensor((powers + 1) * theta**powers @ interpolant.T, dtype=self.y.dtype, device=self.y.device)
        changes = weights @ torch.stack(self.stages)  # derivatives of the interpolant, times the step size
        for t, u, change in zip(times, self.at(times), changes):
            move = self.solver.solve(gamma * (self.h * f(t, u) - change))
            move = move - self.solver.solve(move)
            scale = u.abs().mul_(rtol).add_(atol)
            sizes.append(float(norm(move.div_(scale))))
        return max(sizes) if all(map(math.isfinite, sizes)) else math.inf
