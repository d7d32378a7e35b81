"""One solve by compiled code, its adjoint, and their place in autograd."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .....errors import ArgumentError
from .....gradients import Checkpointed
from .....problem import Problem, Statistics
from .....problem.values import as_tensor
from ...once_differentiable import once_differentiable
from ...tableaus import Tableau
from ..available import compiled, floating, march_error, run
from ..constants import VECTOR_BYTES
from ..times import Times
from .plan import solve_plan

# Size of the tape of evaluations; a longer solve is differentiated by taking its steps again.
TAPE_BYTES = 256 << 20
# A fit solves thousands of times: fresh memory for each tape would cost more than the arithmetic on it.
SPARE_BYTES = 32 << 20
_spare: dict[np.dtype, list[tuple[np.ndarray, np.ndarray]]] = {np.dtype("f4"): [], np.dtype("f8"): []}


def kernels() -> tuple[ModuleType, ...] | None:
    return compiled(f"{__package__}.forward", f"{__package__}.backward")


class NetworkSolver:
    """What solves of one field by one method have in common: the plan, the limits and tolerances as arrays."""

    def __init__(self, problem: Problem, tableau: Tableau):
        control, gradient, signature = problem.control, problem.gradient, problem.signature
        self.control, self.kind = control, signature.dtype
        self.shapes = problem.field.shapes()
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.count = sum(self.sizes)
        self.size = sum(shape.numel() for shape in signature.layout.shapes)
        self.dtype = np.dtype("f4" if signature.dtype == torch.float32 else "f8")
        plan = solve_plan(problem.field, tableau, self.dtype, self.size // problem.field.dim)
        self.plan = plan.table, plan.scales, plan.coefficients, plan.interpolant
        self.work = plan.work
        limits = (control.first_step or 0.0, control.min_step, control.max_step, control.max_steps)
        self.limits = {adaptive: np.array([*limits, adaptive], dtype=float) for adaptive in (True, False)}
        self.tolerances = np.empty((2, self.size), self.dtype)
        self.tolerances[0], self.tolerances[1] = control.rtol, control.atol
        self.every = gradient.every if isinstance(gradient, Checkpointed) else 1
        self.room = 0 if isinstance(gradient, Checkpointed) else TAPE_BYTES // self.dtype.itemsize

    def tensors(self, parameters: Mapping[str, Any]) -> list[Tensor]:
        """Return the parameters in the state's dtype, connected to autograd."""
        tensors = [as_tensor(name, parameters[name]) for name in self.shapes]
        return [x if x.dtype == self.kind else x.to(self.kind) for x in tensors]

    def theta(self, parameters: Mapping[str, Any]) -> np.ndarray:
        """Return all parameters one after the other."""
        arrays = [floating(name, parameters[name]).ravel() for name in self.shapes]
        return np.concatenate(arrays, dtype=self.dtype, casting="same_kind")


class Call:
    """One solve, and what its adjoint needs."""

    def __init__(self, solver: NetworkSolver, times: Times, statistics: Statistics):
        self.solver, self.times, self.statistics = solver, times, statistics

    def march(self, y0: np.ndarray, theta: np.ndarray, keep: bool) -> np.ndarray:
        """Return the states (T, n); with `keep` for `adjoint_sweep`."""
        solver, times = self.solver, self.times
        for name, found, wanted in (("y0", y0.size, solver.size), ("parameters", theta.size, solver.count)):
            if found != wanted:  # compiled code would read beyond them
                raise ArgumentError(f"{name} has {found} numbers and {wanted} when this was prepared: prepare again.")
        forward, _ = kernels()
        self.theta = theta
        self.work, tape = _memory(solver.dtype, solver.work)
        status, t, size, counts, ys, *self.record, self.tape = run(
            forward.march, *solver.plan, solver.limits[times.adaptive], solver.tolerances, theta, y0,
            times.ts, times.stops, solver.every if keep else 0, solver.room if keep else 0, self.work, tape,
        )  # fmt: skip
        nfev, self.accepted, rejected, self.taped = counts
        statistics = self.statistics
        statistics.nfev += nfev
        statistics.accepted += self.accepted
        statistics.rejected += rejected
        if not (self.taped and keep):
            self._give_back()
        if status:
            raise march_error(status, t, size, solver.control)
        return ys

    def adjoint_sweep(self, cotangents: np.ndarray, wants_parameters: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients with respect to the initial state and to all parameters."""
        solver = self.solver
        _, backward = kernels()
        if not self.taped:
            self.work, self.tape = _memory(solver.dtype, solver.work)
        y0_bar, theta_bar, self.tape = run(
            backward.adjoint_sweep, *solver.plan, self.theta, self.times.ts, self.accepted, self.taped, solver.every,
            *self.record, self.work, self.tape, cotangents, wants_parameters,
        )  # fmt: skip
        self.taped = False  # the sweep used the tape up; another one takes the steps again
        self._give_back()
        return y0_bar, theta_bar

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


class NetworkSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: Call, y0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        theta = torch.cat([p.reshape(-1) for p in parameters]).numpy()
        return torch.from_numpy(call.march(y0.contiguous().numpy(), theta, keep=True))

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangents: Tensor):
        ctx.saved_tensors  # noqa: B018 - raises where a parameter was changed in place since
        _, wants_start, *wanted = ctx.needs_input_grad
        solver = ctx.call.solver
        y0_bar, theta_bar = ctx.call.adjoint_sweep(cotangents.contiguous().numpy(), any(wanted))
        parts: Sequence[Tensor | None] = [None] * len(wanted)
        if any(wanted):
            split = torch.from_numpy(theta_bar).split(solver.sizes)
            parts = [p.view(s) if want else None for p, s, want in zip(split, solver.shapes.values(), wanted)]
        return None, torch.from_numpy(y0_bar) if wants_start else None, *parts
