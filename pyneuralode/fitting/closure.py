"""The function that torch's optimizers call for the objective and its gradient at the current parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ArgumentError, SolverError
from .optimizers import LBFGS, Optimizer
from .run import FitRun, NonFiniteLoss, copy_tensors


class Closure:
    """Callable for torch's optimizers: evaluates one stage's objective and gradient, and stores the best parameters.

    `evaluate` returns the loss and the objective at the current parameters. For L-BFGS the objective is scaled to start
    at 1, because torch's L-BFGS discards curvature below an absolute 1e-10.
    """

    def __init__(self, run: FitRun, evaluate: Callable[[], tuple[Tensor, Tensor]], optimizer: Optimizer):
        self.run, self.evaluate, self.clip = run, evaluate, optimizer.clip
        self.searching = isinstance(optimizer, LBFGS)
        self.first: tuple[float, float] | None = None  # loss and objective at the beginning of the iteration
        self.last: tuple[float, float] | None = None  # loss and objective of the last successful evaluation
        self.point: list[Tensor] | None = None  # the parameters whose gradients are stored, if any
        before = run.history.objectives
        self.scale = 1 / before[0] if before and before[0] > 0 else None

    def __call__(self) -> Tensor:
        free = self.run.free
        # L-BFGS begins each iteration where its last line search ended, so the gradient there is known.
        if self.searching and self.point is not None and all(torch.equal(a, b) for a, b in zip(self.point, free)):
            return self._scaled_objective()
        for tensor in free:
            tensor.grad = None
        try:
            self.last = self._differentiate()
        except (SolverError, NonFiniteLoss):
            if not self.searching or self.last is None:
                raise
            # A line search may try parameters at which the solve fails: a large value makes it backtrack.
            for tensor in free:
                tensor.grad = torch.zeros_like(tensor)
            self.point = None
            return torch.full((), 1e6 * (1 + abs(self.last[1]) * self.scale), dtype=free[0].dtype)
        self._keep_best()
        for tensor in free:
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(free, self.clip)
        if self.searching:
            if self.scale is None:
                self.scale = 1 / self.last[1] if self.last[1] > 0 else 1.0
            for tensor in free:
                tensor.grad.mul_(self.scale)
            self.point = [tensor.detach().clone() for tensor in free]
        return self._scaled_objective()

    def pop_first(self) -> tuple[float, float]:
        """Return the loss and the objective at the beginning of the iteration, and reset them for the next one."""
        first, self.first = self.first, None
        return first

    def _differentiate(self) -> tuple[float, float]:
        """Return the loss and the objective, and store the gradient in the free tensors."""
        loss, objective = self.evaluate()
        value = objective.item()
        if not math.isfinite(value):
            raise NonFiniteLoss(f"the loss is {value}")
        if not objective.requires_grad:
            raise ArgumentError(
                "the loss does not depend on any free parameter: use a later end for the stage or an earlier t0, and "
                "write the field with torch operations."
            )
        objective.backward()
        return value if loss is objective else loss.item(), value

    def _keep_best(self) -> None:
        history, (loss, objective) = self.run.history, self.last
        history.evaluations += 1
        if objective < history.best_objective:
            history.best_loss, history.best_objective = loss, objective
            self.run.best = copy_tensors(self.run.tensors)

    def _scaled_objective(self) -> Tensor:
        if self.first is None:
            self.first = self.last
        return torch.full((), self.last[1] * (self.scale or 1.0), dtype=self.run.free[0].dtype)
