"""Who chooses the steps of the rows: a controller for each row, or a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ....errors import SolverError
from ...base import Control
from ..march import bad_start, too_many_steps, too_small_step
from ..step_size import GROW, SAFETY, SHRINK
from .slope import RowSlope
from .step import RowStep, rms


class AdaptiveControl:
    """The controller of ..step_size, with a size, a history and limits of its own for every row."""

    evaluations = 1  # of the field by `start`, beside the one given to it

    def __init__(self, control: Control, order: int, error_order: int, rtol: float | Tensor, atol: float | Tensor):
        self.control, self.order, self.exponent, self.rtol, self.atol = control, order, error_order + 1, rtol, atol
        if control.first_step is not None:
            self.evaluations = 0

    def start(self, f: RowSlope, t: Tensor, t_end: Tensor, y: Tensor, slope: Tensor) -> None:
        if self.control.first_step is None:
            size = self._first_sizes(f, t, t_end, y, slope)
        else:
            size = torch.full_like(t, self.control.first_step)
        self.size = size.clamp(self.control.min_step, self.control.max_step)
        self.previous, self.growth = torch.ones_like(t), torch.full_like(t, GROW)
        self.finite = torch.ones_like(t, dtype=torch.bool)

    def take(self, rows: Tensor) -> None:
        """Keep some of the rows."""
        for name in ("size", "previous", "growth", "finite", "rtol", "atol"):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])

    def failing(self, t: Tensor, t_end: Tensor, tried: Tensor) -> Tensor:
        """Return which rows cannot take another step."""
        smallest = 10 * (torch.nextafter(t.abs(), torch.full_like(t, math.inf)) - t.abs())
        short = (self.size < smallest.clamp_min(self.control.min_step)) & (self.size < (t_end - t).abs())
        return short | (tried >= self.control.max_steps)

    def failure(self, row: int, t: float, tried: int) -> SolverError:
        size = float(self.size[row])
        if tried >= self.control.max_steps:
            return too_many_steps(self.control, t, size)
        return too_small_step(self.control, t, size, bool(self.finite[row]))

    def propose(self, t: Tensor, t_end: Tensor) -> Tensor:
        """Return where the next steps end."""
        remaining = t_end - t
        return torch.where(self.size >= remaining.abs(), t_end, t + torch.copysign(self.size, remaining))

    def judge(self, step: RowStep) -> Tensor:
        """Return which rows accept the step, and choose the size of the next one of each (Gustafsson 1991)."""
        control, k = self.control, self.exponent
        error = step.error(self.rtol, self.atol)
        accepted = error <= 1
        self.finite = torch.isfinite(error)
        bounded = error.clamp_min(1e-10)
        smooth = SAFETY * bounded.pow(-0.7 / k) * self.previous.pow(0.4 / k)
        again = torch.where(self.finite, SAFETY * error.pow(-1 / k), SHRINK)
        factor = torch.where(accepted, torch.minimum(smooth.clamp_min(SHRINK), self.growth), again.clamp_min(SHRINK))
        size = step.h.abs() * factor
        if control.min_step:
            size = torch.where(accepted, size.clamp_min(control.min_step), size)
        self.size = size.clamp_max(control.max_step)
        self.previous = torch.where(accepted, bounded.clamp_min(1e-4), self.previous)
        self.growth = torch.where(accepted, GROW, torch.ones_like(error))  # the step after a rejection does not grow
        return accepted

    def _first_sizes(self, f: RowSlope, t: Tensor, t_end: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        """Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.4."""
        scale = y.abs() * self.rtol + self.atol
        d0, d1 = rms(y / scale), rms(slope / scale)
        remaining = t_end - t
        trial = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        trial = torch.minimum(trial, remaining.abs())  # the field may not be defined beyond
        move = torch.copysign(trial, remaining)
        other = f(t + move, y + move.to(y.dtype)[:, None] * slope)
        largest = torch.maximum(d1, rms((other - slope) / scale) / trial)
        curved = (0.01 / largest).pow(1 / (self.order + 1))
        second = torch.where(largest <= 1e-15, (trial * 1e-3).clamp_min(1e-6), curved)
        size = torch.minimum(100 * trial, second)
        return torch.where(torch.isfinite(size), size, trial)


class GridControl:
    """Steps from each time of a row's grid to the next; grid (m, k), its last time repeated where a row has fewer."""

    evaluations = 0

    def __init__(self, grid: Tensor):
        self.grid = grid
        self.done = torch.zeros(len(grid), dtype=torch.int64, device=grid.device)

    def start(self, f: RowSlope, t: Tensor, t_end: Tensor, y: Tensor, slope: Tensor) -> None:
        pass

    def take(self, rows: Tensor) -> None:
        self.grid, self.done = self.grid[rows], self.done[rows]

    def failing(self, t: Tensor, t_end: Tensor, tried: Tensor) -> Tensor:
        return torch.zeros_like(tried, dtype=torch.bool)

    def propose(self, t: Tensor, t_end: Tensor) -> Tensor:
        following = (self.done + 1).clamp_max(self.grid.shape[1] - 1)
        return torch.where(t == t_end, t_end, self.grid.gather(1, following[:, None])[:, 0])

    def judge(self, step: RowStep) -> Tensor:
        self.done = self.done + 1
        return torch.ones_like(self.done, dtype=torch.bool)


def of_sample(error: SolverError, sample: int) -> SolverError:
    """Return the error with the sample named."""
    return SolverError(f"sample {sample}: {error}", error.t, error.step)


def bad_start_of(sample: int, t: float) -> SolverError:
    return of_sample(bad_start(t), sample)
