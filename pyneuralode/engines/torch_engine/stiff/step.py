"""What the steps of all stiff methods have in common."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..march import Method, Norm, Slope, interpolate
from .coefficients import SDIRK, Rosenbrock
from .linearizations import ShiftedSolver


class StiffMethod:
    """The coefficients as tensors of one dtype and device; `explicit` takes the steps whose Jacobian is not usable."""

    def __init__(self, tableau: Rosenbrock | SDIRK, explicit: Method):
        self.tableau, self.explicit, self.c = tableau, explicit, tableau.c.tolist()
        self.error = self.tensor(tableau.error)

    def tensor(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, dtype=self.explicit.dtype, device=self.explicit.device)

    def stepper(self) -> StiffMethod:
        return self


class StiffStep:
    """A step from (t, y) to (t_end, end), with the attributes of `march.Step`.

    `method.tableau` and `method.error` (s,) weigh its `stages`, s tensors (n,) of the size of a change of the state;
    `solver` solves with I - gamma h J.
    """

    failure: str | None = None
    stages: list[Tensor]
    end: Tensor
    solver: ShiftedSolver

    def __init__(self, method: StiffMethod, t: float, t_end: float, y: Tensor):
        self.method, self.t, self.t_end, self.y = method, t, t_end, y
        self.h = t_end - t

    def moves(self, frozen: Tensor | None) -> bool:
        """Return whether the step moves one of the components (n,) that are marked as `frozen`."""
        return frozen is not None and any(bool(stage[frozen].any()) for stage in self.stages)

    def at(self, times: list[float]) -> Tensor:
        """Return the states (len(times), n) at times inside the step."""
        return torch.addmm(self.y, interpolate(self, times), torch.stack(self.stages))

    def error(self, rtol: float | Tensor, atol: float | Tensor, norm: Norm) -> float:
        """Return the norm of the estimated error over the tolerance; at most 1 is good."""
        if self.failure:
            return math.inf
        with torch.no_grad():
            scale = torch.maximum(self.y.abs(), self.end.abs()).mul_(rtol).add_(atol)
            return float(norm(torch.mv(torch.stack(self.stages).t(), self.method.error).div_(scale)))

    @torch.no_grad()
    def interpolant_error(
        self, f: Slope, times: list[float], rtol: float | Tensor, atol: float | Tensor, norm: Norm
    ) -> float:
        """Return the largest norm, at times inside the step, of the interpolant's estimated error over the tolerance.

        The error estimate of a step is about its end, where very stiff components are accurate whatever they are in
        between. One Newton step of the implicit equation u = u + gamma h (f(t, u) - u') moves an interpolant u to where
        a stage at that time would be. The change counts in stiff components only, by the factor
        1 - 1 / (1 - gamma h J): for the others the error at the end is enough.
        """
        interpolant, gamma, sizes = self.method.tableau.interpolant, self.method.tableau.gamma, []
        theta = (np.asarray(times)[:, None] - self.t) / self.h
        powers = np.arange(interpolant.shape[1])
        weights = torch.tensor((powers + 1) * theta**powers @ interpolant.T, dtype=self.y.dtype, device=self.y.device)
        changes = weights @ torch.stack(self.stages)  # of the interpolant, over a whole step each
        for t, u, change in zip(times, self.at(times), changes):
            move = self.solver.solve(gamma * (self.h * f(t, u) - change))
            move = move - self.solver.solve(move)
            scale = u.abs().mul_(rtol).add_(atol)
            sizes.append(float(norm(move.div_(scale))))
        return max(sizes) if all(map(math.isfinite, sizes)) else math.inf
