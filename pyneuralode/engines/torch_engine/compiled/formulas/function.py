"""Compiled solves of fields given by formulas, for any number of systems at once, and their autograd function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from .....errors import SolverError
from .....gradients import Checkpointed
from .....problem import Problem
from ...finite_gradients import finite_gradients, require_finite_gradients
from ...once_differentiable import once_differentiable
from ...stiff import find_tableau
from ..available import compiled, march_controls, march_error, run
from ..joint import require_finite
from ..times import Times
from .plan import method_plans
from .program import program_of
from .threads import over_threads

# Maximum memory in bytes for storing the stages of a solve; for a longer solve, the adjoint computes them again.
TAPE_BYTES = 256 << 20
# Number of steps that the adjoint repeats at a time, small enough that their stages stay in a core's cache.
AGAIN = 64


def kernels() -> tuple[ModuleType, ...] | None:
    return compiled(f"{__package__}.forward", f"{__package__}.backward")


class FormulaSolver:
    """Data shared by all solves of one field's formulas with one method, for any number of systems."""

    def __init__(self, problem: Problem):
        self.program = program_of(problem.field)
        *plans, stability = method_plans(find_tableau(problem.solver))
        self.field = self.program.arrays, *(plan.arrays for plan in plans)
        self.stages = max(len(plan.rows) for plan in plans)
        self.controls = {flag: march_controls(problem.control, flag, stability) for flag in (True, False)}
        self.control, gradient = problem.control, problem.gradient
        self.every = gradient.every if isinstance(gradient, Checkpointed) else 1
        self.tape = not isinstance(gradient, Checkpointed)

    def theta(self, parameters: Mapping[str, Tensor], samples: int) -> Tensor:
        """Return the concatenated parameters, of shape (samples, m) if any parameter has a sample axis, else (1, m)."""
        shapes = self.program.shapes
        own = any(parameters[name].ndim > len(shape) for name, shape in shapes.items())
        parts = []
        for name, shape in shapes.items():
            part = parameters[name]
            part = part.reshape(1, -1) if part.shape == shape else part.reshape(samples, -1)
            parts.append(part.expand(samples, -1) if own else part)
        return torch.cat(parts, dim=1) if parts else torch.empty(1, 0)


# Concatenated rows of different lengths, and the index at which each row starts, followed by the total length.
_Ragged: TypeAlias = tuple[np.ndarray, np.ndarray]


def _ragged(rows: Sequence[np.ndarray | list[float]]) -> _Ragged:
    if len(rows) == 1:
        return np.asarray(rows[0], dtype=float), np.array([0, len(rows[0])])
    ends = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=ends[1:])
    return np.concatenate(rows, dtype=float), ends


def _part(ragged: _Ragged, some: slice) -> _Ragged:
    values, ends = ragged
    if some.stop - some.start == len(ends) - 1:
        return ragged
    ends = ends[some.start : some.stop + 1]
    return values[ends[0] : ends[-1]], ends - ends[0]


class Failure(Exception):
    """Raised if the solve of one sample fails; contains the error and the sample's index."""

    def __init__(self, error: SolverError, sample: int):
        self.error, self.sample = error, sample


class Systems:
    """Solves of B systems, each with its own steps and times; after `march`, also the data that the adjoint needs.

    The tolerances, rtol and atol, are arrays returned by `by_system`.
    """

    def __init__(
        self, solver: FormulaSolver, times: list[Times], tolerances: Sequence[np.ndarray], differentiated: bool
    ):
        self.solver, self.tolerances, self.adaptive = solver, tolerances, times[0].adaptive
        self.times, self.stops = _ragged([row.ts for row in times]), _ragged([row.stops for row in times])
        self.every, self.tape = (solver.every, solver.tape) if differentiated else (0, False)

    def march(self, y0: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Return the states at all times, concatenated over the B systems, and set `counts` (B, 3).

        The initial states y0 have shape (B, n), the parameters theta (1, m) or (B, m). Raises `Failure` with the index
        of a system that failed.
        """
        self.y0, self.theta = y0, theta
        self.parts, solved = over_threads(self._march_part, len(y0))
        reports, counts, states, self.tapes = zip(*solved)
        self.counts = np.concatenate(counts)
        for some, report in zip(self.parts, reports):
            if report[:, 0].any():
                failed = int(report[:, 0].argmax())
                status, t, size = report[failed]
                raise Failure(march_error(status, t, size, self.solver.control), some.start + failed)
        return states[0] if len(states) == 1 else np.concatenate(states)

    def adjoint_sweep(self, cotangents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients with respect to the initial states and the parameters."""
        self.cotangents = cotangents
        _, swept = over_threads(self._sweep_part, len(self.y0), self.parts)
        y0_bar, theta_bar = (parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*swept))
        if len(self.theta) == 1 < len(theta_bar):
            theta_bar = theta_bar.sum(0, keepdims=True)
        return y0_bar, theta_bar

    def _march_part(self, some: slice) -> tuple:
        forward, _ = kernels()
        most = TAPE_BYTES * (some.stop - some.start) // (self.solver.stages * 8 * self.y0.size) if self.tape else 0
        return run(
            forward.march, self.solver.field, _rows_of(self.theta, some), self.y0[some],
            np.empty((0, self.y0.shape[1])), _part(self.times, some), _part(self.stops, some), np.empty(0),
            self._tolerances(some), self.solver.controls[self.adaptive], self.every, most,
        )  # fmt: skip

    def _tolerances(self, some: slice) -> tuple[np.ndarray, ...]:
        return tuple(_rows_of(tolerance, some) for tolerance in self.tolerances)

    def _sweep_part(self, some: slice) -> tuple[np.ndarray, np.ndarray]:
        _, backward = kernels()
        spans, checkpoints, stages = tape = self.tapes[self.parts.index(some)]
        counts = self.counts[some]
        if counts[:, 1].sum() > len(stages):
            return self._sweep_in_blocks(some, spans, checkpoints)
        first, last = self.times[1][[some.start, some.stop]]
        return run(
            backward.adjoint_sweep, self.solver.field, _rows_of(self.theta, some), _part(self.times, some), counts, tape,
            self.cotangents[first:last],
        )  # fmt: skip

    def _sweep_in_blocks(
        self, some: slice, spans: np.ndarray, checkpoints: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Like `_sweep_part`, but without stored stages: blocks of steps are repeated, from last to first."""
        y0_bar, theta_bar = np.empty_like(self.y0[some]), np.zeros((some.stop - some.start, self.theta.shape[1]))
        length = self.every * max(1, AGAIN // self.every)
        step = block = 0
        for i in range(some.start, some.stop):
            accepted = int(self.counts[i, 1])
            bar = np.zeros_like(self.y0[i])
            for begin in reversed(range(0, accepted, length)):
                path = spans[step + begin : step + min(begin + length, accepted)]
                bar, more = self._sweep_block(i, path, checkpoints[block + begin // self.every], bar)
                theta_bar[i - some.start] += more
            y0_bar[i - some.start] = bar + self.cotangents[self.times[1][i]]
            step += accepted
            block += -(-accepted // self.every)
        return y0_bar, theta_bar

    def _sweep_block(
        self, i: int, path: np.ndarray, checkpoint: np.ndarray, end_bar: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the cotangents of the state at the start of `path` (steps, 3) and of the parameters.

        The steps start from the state (and slope) in `checkpoint`; `end_bar` is the cotangent of the state at the end.
        """
        forward, backward = kernels()
        n, some, own = len(end_bar), slice(i, i + 1), slice(*self.times[1][i : i + 2])
        ts, cotangents = self.times[0][own], self.cotangents[own]
        start, end = path[0, 0], path[-1, 1]
        inside = np.flatnonzero((np.minimum(start, end) < ts) & (ts < np.maximum(start, end)))
        ends = cotangents[ts == end].sum(0)
        times, steps = _ragged([[start, *ts[inside], end]]), _ragged([[*path[:, 0], end]])
        bars = np.concatenate([np.zeros((1, n)), cotangents[inside], (end_bar + ends)[None]])
        field, theta = self.solver.field, _rows_of(self.theta, some)
        slopes = checkpoint[None, n:] if len(checkpoint) > n else np.empty((0, n))
        _, counts, _, tape = run(
            forward.march, field, theta, checkpoint[None, :n], slopes, times, steps, path[:, 2].copy(),
            self._tolerances(some), self.solver.controls[False], 1, len(path),
        )  # fmt: skip
        y_bar, theta_bar = run(backward.adjoint_sweep, field, theta, times, counts, tape, bars)
        return y_bar[0], theta_bar[0]


def by_system(tolerance: float | np.ndarray) -> np.ndarray:
    """Return a tolerance (a number, or an array (n,) or (systems, n)) as an array of shape (1 or systems, 1 or n)."""
    return np.atleast_2d(np.array(tolerance, dtype=float))


def _rows_of(table: np.ndarray, some: slice) -> np.ndarray:
    return table[some] if len(table) > 1 else table


class FormulaSolve(torch.autograd.Function):
    """The states of B systems for initial states y0 (B, n) and parameters theta (1 or B, m), in the dtype of y0."""

    @staticmethod
    def forward(ctx, systems: Systems, y0: Tensor, theta: Tensor) -> Tensor:
        ctx.systems, ctx.theta_dtype = systems, theta.dtype
        # Copy y0 and theta, since the caller may change them before the backward pass.
        states = systems.march(np.array(y0.numpy(), dtype=float), np.array(theta.numpy(), dtype=float))
        return torch.from_numpy(states).to(y0.dtype)

    @staticmethod
    @once_differentiable
    @finite_gradients
    def backward(ctx, cotangents: Tensor):
        y0_bar, theta_bar = map(torch.from_numpy, ctx.systems.adjoint_sweep(cotangents.double().contiguous().numpy()))
        return None, y0_bar.to(cotangents.dtype), theta_bar.to(ctx.theta_dtype)


class FormulaCall:
    """One solve of a single system, and the data that its adjoint needs."""

    def __init__(self, solver: FormulaSolver, times: Times, tolerances: Sequence[np.ndarray]):
        self.solver, self.times, self.tolerances = solver, times, tolerances

    def march(self, state: np.ndarray, theta: np.ndarray, keep: bool) -> np.ndarray:
        """Return the states (T, n) and set `counts`; if `keep`, also store the data that `adjoint_sweep` needs."""
        self.systems = Systems(self.solver, [self.times], self.tolerances, differentiated=keep)
        try:
            states = self.systems.march(state.astype(float)[None], theta[None]).astype(state.dtype, copy=False)
        except Failure as failure:
            raise failure.error from None
        self.counts = tuple(self.systems.counts[0].tolist())
        require_finite(states, self.times)
        return states

    def adjoint_sweep(
        self, cotangents: np.ndarray, wants_state: bool, wants_parameters: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients with respect to the initial state and to all parameters."""
        y0_bar, theta_bar = (bar[0] for bar in self.systems.adjoint_sweep(cotangents.astype(float, copy=False)))
        bars = y0_bar.astype(cotangents.dtype, copy=False), theta_bar
        wanted = [bar for bar, wants in zip(bars, (wants_state, wants_parameters)) if wants]
        if not math.isfinite(sum(bar.sum() for bar in wanted)):
            require_finite_gradients(map(torch.from_numpy, wanted), [torch.from_numpy(cotangents)])
        return bars
