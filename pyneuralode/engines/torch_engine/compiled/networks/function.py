"""The door to the compiled path: where it applies, and its place in autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from .....errors import ArgumentError
from .....fields import VectorField
from .....gradients import OF_STEPS, Checkpointed
from .....problem import Problem
from ...gradient_methods import Task
from ...march import fixed_grid, stop_times
from ...once_differentiable import once_differentiable
from ..available import compiled, march_error, readable, run, wants_gradient
from ..constants import VECTOR_BYTES
from .plan import has_kernels, solve_plan

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
    if not problem.compiled or problem.dense or not isinstance(problem.dynamics, VectorField):
        return False
    if not has_kernels(problem.dynamics):
        return False
    shapes = problem.dynamics.shapes()
    if any(parameters[name].shape != shape for name, shape in shapes.items()):
        return False
    if y0.numel() // problem.dynamics.dim * sum(map(math.prod, shapes.values())) > LARGE:
        return False
    tensors = [y0, *(parameters[name] for name in shapes)]
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
        limits = (control.first_step or 0.0, control.min_step, control.max_step, control.max_steps, grid is None)
        self.task, self.y0, self.shapes = task, y0, problem.dynamics.shapes()
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        dtype = y0.detach().numpy().dtype
        plan = solve_plan(problem.dynamics, task.method.tableau, dtype, y0.numel() // problem.dynamics.dim)
        self.plan = plan.table, plan.scales, plan.coefficients, plan.interpolant
        self.work = plan.work
        self.ts = np.array(task.ts)
        self.stops = np.array(stop_times(task.ts, control) if grid is None else grid)
        self.control = np.array(limits, dtype=float), np.empty((2, y0.numel()), dtype)
        self.control[1][0], self.control[1][1] = control.rtol, control.atol
        self.every = gradient.every if isinstance(gradient, Checkpointed) else 1
        self.room = 0 if isinstance(gradient, Checkpointed) else TAPE_BYTES // y0.itemsize

    def __call__(self, parameters: dict[str, Tensor]) -> Tensor:
        """Return the states (T, n) for the parameters given, connected to autograd."""
        tensors = [parameters[name] for name in self.shapes]
        if wants_gradient(self.y0, *tensors):
            return _Fused.apply(_Call(self), self.y0, *tensors)
        return _Call(self).march(self.y0.detach(), [p.detach() for p in tensors], keep=False)


class _Call:
    """One solve, and what its adjoint needs."""

    def __init__(self, problem: Repeated):
        self.problem = problem

    def march(self, y0: Tensor, parameters: Sequence[Tensor], keep: bool) -> Tensor:
        """Return the states (T, n); with `keep` for `adjoint_sweep`."""
        problem = self.problem
        forward, _ = _kernels()
        y0 = y0.numpy()
        self.theta = torch.cat([p.reshape(-1) for p in parameters]).numpy().astype(y0.dtype, copy=False)
        if self.theta.size != sum(problem.sizes):  # compiled code would read beyond them
            raise ArgumentError(
                f"parameters hold {self.theta.size} numbers: give {sum(problem.sizes)}, {', '.join(problem.shapes)} as in "
                "the first solve."
            )
        self.work, tape = _memory(y0.dtype, problem.work)
        status, t, size, counts, ys, *self.record, self.tape = run(
            forward.march,
            *problem.plan,
            *problem.control,
            self.theta,
            y0,
            problem.ts,
            problem.stops,
            problem.every if keep else 0,
            problem.room if keep else 0,
            self.work,
            tape,
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

    def adjoint_sweep(self, cotangents: Tensor, wants_parameters: bool) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients with respect to the initial state and to each parameter."""
        problem = self.problem
        _, backward = _kernels()
        if not self.taped:
            self.work, self.tape = _memory(problem.control[1].dtype, problem.work)
        y0_bar, theta_bar, self.tape = run(
            backward.adjoint_sweep,
            *problem.plan,
            self.theta,
            problem.ts,
            self.accepted,
            self.taped,
            problem.every,
            *self.record,
            self.work,
            self.tape,
            cotangents.contiguous().numpy(),
            wants_parameters,
        )
        self.taped = False  # the sweep used the tape up; another one takes the steps again
        self._give_back()
        parts, shapes = torch.from_numpy(theta_bar).split(problem.sizes), problem.shapes.values()
        return torch.from_numpy(y0_bar), [part.view(shape) for part, shape in zip(parts, shapes)]

    def _give_back(self) -> None:
        """Leave the memory to the next solve."""
        spare = _spare[self.work.dtype]
        if len(spare) < 2 and self.work.nbytes + self.tape.nbytes <= SPARE_BYTES:
            spare.append((self.work, self.tape))
        self.work = self.tape = None


def _memory(dtype: np.dtype, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return working memory of at least `size` numbers, and some for a tape."""
    try:
        work, tape = _spare[dtype].pop()
    except IndexError:
        work = tape = np.empty(0, dtype)
    return work if work.size >= size else _aligned(size, dtype), tape


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Return `size` numbers that start on a whole vector."""
    room = np.empty(size + VECTOR_BYTES // dtype.itemsize, dtype)
    skip = -room.ctypes.data % VECTOR_BYTES // dtype.itemsize
    return room[skip : skip + size]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _Call, y0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        return call.march(y0, parameters, keep=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangents: Tensor):
        ctx.saved_tensors  # noqa: B018 - raises where a parameter was changed in place since
        wanted = ctx.needs_input_grad[2:]
        y0_bar, parts = ctx.call.adjoint_sweep(cotangents, any(wanted))
        return None, y0_bar, *(part if want else None for part, want in zip(parts, wanted))
