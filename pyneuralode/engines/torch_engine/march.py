"""Time stepping by Runge-Kutta methods on flat torch tensors: one step, fixed and adaptive stepping, output at given times.

Everything here works on a one-dimensional state `y` and a function ``f(t: float, y) -> dy/dt``. Step sizes are Python
floats, so a graph recorded by autograd contains only the arithmetic of the accepted steps.

A method has a `tableau` (only its order and error are used here). Each solve calls `method.stepper()` once and takes
its steps with ``stepper.step(f, t, t_end, y, carry, tolerance)``. A step has the attributes of `Step`: its start,
its end, the state in between, its error, and two objects from which another step can start: `carry` (for the next step)
and `retry` (for a shorter step from the same point). If a step failed, its `failure` says why.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, SolverError
from ...problem import Control, Statistics
from ...tableaus import Tableau
from .step_size import (
    MAX_FACTOR,
    MIN_STEP_SPACINGS,
    initial_step_size,
    size_after_rejection,
    size_after_step,
    trial_step_size,
)

Slope = Callable[[float, Tensor], Tensor]
Norm = Callable[[Tensor], Tensor]


class Tolerance(NamedTuple):
    """How an error is measured: by a norm, in units of rtol |y| + atol."""

    rtol: float | Tensor
    atol: float | Tensor
    norm: Norm


class Method:
    """A tableau as tensors of a given dtype and device, without its zero weights."""

    def __init__(self, tableau: Tableau, dtype: torch.dtype, device: torch.device):
        self.tableau = tableau
        s = tableau.stages
        rows = [tableau.A[i, :i] for i in range(1, s)] + [tableau.b]
        self.estimate_count = 0 if tableau.error is None else len(tableau.error)
        rows += [] if tableau.error is None else list(tableau.error)
        rows += [] if tableau.extra_A is None else [row[: s + i] for i, row in enumerate(tableau.extra_A)]
        self.nonzero = [np.flatnonzero(row).tolist() for row in rows]
        self.sizes = [len(nonzero) for nonzero in self.nonzero]
        flat = np.concatenate([row[nonzero] for row, nonzero in zip(rows, self.nonzero)])
        self.coefficients = np.split(flat, np.cumsum(self.sizes)[:-1])
        self.weights = torch.tensor(flat, dtype=dtype, device=device)
        self.c = tableau.c.tolist() + ([] if tableau.extra_c is None else tableau.extra_c.tolist())
        self.dtype, self.device = dtype, device
        # The index of the stage at the end of the step, if there is one; it becomes the first stage of the next step.
        self.end_stage = tableau.end_stage

    def stepper(self) -> Method:
        return self

    def step(self, f: Slope, t: float, t_end: float, y: Tensor, carry: Any = None, tolerance: Any = None) -> Step:
        # The `carry` of a method for stiff problems is an object that contains the slope.
        return Step(self, f, t, t_end, y, getattr(carry, "slope", carry))


class Step:
    """One step from (t, y) to (t_end, end): the stages, and the state at any time in between."""

    __slots__ = ("_weights", "end", "f", "h", "method", "stages", "t", "t_end", "y")
    failure: str | None = None

    def __init__(self, method: Method, f: Slope, t: float, t_end: float, y: Tensor, slope: Tensor | None = None):
        self.method, self.f, self.t, self.t_end, self.y = method, f, t, t_end, y
        self.h = t_end - t
        self._weights = (method.weights * self.h).split(method.sizes)
        self.stages = [f(t, y) if slope is None else slope]
        s = method.tableau.stages
        for i in range(1, s):
            at = self._combine(i - 1)
            self.stages.append(f(stage_time(self, method.c[i]), at))
        self.end = at if method.tableau.fsal else self._combine(s - 1)

    def _combine(self, row: int) -> Tensor:
        nonzero = self.method.nonzero[row]
        if len(nonzero) == 1:
            return torch.add(self.y, self.stages[nonzero[0]], alpha=float(self.method.coefficients[row][0]) * self.h)
        stack = torch.stack([self.stages[j] for j in nonzero])
        return torch.addmv(self.y, stack.t(), self._weights[row])

    def extend(self) -> None:
        """Evaluate the extra stages that only the interpolant needs."""
        for i in range(len(self.stages), len(self.method.c)):
            at = self.end if i == self.method.end_stage else self._combine(i + self.method.estimate_count)
            self.stages.append(self.f(stage_time(self, self.method.c[i]), at))

    @property
    def end_slope(self) -> Tensor | None:
        """The slope dy/dt at the end of the step, or None if this step did not evaluate it."""
        i = self.method.end_stage
        return self.stages[i] if i is not None and i < len(self.stages) else None

    @property
    def carry(self) -> Tensor | None:
        return self.end_slope

    @property
    def retry(self) -> Tensor:
        return self.stages[0]

    def at(self, times: list[float]) -> Tensor:
        """Return the states (len(times), n) at times inside the step."""
        self.extend()
        return torch.addmm(self.y, interpolate(self, times, self.h), torch.stack(self.stages))

    def error(self, rtol: float | Tensor, atol: float | Tensor, norm: Norm) -> float:
        """Return the norm of the estimated error divided by the tolerance; a step is accepted if this is at most 1."""
        s = self.method.tableau.stages
        with torch.no_grad():
            scale = torch.maximum(self.y.abs(), self.end.abs()).mul_(rtol).add_(atol)
            estimates = []
            for row in range(s, s + self.method.estimate_count):
                stack = torch.stack([self.stages[j] for j in self.method.nonzero[row]])
                estimates.append(float(norm(torch.mv(stack.t(), self._weights[row]).div_(scale))))
        if len(estimates) == 1 or estimates[0] == 0:
            return estimates[0]
        # As in Hairer's dop853: the fifth-order estimate, corrected by the third-order estimate.
        fifth, third = estimates
        return fifth * (fifth / math.hypot(fifth, 0.1 * third))

    def interpolant_error(self, *_) -> float:
        """Return 0: an explicit method's dense output is about as accurate as its steps."""
        return 0.0


def stage_time(step: Step, c: float) -> float:
    """Return the time of a stage: exactly `t_end` at the end of the step, as the field may be undefined beyond it."""
    return step.t_end if c == 1 else step.t + c * step.h


def interpolate(step: Step, times: list[float], scale: float = 1.0) -> Tensor:
    """Return the weights (len(times), stages) of the stages of `step` in its dense output, multiplied by `scale`."""
    interpolant = step.method.tableau.interpolant
    theta = (np.asarray(times) - step.t) / step.h
    powers = theta[:, None] ** np.arange(1, interpolant.shape[1] + 1)
    return torch.tensor(scale * powers @ interpolant.T, dtype=step.y.dtype, device=step.y.device)


def rms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x) / math.sqrt(x.numel())


def largest_rms(sizes: Sequence[int]) -> Norm:
    """Return the norm that is the largest root mean square over consecutive parts of these sizes."""
    if len(sizes) == 1:
        root = math.sqrt(sizes[0])
        return lambda x: torch.linalg.vector_norm(x) / root
    roots = torch.tensor([math.sqrt(size) for size in sizes if size], dtype=torch.float64)

    def norm(x: Tensor) -> Tensor:
        parts = [torch.linalg.vector_norm(part) for part in x.split(sizes) if part.numel()]
        return (torch.stack(parts) / roots.to(x.real)).max()

    return norm


def error_norm(control: Control, shapes: Sequence[torch.Size]) -> Norm:
    """Return the norm that `control` specifies, for a state whose parts have these shapes."""
    if control.norm == "joint" or (len(shapes) == 1 and len(shapes[0]) < 2):
        return rms
    samples = shapes[0][0] if shapes[0] else None
    if samples is None or any(shape[:1] != (samples,) for shape in shapes):
        raise ArgumentError(
            f"norm is 'samples', but the state's parts have shapes {', '.join(str(tuple(s)) for s in shapes)}: give all parts "
            "the same number of samples along the first axis, or use norm='joint'."
        )
    sizes = [shape.numel() for shape in shapes]

    def norm(x: Tensor) -> Tensor:
        rows = torch.cat([part.view(samples, -1) for part in x.split(sizes)], dim=1)
        return torch.linalg.vector_norm(rows, dim=1).max() / math.sqrt(rows.shape[1])

    return norm


def step_tolerance(control: Control, y: Tensor, norm: Norm = rms, adaptive: bool = True) -> Tolerance:
    """Return the tolerance for steps from `y`; for iterations inside fixed steps, it is near rounding error."""
    if not adaptive:
        rounding = 1e3 * torch.finfo(y.dtype).eps
        return Tolerance(rounding, rounding, norm)
    rtol, atol = (
        v if np.ndim(v) == 0 else torch.tensor(v, dtype=y.dtype, device=y.device) for v in (control.rtol, control.atol)
    )
    return Tolerance(rtol, atol, norm)


class Monitor(Protocol):
    """An object that examines the steps of a solve as they are taken, to find events."""

    def look(self, step: Step, times: list[float]) -> tuple[list[float], bool]:
        """Return the output times within the step, in order, and whether the solve ends at the last of them.

        `times` are the output times within the step that the caller of the solve requested.
        """
        ...


@dataclass
class StepOutputs:
    """One step of a solve, and the output times that fall inside it, in order."""

    step: Step
    times: list[float]

    def states(self) -> Tensor:
        """Return the states (len(times), n) at the output times."""
        step = self.step
        inside = [t for t in self.times if t != step.t_end]
        ends = step.end.expand(len(self.times) - len(inside), -1)
        return torch.cat([step.at(inside), ends]) if inside else ends


@dataclass
class Task:
    """A flat initial-value problem: the function `f`, times, method, control, and the tensors that `f` depends on.

    `parameters` require gradients; `constants` do not, and must not change before the gradients have been computed. A
    `monitor` examines the steps for events; the states at the events are then returned too, and an event may end the
    solve.
    """

    f: Slope
    ts: list[float]
    method: Method
    control: Control
    statistics: Statistics
    norm: Norm = rms
    monitor: Monitor | None = None
    parameters: tuple[Tensor, ...] = ()
    constants: tuple[Tensor, ...] = ()


def _fixed_march(task: Task, y: Tensor, grid: list[float]) -> Iterator[Step]:
    """Step through the times of `grid`."""
    tolerance = step_tolerance(task.control, y, task.norm, adaptive=False)
    stepper, carry = task.method.stepper(), None
    for t, t_end in zip(grid, grid[1:]):
        step = stepper.step(task.f, t, t_end, y, carry, tolerance)
        if step.failure:
            raise SolverError(
                f"the step of {abs(step.h):.3g} at t = {t:g} failed because {step.failure}: give a smaller step_size, or leave "
                "it out for adaptive steps.",
                t,
                abs(step.h),
            )
        task.statistics.accepted += 1
        yield step
        y, carry = step.end, step.carry


class InterpolantControl:
    """The error control for states requested between the ends of steps, at `times` or `everywhere`.

    A step that is not accurate enough at the times inside it is repeated. The new step ends at the first of these times
    if a sufficiently accurate step would not reach beyond it; otherwise it has a smaller size.
    """

    def __init__(self, times: list[float], everywhere: bool):
        self.times, self.everywhere = times, everywhere
        self.sign = 1 if times[-1] > times[0] else -1
        self.signed = [self.sign * t for t in times]
        self.requested: list[float] = []  # within the last step

    def error(self, step: Step, f: Slope, tolerance: Tolerance) -> float:
        """Return the largest estimated error, divided by the tolerance, at up to three times inside a step."""
        if self.everywhere:
            self.requested = [step.t + quarter * step.h / 4 for quarter in (1, 2, 3)]
        else:
            first = bisect_right(self.signed, self.sign * step.t)
            self.requested = self.times[first : bisect_left(self.signed, self.sign * step.t_end)]
        places = {self.requested[quarter * len(self.requested) // 4] for quarter in (1, 2, 3)} if self.requested else ()
        return step.interpolant_error(f, sorted(places), *tolerance) if places else 0.0

    def next_stop(self, t: float, shorter: float) -> float | None:
        """Return the time at which the repeated step from t must end, or None if it should have size `shorter`."""
        first = self.requested[0]
        return first if not self.everywhere and shorter <= abs(first - t) else None


def _adaptive_march(
    task: Task, y: Tensor, initial_size: float | None, interpolant_control: InterpolantControl | None
) -> Iterator[Step]:
    """Yield accepted steps from the first time to the last, in either direction of time.

    `interpolant_control` is given if states between the ends of steps are requested: it repeats steps that are not
    accurate enough there. Tolerances are numbers or NumPy arrays (n,).
    """
    f, control, statistics, t, t_end = task.f, task.control, task.statistics, task.ts[0], task.ts[-1]
    tolerance, stepper = step_tolerance(control, y, task.norm), task.method.stepper()
    direction = math.copysign(1.0, t_end - t)
    carry = f(t, y)
    if not bool(torch.isfinite(carry).all()):
        raise bad_start_error(t)
    size = initial_size or control.first_step or _initial_size(task, y, carry, *tolerance)
    previous, growth, output_stop = 1.0, MAX_FACTOR, None
    _, *stops = stop_times(task.ts, control)
    while t != t_end:
        if statistics.accepted + statistics.rejected >= control.max_steps:
            raise too_many_steps_error(control, t, size)
        smallest = smallest_step(control, t)
        size = max(min(size, control.max_step), smallest)
        stop = stops[0] if output_stop is None else output_stop
        remaining = abs(stop - t)
        cut = size >= remaining
        step = stepper.step(f, t, stop if cut else t + direction * size, y, carry, tolerance)
        error, order = step.error(*tolerance), step.method.tableau.error_order + 1
        interpolant_error = (
            interpolant_control.error(step, f, tolerance) if interpolant_control is not None and error <= 1 else 0.0
        )
        error = max(error, interpolant_error)  # this order of the arguments preserves a NaN
        finite = math.isfinite(error)
        if finite and error <= 1:
            statistics.accepted += 1
            yield step
            t, y, carry, output_stop = step.t_end, step.end, step.carry, None
            size = size_after_step(step.h, size if cut else abs(step.h), error, previous, growth, order)
            previous, growth = max(error, 1e-4), MAX_FACTOR
            if t == stops[0]:
                del stops[0]
        else:
            statistics.rejected += 1
            carry, shorter = step.retry, size_after_rejection(step.h, error, finite, order)
            output_stop = interpolant_control.next_stop(t, shorter) if interpolant_error > 1 else None
            if output_stop is not None:
                continue
            if min(size, remaining) <= smallest:
                raise too_small_step_error(control, t, shorter, finite, step.failure)
            size, growth = shorter, 1.0  # the step after a rejection does not grow


def smallest_step(control: Control, t: float) -> float:
    return max(control.min_step, MIN_STEP_SPACINGS * math.ulp(t))


def bad_start_error(t: float) -> SolverError:
    return SolverError(
        f"the field returned a non-finite value at the start, t = {t:g}: check the initial state and the parameters.",
        t,
    )


def not_finite_error(t: float) -> SolverError:
    return SolverError(
        f"the state is non-finite at t = {t:g}: use smaller steps or an adaptive solver such as Tsit5.", t
    )


def too_many_steps_error(control: Control, t: float, size: float) -> SolverError:
    return SolverError(
        f"the solve took max_steps = {control.max_steps} steps and reached t = {t:g} with a step of {size:.3g}: "
        "increase max_steps, loosen rtol and atol, or, if the problem is stiff, use a stiff solver.",
        t,
        size,
    )


def too_small_step_error(
    control: Control, t: float, size: float, finite: bool, failure: str | None = None
) -> SolverError:
    cause = failure or ("the error stays above the tolerance" if finite else "the state becomes non-finite")
    smallest = smallest_step(control, t)
    bound = "" if smallest == control.min_step else " (rounding of t allows no shorter step)"
    return SolverError(
        f"the step fell to {size:.3g} at t = {t:g}, below the minimum of {smallest:.3g}{bound}, because {cause}: "
        "look for a singularity there, loosen rtol and atol, or, if the problem is stiff, use a stiff solver.",
        t,
        size,
    )


@torch.no_grad()
def _initial_size(
    task: Task, y: Tensor, slope: Tensor, rtol: float | Tensor, atol: float | Tensor, norm: Norm
) -> float:
    t, span = task.ts[0], task.ts[-1] - task.ts[0]
    scale = y.abs() * rtol + atol
    d0, d1 = float(norm(y / scale)), float(norm(slope / scale))
    trial = trial_step_size(d0, d1, span, MIN_STEP_SPACINGS * math.ulp(t))
    move = math.copysign(trial, span)
    other = task.f(t + move, y + move * slope)
    return initial_step_size(trial, d1, float(norm((other - slope) / scale)) / trial, task.method.tableau.order)


def fixed_grid(tableau: Tableau, ts: list[float], control: Control) -> list[float] | None:
    """Return the times between which steps are taken, or None if the method adapts its steps."""
    stops = stop_times(ts, control)
    if control.step_size is None:
        if tableau.error is not None:
            return None
        return ts if len(stops) == 2 else sorted({*ts, *stops}, reverse=ts[-1] < ts[0])
    counts = [math.ceil(abs(end - start) / control.step_size * (1 - 1e-12)) for start, end in zip(stops, stops[1:])]
    if sum(counts) > control.max_steps:
        raise ArgumentError(
            f"step_size is {control.step_size}, and the time span needs {sum(counts)} steps of this size, more than "
            f"max_steps = {control.max_steps}: increase one of the two."
        )
    step = math.copysign(control.step_size, ts[-1] - ts[0])
    return [start + i * step for start, count in zip(stops, counts) for i in range(count)] + [ts[-1]]


def stop_times(ts: list[float], control: Control) -> list[float]:
    """Return, in order, the first time, the times inside the span at which a step must end, and the last time."""
    low, high = min(ts[0], ts[-1]), max(ts[0], ts[-1])
    stops = [t for t in control.tstops if low < t < high]
    return [ts[0], *(stops if ts[-1] > ts[0] else reversed(stops)), ts[-1]]


def march(task: Task, y0: Tensor, dense: bool = False, initial_size: float | None = None) -> Iterator[StepOutputs]:
    """Solve from y0 (n,) through the times, in adaptive or fixed steps; yield each step with the output times inside it.

    With `dense`, states are requested everywhere inside the steps, not only at the times. `initial_size` is the size of
    the first adaptive step, if the caller knows a good one.
    """
    ts, monitor = task.ts, task.monitor
    grid = fixed_grid(task.method.tableau, ts, task.control)
    if grid is None:
        dense = dense or monitor is not None
        inside = not isinstance(task.method, Method) and (dense or len(ts) > 2)
        steps = _adaptive_march(task, y0, initial_size, InterpolantControl(ts, dense) if inside else None)
    else:
        steps = _fixed_march(task, y0, grid)
    sign = math.copysign(1.0, ts[-1] - ts[0])
    signed = [sign * t for t in ts]
    last, ended = 1, False
    for step in steps:
        first, last = last, bisect_right(signed, sign * step.t_end, lo=last)
        times = ts[first:last]
        if monitor is not None:
            times, ended = monitor.look(step, times)
        yield StepOutputs(step, times)
        if ended:
            return
