"""Adaptive steps with torchdiffeq's controller, which may step beyond the last time and then interpolates."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..tableaus import Tableau
from .errors import SolveFailedError
from .event import locate_event
from .options import AdaptiveOptions, read_options
from .problem import FlatProblem
from .runge_kutta import RungeKuttaStep
from .tableaus import ADAPTIVE


def integrate(problem: FlatProblem) -> Tensor:
    """Solve with adaptive steps and return the states (T, n) at the output times."""
    times = problem.times.to(problem.time_dtype)
    ts = times.tolist()
    states = [problem.y0[None]]
    march = AdaptiveMarch(problem, ADAPTIVE[problem.method], ts[0]) if len(ts) > 1 else None
    j = 1
    while j < len(ts):
        march.reach(ts[j])
        first = j
        while j < len(ts) and ts[j] <= march.t:
            j += 1
        step = march.step
        if problem.records_times:
            theta = (times[first:j] - times[0] + (ts[0] - step.t)) / (step.t_end - step.t)
        else:
            theta = (np.array(ts[first:j]) - step.t) / (step.t_end - step.t)
        states.append(step.at(theta))
    return torch.cat(states)


def integrate_until_event(problem: FlatProblem) -> tuple[float, Tensor]:
    """Solve with adaptive steps until an event.

    Return the internal time of the event (see `FlatSlope`) and the states (2, n) at the start and at the event.
    """
    times = problem.times.to(problem.time_dtype)
    t0, event = float(times[0]), problem.event
    march = AdaptiveMarch(problem, ADAPTIVE[problem.method], t0)
    value = event(t0, problem.y0)
    if value == 0:
        return t0, torch.stack([problem.y0, problem.y0])
    march.reach(math.inf, lambda: not event(march.t, march.y) * value > 0)
    step = march.step

    def state(t: float) -> Tensor:
        theta = (t - step.t) / (step.t_end - step.t)
        if problem.records_times:
            return step.at((theta - (times[0] - t0) / (step.t_end - step.t))[None])[0]
        return step.at(np.array([theta]))[0]

    found = locate_event(event, state, value, step.t, step.t_end, problem.atol)
    return found, torch.stack([problem.y0, state(found)])


class AdaptiveMarch:
    """An adaptive solve in progress: current time, state and derivative, next step size, last accepted step."""

    def __init__(self, problem: FlatProblem, tableau: Tableau, t0: float):
        self.problem, self.tableau = problem, tableau
        self.options = read_options(AdaptiveOptions, problem.method, problem.options)
        dtype = problem.time_dtype
        exact = dtype == torch.float64
        self.rounded = (lambda t: t) if exact else (lambda t: float(torch.tensor(t, dtype=dtype)))
        self.t, self.y, self.step = t0, problem.y0, None
        self.first = problem.slope(t0, self.y)
        self.stops = self.options.stop_times(problem.slope.direction, t0)
        self.finite = True  # whether the error of the last trial was finite
        self.size = self.options.first_step or self.rounded(self._first_size())

    def reach(self, t: float, done: Callable[[], bool] | None = None) -> None:
        """Step until `t` is reached, or until `done()` is true after an accepted step."""
        trials = 0
        while self.t < t:
            if trials >= self.options.max_num_steps:
                raise self._failure(
                    f"the limit of max_num_steps = {self.options.max_num_steps:g} steps between outputs was reached",
                    "increase options['max_num_steps'], loosen rtol and atol, or use a stiff solver if the "
                    "problem is stiff",
                )
            trials += 1
            if self._try() and done is not None and done():
                break

    def _try(self) -> bool:
        """Try one step, set the size of the next step, and return whether this step was accepted."""
        options, problem, t, y = self.options, self.problem, self.t, self.y
        size = self.size if math.isfinite(self.size) else options.min_step
        size = min(max(size, options.min_step), options.max_step)
        self._call("callback_step", t, y, size)
        t_end = self.rounded(t + size)
        if not t_end > t:
            raise self._failure("the step size underflowed", self._remedy())
        if problem.has_user_norm and not bool(torch.isfinite(y).all()):
            raise self._failure("the state became non-finite", self._remedy())
        while self.stops and self.stops[0][0] <= t:
            del self.stops[0]
        jump = False
        if self.stops and self.stops[0][0] <= t_end:
            t_end, jump = self.stops[0]
            size = self.rounded(t_end - t)
        step = RungeKuttaStep(self.tableau, problem.slope, t, t_end, size, y, self.first, nudge=-1)
        ratio = self._error_ratio(step)
        self.finite = math.isfinite(ratio)
        accepted = ratio <= 1 or size <= options.min_step
        if accepted:
            if not self.finite:
                raise self._failure("the state became non-finite in a step of size min_step", self._remedy())
            self._call("callback_accept_step", t, y, size)
            self.t, self.y, self.step = t_end, step.end, step
            self.first = problem.slope(t_end, step.end, 1) if jump else step.stages[-1]
        else:
            self._call("callback_reject_step", t, y, size)
        self.size = min(max(self.rounded(size * self._factor(ratio)), options.min_step), options.max_step)
        return accepted

    @torch.no_grad()
    def _error_ratio(self, step: RungeKuttaStep) -> float:
        scale = torch.maximum(step.y.abs(), step.end.abs()).mul_(self.problem.rtol).add_(self.problem.atol)
        return abs(float(self.problem.norm(step.error().div_(scale))))

    def _factor(self, ratio: float) -> float:
        options = self.options
        if ratio == 0:
            return options.ifactor
        if math.isnan(ratio):  # torchdiffeq fails here; a smaller step may still succeed
            return options.dfactor
        smallest = 1.0 if ratio < 1 else options.dfactor
        return min(options.ifactor, max(options.safety / ratio ** (1 / self.tableau.order), smallest))

    @torch.no_grad()
    def _first_size(self) -> float:
        """Return the first step size (Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4)."""
        problem, y, slope = self.problem, self.y, self.first
        norm = problem.norm
        scale = y.abs().mul_(problem.rtol).add_(problem.atol)
        d0, d1 = abs(float(norm(y / scale))), abs(float(norm(slope / scale)))
        trial = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        if not trial > 0:
            self.finite = False
            return trial
        other = problem.slope(self.t + trial, torch.add(y, slope, alpha=problem.slope.direction * trial))
        d2 = abs(float(norm((other - slope) / scale))) / trial
        if d1 <= 1e-15 and d2 <= 1e-15:
            size = max(1e-6, trial * 1e-3)
        else:
            size = (0.01 / max(d1, d2)) ** (1 / self.tableau.order)
        return min(100 * trial, size)

    def _call(self, name: str, t: float, y: Tensor, size: float) -> None:
        if name in self.problem.callbacks:
            dtype = self.problem.time_dtype
            self.problem.callbacks[name](torch.tensor(t, dtype=dtype), y, torch.tensor(size, dtype=dtype))

    def _remedy(self) -> str:
        if not self.finite or not bool(torch.isfinite(self.y).all() & torch.isfinite(self.first).all()):
            return "func or the state is non-finite there: look for a singularity, and check y0 and the parameters"
        return (
            "the error stays above the tolerance: look for a singularity, loosen rtol and atol, or use a "
            "stiff solver if the problem is stiff"
        )

    def _failure(self, what: str, remedy: str) -> SolveFailedError:
        t = self.problem.slope.direction * self.t
        return SolveFailedError(f"{what} at t = {t:g} with a step of {self.size:.3g}: {remedy}.", t, self.size)
