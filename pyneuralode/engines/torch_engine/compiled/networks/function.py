"""One compiled solve of a network, and its adjoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import torch

from .....errors import ArgumentError
from .....gradients import Checkpointed
from .....problem import Problem
from .....tableaus import Tableau
from ..available import compiled, march_controls, march_error, run
from ..joint import require_finite
from ..times import Times
from .plan import solve_plan

# Maximum size in bytes of the tape that records evaluations; for a longer solve, the adjoint repeats the steps instead.
TAPE_BYTES = 256 << 20
# Buffers of up to this many bytes are reused: a fit runs thousands of solves, and allocating a new tape for each would
# cost more than the arithmetic.
SPARE_BYTES = 32 << 20
_spare: dict[np.dtype, list[tuple[np.ndarray, np.ndarray]]] = {np.dtype("f4"): [], np.dtype("f8"): []}


def kernels() -> tuple[ModuleType, ...] | None:
    return compiled(f"{__package__}.forward", f"{__package__}.backward")


class NetworkSolver:
    """Data shared by all solves of one field with one method: the plan, and the limits and tolerances as arrays."""

    def __init__(self, problem: Problem, tableau: Tableau, shapes: Mapping[str, tuple[int, ...]]):
        control, gradient, signature = problem.control, problem.gradient, problem.signature
        self.control = control
        modules = kernels()
        assert modules is not None  # a path without kernels is not chosen
        self.forward, self.backward = modules
        self.count = sum(map(math.prod, shapes.values()))
        self.size = sum(shape.numel() for shape in signature.layout.shapes)
        self.dtype = np.dtype("f4" if signature.dtype == torch.float32 else "f8")
        self.plan = solve_plan(problem.field, tableau, self.dtype, self.size // problem.field.dim)
        self.controls = {adaptive: march_controls(control, adaptive) for adaptive in (True, False)}
        self.tolerances = np.empty((2, self.size), self.dtype)
        self.tolerances[0], self.tolerances[1] = control.rtol, control.atol
        self.every = gradient.every if isinstance(gradient, Checkpointed) else 1
        self.room = 0 if isinstance(gradient, Checkpointed) else TAPE_BYTES // self.dtype.itemsize


class Call:
    """One solve, and the data that its adjoint needs."""

    def __init__(self, solver: NetworkSolver, times: Times):
        self.solver, self.times = solver, times

    def march(self, state: np.ndarray, theta: np.ndarray, keep: bool) -> np.ndarray:
        """Return the states (T, n) and set `counts`; if `keep`, also store the data that `adjoint_sweep` needs."""
        solver, times = self.solver, self.times
        for name, found, wanted in (("y0", state.size, solver.size), ("parameters", theta.size, solver.count)):
            if found != wanted:  # compiled code would read out of bounds
                raise ArgumentError(
                    f"{name} has {found} elements, but had {wanted} when the solve was prepared: prepare it again."
                )
        self.theta = theta
        status, t, size, self.counts, self.taped, ys, self.record, self.buffers = run(
            solver.forward.march, solver.plan, solver.controls[times.adaptive], solver.tolerances, theta, state,
            (times.ts, times.stops), solver.every if keep else 0, solver.room if keep else 0, _buffers(solver.dtype),
        )  # fmt: skip
        if not (self.taped and keep):
            self._give_back()
        if status:
            raise march_error(status, t, size, solver.control)
        require_finite(ys, times)
        return ys

    def adjoint_sweep(
        self, cotangents: np.ndarray, wants_state: bool, wants_parameters: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients with respect to the initial state and to all parameters."""
        solver = self.solver
        y0_bar, theta_bar, self.buffers = run(
            solver.backward.adjoint_sweep, solver.plan, self.theta, self.times.ts, self.counts[1], self.taped, solver.every,
            self.record, self.buffers if self.taped else _buffers(solver.dtype), cotangents, wants_parameters,
        )  # fmt: skip
        self.taped = False  # the sweep overwrites the tape; another sweep repeats the steps
        self._give_back()
        return y0_bar, theta_bar

    def _give_back(self) -> None:
        """Make the buffers available to the next solve."""
        spare = _spare[self.solver.dtype]
        if len(spare) < 2 and sum(part.nbytes for part in self.buffers) <= SPARE_BYTES:
            spare.append(self.buffers)
        self.buffers = None


def _buffers(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return a buffer for working memory and one for a tape; kernels replace a buffer that is too small."""
    try:
        return _spare[dtype].pop()
    except IndexError:
        return np.empty(0, dtype), np.empty(0, dtype)
