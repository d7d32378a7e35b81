"""The choice of each row's steps: by a step size controller, or from a grid of times."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ....errors import SolverError
from ....problem import Control
from ..march import bad_start_error, too_many_steps_error, too_small_step_error
from ..step_size import (
    DEFAULT_TRIAL_FRACTION,
    MAX_FACTOR,
    MAX_TRIAL_STEPS,
    MAX_TRIAL_STEPS_ORDER_3,
    MIN_FACTOR,
    MIN_STEP_SPACINGS,
    SAFETY,
)
from .slope import BatchedSlope
from .step import BatchedStep, rms


class AdaptiveControl:
    """The step size controller of ..step_size, with a separate step size, history and limits for each row."""

    evaluations = 1  # evaluations of the field in `start`, in addition to the slope passed to it

    def __init__(self, control: Control, order: int, error_order: int, rtol: float | Tensor, atol: float | Tensor):
        self.control, self.order, self.exponent, self.rtol, self.atol = control, order, error_order + 1, rtol, atol
        if control.first_step is not None:
            self.evaluations = 0

    def start(self, f: BatchedSlope, t: Tensor, t_end: Tensor, y: Tensor, slope: Tensor) -> None:
        if self.control.first_step is None:
            self.size = self._first_sizes(f, t, t_end, y, slope)
        else:
            self.size = torch.full_like(t, self.control.first_step)
        self.previous, self.growth = torch.ones_like(t), torch.full_like(t, MAX_FACTOR)
        self.finite, self.stuck = torch.ones_like(t, dtype=torch.bool), torch.zeros_like(t, dtype=torch.bool)
        self.stops = t.new_tensor([-math.inf, *self.control.tstops, math.inf])

    def take(self, rows: Tensor) -> None:
        """Keep only the given rows."""
        for name in ("size", "previous", "growth", "finite", "stuck", "rtol", "atol"):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])

    def has_failed(self, tried: Tensor) -> Tensor:
        """Return a mask of the rows that cannot take another step."""
        return self.stuck | (tried >= self.control.max_steps)

    def failure(self, row: int, t: float, tried: int) -> SolverError:
        size = float(self.size[row])
        if tried >= self.control.max_steps:
            return too_many_steps_error(self.control, t, size)
        return too_small_step_error(self.control, t, size, bool(self.finite[row]))

    def propose(self, t: Tensor, t_end: Tensor) -> Tensor:
        """Return the times at which the next steps end."""
        smallest = _smallest_sizes(t).clamp_min(self.control.min_step)
        self.size = torch.maximum(self.size.clamp_max(self.control.max_step), smallest)
        stop = self._next_stop(t, t_end) if self.control.tstops else t_end
        remaining = stop - t
        self.cut = self.size >= remaining.abs()
        self.smallest = torch.minimum(self.size, remaining.abs()) <= smallest
        return torch.where(self.cut, stop, t + torch.copysign(self.size, remaining))

    def _next_stop(self, t: Tensor, t_end: Tensor) -> Tensor:
        """Return the next time at which each row must end a step, at the latest its last time."""
        after = self.stops[1:][torch.searchsorted(self.stops[1:], t, right=True)]
        before = self.stops[torch.searchsorted(self.stops[:-1], t) - 1]
        return torch.where(t_end > t, torch.minimum(after, t_end), torch.maximum(before, t_end))

    def judge(self, step: BatchedStep) -> Tensor:
        """Return a mask of the rows that accept the step, and choose the next step sizes (Gustafsson 1991)."""
        k = self.exponent
        error = step.error(self.rtol, self.atol)
        accepted = error <= 1
        self.finite = torch.isfinite(error)
        bounded = error.clamp_min(1e-10)
        smooth = SAFETY * bounded.pow(-0.7 / k) * self.previous.pow(0.4 / k)
        retry = torch.where(self.finite, SAFETY * error.pow(-1 / k), MIN_FACTOR)
        factor = torch.where(
            accepted, torch.minimum(smooth.clamp_min(MIN_FACTOR), self.growth), retry.clamp_min(MIN_FACTOR)
        )
        size = step.h.abs() * factor
        if self.control.tstops:  # a step shortened to end at a stop must not shorten the next step
            size = torch.where(accepted & self.cut & (smooth >= 1), torch.maximum(size, self.size), size)
        self.size, self.stuck = size, ~accepted & self.smallest
        self.previous = torch.where(accepted, bounded.clamp_min(1e-4), self.previous)
        # The step after a rejection does not grow.
        self.growth = torch.where(accepted, MAX_FACTOR, torch.ones_like(error))
        return accepted

    def _first_sizes(self, f: BatchedSlope, t: Tensor, t_end: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        """Return the first step sizes (Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4)."""
        scale = y.abs() * self.rtol + self.atol
        d0, d1 = rms(y / scale), rms(slope / scale)
        remaining = t_end - t
        blind = (DEFAULT_TRIAL_FRACTION * remaining.abs()).clamp_max(1e-6)
        trial = torch.where((d0 < 1e-5) | (d1 < 1e-5), blind, 0.01 * d0 / d1)
        # The field may be undefined beyond the last time.
        trial = torch.minimum(torch.maximum(trial, _smallest_sizes(t)), remaining.abs())
        move = torch.copysign(trial, remaining)
        other = f(t + move, y + move.to(y.dtype)[:, None] * slope)
        largest = torch.maximum(d1, rms((other - slope) / scale) / trial)
        curved = (0.01 / largest).pow(1 / (self.order + 1))
        second = torch.where(largest <= 1e-15, (trial * 1e-3).clamp_min(1e-6), curved)
        size = torch.minimum((MAX_TRIAL_STEPS_ORDER_3 if self.order == 3 else MAX_TRIAL_STEPS) * trial, second)
        return torch.where(torch.isfinite(size), size, trial)


def _smallest_sizes(t: Tensor) -> Tensor:
    """Return the smallest step sizes allowed, a few spacings of the floating-point numbers around each time."""
    return MIN_STEP_SPACINGS * (torch.nextafter(t.abs(), torch.full_like(t, math.inf)) - t.abs())


class GridControl:
    """Steps between consecutive times of each row in grid (m, k); a row with fewer times repeats its last one."""

    evaluations = 0

    def __init__(self, grid: Tensor):
        self.grid = grid
        self.done = torch.zeros(len(grid), dtype=torch.int64, device=grid.device)

    def start(self, f: BatchedSlope, t: Tensor, t_end: Tensor, y: Tensor, slope: Tensor) -> None:
        pass

    def take(self, rows: Tensor) -> None:
        self.grid, self.done = self.grid[rows], self.done[rows]

    def has_failed(self, tried: Tensor) -> Tensor:
        return torch.zeros_like(tried, dtype=torch.bool)

    def propose(self, t: Tensor, t_end: Tensor) -> Tensor:
        following = (self.done + 1).clamp_max(self.grid.shape[1] - 1)
        return torch.where(t == t_end, t_end, self.grid.gather(1, following[:, None])[:, 0])

    def judge(self, step: BatchedStep) -> Tensor:
        self.done = self.done + 1
        return torch.ones_like(self.done, dtype=torch.bool)


def name_sample(error: SolverError, sample: int) -> SolverError:
    """Return the error with the sample's index in its message."""
    return SolverError(f"sample {sample}: {error}", error.t, error.step)


def bad_start_of(sample: int, t: float) -> SolverError:
    return name_sample(bad_start_error(t), sample)
