"""Steps of Rosenbrock methods: each step solves a few linear systems with the same matrix, without iterations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..march import Method, Slope, Step, Tolerance, stage_time
from .coefficients import Rosenbrock
from .jacobians import linearize
from .linearizations import Linearization, differentiable_solve
from .step import StiffMethod, StiffStep


class RosenbrockMethod(StiffMethod):
    def __init__(self, tableau: Rosenbrock, explicit: Method):
        super().__init__(tableau, explicit)
        # The weights of (h^2 df/dt, u_0 .. u_i-1) in the state of stage i, and in the terms added to gamma h f of that
        # stage.
        states = np.insert(tableau.A, 0, 0.0, axis=1)
        rights = tableau.gamma * np.insert(tableau.C, 0, tableau.d, axis=1)
        self.rows = [row[:, : i + 1] for i, row in enumerate(self.tensor(np.stack([states, rights], axis=1)))]
        self.first_time_weight = float(tableau.gamma * tableau.d[0])
        self.b = self.tensor(tableau.b)

    def step(
        self, f: Slope, t: float, t_end: float, y: Tensor, carry: object = None, tolerance: Tolerance | None = None
    ) -> RosenbrockStep | Step:
        # A linearization is reused only after a rejected step, which started from the same point.
        linear = carry if hasattr(carry, "shifted_solver") else linearize(f, t, y, t_end - t)
        step = RosenbrockStep(self, f, t, t_end, y, linear) if linear.usable else None
        return self.explicit.step(f, t, t_end, y) if step is None or step.moves(linear.frozen) else step


class RosenbrockStep(StiffStep):
    """A step of a Rosenbrock method; its stages are the u_i of `Rosenbrock`."""

    def __init__(self, method: RosenbrockMethod, f: Slope, t: float, t_end: float, y: Tensor, linear: Linearization):
        super().__init__(method, t, t_end, y)
        tableau, h = method.tableau, self.h
        self.retry = linear
        scale = tableau.gamma * h
        self.solver = solver = linear.shifted_solver(scale)
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
                    right = torch.add(right, before[0], alpha=method.first_time_weight)
            before.append(differentiable_solve(linear, solver, scale, right))
        self.stages = before[1 - skipped :]
        self.failure = solver.failure
        if tableau.end_stage is None:
            self.end = y + torch.mv(torch.stack(self.stages).t(), method.b)
        else:
            self.end, self.end_slope = at, slope

    @property
    def carry(self) -> None:
        """Always None: the next step evaluates slope and Jacobian together."""

    def extend(self) -> None:
        """Release the data that only another step from the same point would need."""
        self.retry = self.solver = None
