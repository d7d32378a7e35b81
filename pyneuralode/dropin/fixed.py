"""Solves with fixed steps: from each output time to the next, of a given size, or along the user's grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..engines.torch_engine.tangents import carries_derivatives
from ..errors import SolverError
from .adams import Adams
from .errors import InvalidArgumentError
from .event import locate_event
from .options import AdamsOptions, FixedOptions, read_options
from .problem import FlatProblem
from .runge_kutta import RungeKuttaStep
from .slope import Time
from .tableaus import FIXED

MOST_EVENT_STEPS = 20000

# (t, t_end, h, y) -> the state at the end of the step and the derivative at its start
Stepper = Callable[[Time, Time, Time, Tensor], tuple[Tensor, Tensor]]


def make_stepper(problem: FlatProblem) -> tuple[Stepper, FixedOptions]:
    """Return the method's step function and its options."""
    ignored = ("norm",)
    if problem.method not in FIXED:
        options = read_options(AdamsOptions, problem.method, problem.options, ignored)
        return Adams(problem, options, options.implicit and problem.method != "explicit_adams"), options
    options = read_options(FixedOptions, problem.method, problem.options, ignored)
    tableau, slope = FIXED[problem.method], problem.slope
    before, after = (-1, 1) if options.perturb else (0, 0)

    def step(t: Time, t_end: Time, h: Time, y: Tensor) -> tuple[Tensor, Tensor]:
        first = slope(t, y, after)
        return RungeKuttaStep(tableau, slope, t, t_end, h, y, first, before).end, first

    return step, options


def integrate(problem: FlatProblem) -> Tensor:
    """Solve with fixed steps and return the states (T, n) at the output times."""
    step, options = make_stepper(problem)
    times = problem.times
    grid = make_grid(problem, options)
    ends, targets = grid.tolist(), times.tolist()
    if carries_derivatives(grid):
        knots, sizes = grid.unbind(), grid.diff().unbind()
    else:
        knots, sizes = ends, grid.diff().tolist()
    callback = problem.callbacks.get("callback_step")
    states, y, j = [problem.y0], problem.y0, 1
    for i, h in enumerate(sizes):
        t, t_end = knots[i], knots[i + 1]
        if callback is not None:
            callback(grid[i], y, grid[i + 1] - grid[i])
        end, first = step(t, t_end, h, y)
        last = None
        while j < len(targets) and ends[i + 1] >= targets[j]:
            if targets[j] == ends[i + 1]:
                states.append(end)
            else:
                if last is None and options.interp == "cubic":
                    last = problem.slope(t_end, end)
                theta = (times[j] - t) / h if problem.records_times else (targets[j] - ends[i]) / float(h)
                states.append(interpolate(theta, problem.slope.direction * h, y, end, first, last))
            j += 1
        y = end
    return torch.stack(states)


def make_grid(problem: FlatProblem, options: FixedOptions) -> Tensor:
    """Return the internal times to step through, from the first output time to the last."""
    times, slope = problem.times, problem.slope
    if options.step_size is not None:
        count = torch.ceil((times[-1] - times[0]).detach() / options.step_size + 1).item()
        grid = torch.arange(0, count, dtype=times.dtype, device=times.device) * options.step_size + times[0]
        return torch.cat([grid[:-1], times[-1:]])
    if options.grid_constructor is None:
        return times
    shape = problem.y0.shape if problem.layout.is_tuple else problem.layout.shapes[0]

    def func(t: Tensor, y: Tensor) -> Tensor:
        return slope.at(t, y.reshape(-1)).view(shape)

    user_times = slope.direction * times
    grid = slope.direction * options.grid_constructor(func, problem.y0.view(shape), user_times)
    if not bool((grid[0] == times[0]) & (grid[-1] == times[-1])):
        first, last = float(slope.direction * grid[0]), float(slope.direction * grid[-1])
        raise InvalidArgumentError(
            f"grid_constructor returned a grid from {first:g} to {last:g}: return a grid from "
            f"{float(user_times[0]):g} to {float(user_times[-1]):g}, like t."
        )
    return grid


def interpolate(theta: Time, h: Time, y: Tensor, end: Tensor, first: Tensor, last: Tensor | None) -> Tensor:
    """Return the state at fraction `theta` of a step: cubic Hermite interpolation, or linear if `last` is None.

    `first` and `last` are the derivatives at the ends of the step.
    """
    if last is None:
        return y + (end - y) * theta
    rest = 1 - theta
    return (
        ((1 + 2 * theta) * rest * rest) * y
        + (theta * rest * rest * h) * first
        + (theta * theta * (3 - 2 * theta)) * end
        - (theta * theta * rest * h) * last
    )


def integrate_until_event(problem: FlatProblem) -> tuple[float, Tensor]:
    """Solve with fixed steps until an event.

    Return the internal time of the event (see `FlatSlope`) and the states (2, n) at the start and at the event.
    """
    step, options = make_stepper(problem)
    if options.step_size is None:
        raise InvalidArgumentError(
            f"event_fn is given without options['step_size'], which {problem.method} needs to find events: set a step size."
        )
    event, y, h = problem.event, problem.y0, options.step_size
    t = problem.times[0].to(problem.time_dtype)  # steps are added in the state's precision, as in torchdiffeq
    t = t if problem.records_times else t.detach()
    value = event(float(t.detach()), y)
    if value == 0:
        return float(t.detach()), torch.stack([y, y])
    for _ in range(MOST_EVENT_STEPS):
        t_end = t + h
        end, first = step(t, t_end, h, y)
        if not event(float(t_end.detach()), end) * value > 0:
            break
        t, y = t_end, end
    else:
        at = problem.slope.direction * float(t.detach())
        raise SolverError(
            f"no event was found in {MOST_EVENT_STEPS} steps, up to t = {at:g}: check event_fn, or increase "
            "options['step_size'].",
            at,
            h,
        )
    last = problem.slope(t_end, end) if options.interp == "cubic" else None

    def state(time: float) -> Tensor:
        return interpolate((time - t) / h, problem.slope.direction * h, y, end, first, last)

    found = locate_event(event, state, value, float(t.detach()), float(t_end.detach()), problem.atol)
    return found, torch.stack([problem.y0, state(found)])
