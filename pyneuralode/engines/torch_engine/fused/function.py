"""The door to the compiled path: where it applies, and its place in autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ....errors import ArgumentError
from ....fields import Field
from ....gradients import OF_STEPS, Checkpointed
from ...base import Problem
from ..differentiate import Task
from ..first_order import first_order
from ..march import fixed_grid
from .available import compiled, march_error, readable, run, wants_gradient
from .plan import field_plan, tableau_plan

# Size of the tape of evaluations; a longer solve is differentiated by taking its steps again.
TAPE_BYTES = 256 << 20
# A fit solves thousands of times: fresh memory for each tape would cost more than the arithmetic on it.
SPARE_BYTES = 32 << 20
# Multiplications in one evaluation of the field beyond which torch's matrix products are as fast (measured).
LARGE = 1_000_000
_spare: dict[np.dtype, list[tuple[np.ndarray, np.ndarray]]] = {np.dtype("f4"): [], np.dtype("f8"): []}


def _kernels() -> tuple[ModuleType, ...] | None:
    return compiled(f"{__package__}.forward", f"{__package__}.backward")


def applies(problem: Problem, y0: Tensor, parameters: dict[str, Tensor]) -> bool:
    """Return whether the compiled path can solve `problem` from the flat state `y0`."""
    if not problem.fused or problem.dense or not isinstance(problem.dynamics, Field):
        return False
    plan = field_plan(problem.dynamics, y0.itemsize)
    if plan is None or any(parameters[name].shape != shape for name, shape in plan.shapes.items()):
        return False
    if y0.numel() // problem.dynamics.dim * sum(map(math.prod, plan.shapes.values())) > LARGE:
        return False
    tensors = [y0, *(parameters[name] for name in plan.shapes)]
    if not readable(*tensors) or (wants_gradient(*tensors) and not isinstance(problem.gradient, OF_STEPS)):
        return False
    return _kernels() is not None


def prepare(problem: Problem, task: Task, y0: Tensor) -> Repeated:
    """Return the solve as a function of the parameters."""
    return Repeated(problem, task, y0)


class Repeated:
    """A solve whose problem stays the same but for its parameters: what can be prepared is prepared once."""

    def __init__(self, problem: Problem, task: Task, y0: Tensor):
        control, gradient = task.control, problem.gradient
        grid = fixed_grid(task.method.tableau, task.ts, control)
        limits = (control.first_step or 0.0, control.min_step, control.max_step, control.max_steps)
        self.task, self.y0 = task, y0
        self.field, tableau = field_plan(problem.dynamics, y0.itemsize), tableau_plan(task.method.tableau)
        self.names = list(self.field.shapes)
        self.size = sum(map(math.prod, self.field.shapes.values()))
        self.ts = np.array(task.ts)
        self.grid = np.empty(0) if grid is None else np.array(grid)
        self.scheme = tableau.rows, tableau.ends, tableau.interpolant, tableau.numbers
        self.control = (
            np.array(control.rtol, dtype=float, ndmin=1),
            np.array(control.atol, dtype=float, ndmin=1),
            np.array(limits, dtype=float),
        )
        self.every = gradient.every if isinstance(gradient, Checkpointed) else 1
        self.room = 0 if isinstance(gradient, Checkpointed) else TAPE_BYTES // y0.itemsize

    def __call__(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the states (T, n) for the parameters given, connected to autograd."""
        tensors = [parameters[name] for name in self.names]
        if wants_gradient(self.y0, *tensors):
            return _Fused.apply(_Call(self), self.y0, *tensors)
        return _Call(self).march(self.y0.detach(), [p.detach() for p in tensors], keep=False)


class _Call:
    """One solve, and what its adjoint needs."""

    def __init__(self, problem: Repeated):
        self.problem = problem

    def march(self, y0: Tensor, parameters: Sequence[Tensor], keep: bool) -> Tensor:
        """Return the states (T, n); with `keep` for `sweep`."""
        problem, field = self.problem, self.problem.field
        forward, _ = _kernels()
        y0 = y0.numpy()
        self.theta = torch.cat([p.reshape(-1) for p in parameters]).numpy().astype(y0.dtype, copy=False)
        if self.theta.size != problem.size:  # compiled code would read beyond them
            raise ArgumentError(
                f"parameters hold {self.theta.size} numbers: give {problem.size}, {', '.join(problem.names)} as in the first solve."
            )
        status, t, size, counts, ys, *self.record = run(
            forward.march, field.head, field.layers, field.scales, self.theta, y0, problem.ts, problem.grid, *problem.scheme,
            *problem.control, problem.every if keep else 0, problem.room if keep else 0, *_memory(y0),
        )
        nfev, self.accepted, rejected, self.taped = counts
        statistics = problem.task.statistics
        statistics.nfev += nfev
        statistics.accepted += self.accepted
        statistics.rejected += rejected
        if not (self.taped and keep):
            self._give_back()
        if status:
            raise march_error(status, t, size, problem.task.control)
        return torch.from_numpy(ys)

    def sweep(self, cotangents: Tensor, wants_parameters: bool) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients with respect to the initial state and to each parameter."""
        problem, field = self.problem, self.problem.field
        _, backward = _kernels()
        y0_bar, theta_bar = run(
            backward.sweep, field.head, field.layers, field.scales, self.theta, problem.ts, *problem.scheme,
            self.accepted, *self.record, self.taped, problem.every, cotangents.contiguous().numpy(), wants_parameters,
        )
        if self.taped:
            self.taped = False  # the sweep used the tape up; another one takes the steps again
            self._give_back()
        parts, used = [], 0
        for shape in field.shapes.values():
            size = math.prod(shape)
            parts.append(torch.from_numpy(theta_bar[used : used + size].reshape(shape)))
            used += size
        return torch.from_numpy(y0_bar), parts

    def _give_back(self) -> None:
        """Leave the tape's memory to the next solve."""
        *self.record, values, slopes = self.record
        self.record += [values[:0], slopes[:0]]
        spare = _spare[values.dtype]
        if not spare and values.nbytes + slopes.nbytes <= SPARE_BYTES:
            spare.append((values, slopes))


def _memory(y0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        return _spare[y0.dtype].pop()
    except IndexError:
        return np.empty(0, y0.dtype), np.empty(0, y0.dtype)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _Call, y0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        return call.march(y0, parameters, keep=True)

    @staticmethod
    @first_order
    def backward(ctx, cotangents: Tensor):
        ctx.saved_tensors  # noqa: B018 - raises where a parameter was changed in place since
        wanted = ctx.needs_input_grad[2:]
        y0_bar, parts = ctx.call.sweep(cotangents, any(wanted))
        return None, y0_bar, *(part if want else None for part, want in zip(parts, wanted))
