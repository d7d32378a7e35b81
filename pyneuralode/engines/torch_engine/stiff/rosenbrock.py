"""Steps of Rosenbrock methods: a few linear systems with one matrix, and nothing to iterate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..march import Slope, Tolerance
from .coefficients import Rosenbrock
from .linear import solved
from .step import StiffStep
from .system import linearise


class RosenbrockMethod:
    """The coefficients as tensors of one dtype and device."""

    def __init__(self, tableau: Rosenbrock, dtype: torch.dtype, device: torch.device):
        self.tableau = tableau
        # For stage i, over (h^2 df/dt, u_0 .. u_i-1): what is added to the state, and to gamma h f.
        states = np.insert(tableau.A, 0, 0.0, axis=1)
        rights = tableau.gamma * np.insert(tableau.C, 0, tableau.d, axis=1)
        both = torch.tensor(np.stack([states, rights], axis=1), dtype=dtype, device=device)
        self.rows = [row[:, : i + 1] for i, row in enumerate(both)]
        self.c = tableau.c.tolist()
        self.first = float(tableau.gamma * tableau.d[0])
        self.b = torch.tensor(tableau.b, dtype=dtype, device=device)
        self.error = torch.tensor(tableau.error, dtype=dtype, device=device)

    def stepper(self) -> RosenbrockMethod:
        return self

    def step(
        self, f: Slope, t: float, t_end: float, y: Tensor, first: object = None, tolerance: Tolerance | None = None
    ) -> RosenbrockStep:
        return RosenbrockStep(self, f, t, t_end, y, first)


class RosenbrockStep(StiffStep):
    """A step whose stages are the u_i of `Rosenbrock`."""

    def __init__(self, method: RosenbrockMethod, f: Slope, t: float, t_end: float, y: Tensor, first: object):
        super().__init__(method, t, t_end, y)
        tableau, h = method.tableau, self.h
        # Only a linearisation at this very point, left by a rejected step, is of use.
        self.again = linear = first if hasattr(first, "shifted") else linearise(f, t, y, h)
        scale = tableau.gamma * h
        shifted = linear.shifted(scale)
        before = [] if linear.drift is None else [linear.drift * (h * h)]
        skipped, self.end_slope = 1 - len(before), None
        for i, row in enumerate(method.rows):
            if i > 0:
                ahead, added = torch.mm(row[:, skipped:], torch.stack(before)).unbind()
                at = y + ahead
                slope = f(t + method.c[i] * h, at)
                right = torch.add(added, slope, alpha=scale)
            else:
                right = linear.slope * scale
                if before:
                    right = torch.add(right, before[0], alpha=method.first)
            before.append(solved(linear, shifted, scale, right))
        self.stages = before[1 - skipped :]
        self.trouble = shifted.trouble
        if tableau.end_stage is None:
            self.end = y + torch.mv(torch.stack(self.stages).t(), method.b)
        else:
            self.end, self.end_slope = at, slope

    @property
    def onward(self) -> None:
        """Nothing: the next step evaluates slope and Jacobian together."""

    def extend(self) -> None:
        """Let go of what only another step from the same point would need."""
        self.again = None
