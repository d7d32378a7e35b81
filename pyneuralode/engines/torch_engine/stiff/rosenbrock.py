"""Steps of Rosenbrock methods: a few linear systems with one matrix, and nothing to iterate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..march import Method, Slope, Step, Tolerance, stage_time
from .coefficients import Rosenbrock
from .jacobians import linearize
from .linearizations import Linearization, solved
from .step import StiffStep


class RosenbrockMethod:
    """The coefficients as tensors of one dtype and device; `explicit` steps where the Jacobian is not usable."""

    def __init__(self, tableau: Rosenbrock, explicit: Method):
        self.tableau, self.explicit = tableau, explicit
        dtype, device = explicit.dtype, explicit.device
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
    ) -> RosenbrockStep | Step:
        # Only a linearization at this very point, left by a rejected step, is of use.
        linear = first if hasattr(first, "shifted") else linearize(f, t, y, t_end - t)
        step = RosenbrockStep(self, f, t, t_end, y, linear) if linear.usable else None
        return self.explicit.step(f, t, t_end, y) if step is None or step.moves(linear.still) else step


class RosenbrockStep(StiffStep):
    """A step whose stages are the u_i of `Rosenbrock`."""

    def __init__(self, method: RosenbrockMethod, f: Slope, t: float, t_end: float, y: Tensor, linear: Linearization):
        super().__init__(method, t, t_end, y)
        tableau, h = method.tableau, self.h
        self.again = linear
        scale = tableau.gamma * h
        self.shifted = shifted = linear.shifted(scale)
        before = [] if linear.time_derivative is None else [linear.time_derivative * (h * h)]
        skipped, self.end_slope = 1 - len(before), None
        for i, row in enumerate(method.rows):
            if i > 0:
                ahead, added = torch.mm(row[:, skipped:], torch.stack(before)).unbind()
                at = y + ahead
                slope = f(stage_time(self, method.c[i]), at)
                right = torch.add(added, slope, alpha=scale)
            else:
                right = linear.slope * scale
                if before:
                    right = torch.add(right, before[0], alpha=method.first)
            before.append(solved(linear, shifted, scale, right))
        self.stages = before[1 - skipped :]
        self.failure = shifted.failure
        if tableau.end_stage is None:
            self.end = y + torch.mv(torch.stack(self.stages).t(), method.b)
        else:
            self.end, self.end_slope = at, slope

    @property
    def carry(self) -> None:
        """Nothing: the next step evaluates slope and Jacobian together."""

    def extend(self) -> None:
        """Let go of what only another step from the same point would need."""
        self.again = self.shifted = None
