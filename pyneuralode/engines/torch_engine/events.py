"""Events: where a condition on time and state crosses zero, and how that moment depends on what led to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ...problem import Event, EventTrace, Problem, Solution
from ..state import Layout, all_finite, as_tensor
from .batched.event_monitor import PROBES, EventMonitor, crosses, locate_events, undefined_condition_error
from .gradient_methods import Task, moved
from .march import fixed_grid, march

Rows = Callable[[Tensor, Tensor], Tensor]


def solve(problem: Problem, task: Task, y0: Tensor, layout: Layout, again: Callable[[Problem], Solution]) -> Solution:
    """Solve with events: march once to find them, then through the times asked for and theirs.

    The second solve is an ordinary one, with the gradient that was asked for, and ends at the terminal event. There
    the event's time is corrected by one Newton step, which also connects it to autograd.
    """
    if task.control.step_size is None and fixed_grid(task.method.tableau, task.ts, task.control) is not None:
        raise ArgumentError(needs_steps(problem.solver))
    values = condition_values(problem.events, layout)
    found = _find(EventMonitor(problem.events, values), layout, task, y0.detach())
    forward = task.ts[-1] > task.ts[0]
    moments, which, parts = ([event[i] for event in found] for i in range(3))
    terminal = next((i for i, event in enumerate(which) if problem.events[event].terminal), None)
    last = task.ts[-1] if terminal is None else moments[terminal]
    kept = sum(t <= last if forward else t >= last for t in task.ts)
    whole, places = _with_times(problem.ts, kept, moments, forward)

    start = problem.y0 if not layout.numpy else layout.unpack(y0)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not layout.numpy):
        solution = again(replace(problem, y0=start, ts=whole, events=()))
        states = _flat(solution.ys, layout)
        there = torch.tensor(moments, dtype=torch.float64, device=y0.device), states[places[kept:]]
        corrected = attach(
            lambda t, y: task.f(t[0].to(y.dtype), y[0])[None],
            values,
            torch.zeros(len(found), dtype=torch.int64),
            torch.tensor(which, dtype=torch.int64),
            *there,
            (_time(task.ts[0], y0), y0.detach()[None]),
        )
        times, ends = _nearer(values, which, parts, there, corrected)
    return replace(
        solution,
        ts=problem.ts[:kept] if isinstance(problem.ts, Tensor) else np.asarray(problem.ts, dtype=float)[:kept],
        ys=layout.deliver(states[places[:kept]]),
        nfev=solution.nfev + task.statistics.nfev,
        message=message(-1, last) if terminal is None else message(which[terminal], float(times[terminal].detach())),
        events=EventTrace(times.numpy() if layout.numpy else times, layout.deliver(ends), np.array(which, dtype=int)),
        again=None,  # it would not look for events
    )


def needs_steps(solver: Any) -> str:
    name = solver if isinstance(solver, str) else solver.name
    return (
        f"solver is {name!r}, which steps from one time to the next and finds no events between them: give a step_size, such as "
        "step_size=0.01, or take an adaptive solver such as Tsit5."
    )


def message(which: int, t: float) -> str:
    return "reached the last time" if which < 0 else f"event {which} at t = {t:g}"


def condition_values(events: tuple[Event, ...], layout: Layout) -> Rows:
    """Return ``values(t (1,), y (1, n))`` -> (events, 1) for conditions on a whole state."""

    def values(t: Tensor, y: Tensor) -> Tensor:
        time, state = t[0].to(y.dtype), layout.unpack(y[0])
        return torch.cat([_numbers(event.condition(time, state), i, y, 1) for i, event in enumerate(events)]).view(
            -1, 1
        )

    return values


def batched_conditions(events: tuple[Event, ...], shape: torch.Size) -> Rows:
    """Return ``values(t (m,), y (m, n))`` -> (events, m) for conditions on samples, each a state of `shape`."""

    def values(t: Tensor, y: Tensor) -> Tensor:
        time, states = t.to(y.dtype).view(len(t), *[1] * len(shape)), y.view(len(y), *shape)
        return torch.stack([_numbers(event.condition(time, states), i, y, len(y)) for i, event in enumerate(events)])

    return values


def of_sample(events: tuple[Event, ...], b: int, times: Tensor, states: Tensor) -> tuple[Event, ...]:
    """Return the events of sample `b` solved alone.

    Their conditions are asked about all samples, as they may hold something of their own for each: the others wait at
    `times` (B,) and `states` (B, *state).
    """
    row, axes = torch.tensor([b], device=states.device), [1] * (states.ndim - 1)

    def alone(index: int, event: Event) -> Event:
        def condition(t: Tensor, y: Tensor) -> Tensor:
            time = times.to(y.dtype).index_put((row,), t.reshape(1)).view(-1, *axes)
            whole = states.index_put((row,), y.reshape(1, *states.shape[1:]))
            return _numbers(event.condition(time, whole), index, y, len(states))[b]

        return replace(event, condition=condition)

    return tuple(alone(index, event) for index, event in enumerate(events))


_NO_NUMBERS = {torch.bool: "True or False", np.dtype(bool): "True or False"} | dict.fromkeys(
    (torch.complex64, torch.complex128, np.dtype(np.complex64), np.dtype(np.complex128)), "complex numbers"
)


def _numbers(value: Any, index: int, y: Tensor, count: int) -> Tensor:
    kind = value.dtype if isinstance(value, Tensor) else np.asarray(value).dtype
    if kind in _NO_NUMBERS or kind == object:
        found = type(value).__name__ if kind == object else _NO_NUMBERS[kind]
        raise ArgumentError(
            f"the condition of event {index} returns {found}: return a number that crosses zero, such as y[0] - 1."
        )
    value = torch.as_tensor(value, dtype=y.dtype, device=y.device)
    if value.numel() != count or value.ndim > 1 and count > 1:
        wanted = "one number" if count == 1 else f"one number for each sample, shape ({count},)"
        more = "; with batch='independent' there is one for each sample" if count == 1 else ""
        raise ArgumentError(
            f"the condition of event {index} returns shape {tuple(value.shape)}: it must return {wanted}{more}."
        )
    return value.reshape(count).clone()  # the next condition may fill the same memory


@torch.no_grad()
def _find(watch: EventMonitor, layout: Layout, task: Task, y0: Tensor) -> list[tuple[float, int, float]]:
    """Return time, index and length of the part of a step it lies in, of every event in order, up to the first terminal one."""
    found, start = [], task.ts[0]
    before = next(_numbers_at([start], y0[None], watch.events, layout))
    if any(map(math.isnan, before)):
        raise undefined_condition_error([math.isnan(value) for value in before].index(True), start)
    direction = math.copysign(1.0, task.ts[-1] - start)
    span = [start, task.ts[-1]]
    for stop in march(task.method, task.f, y0, span, task.control, task.statistics, task.norm, dense=True):
        step = stop.step
        if not all_finite(step.end):
            break  # the solve itself will tell
        times = [step.t + part * step.h for part in PROBES]
        states = torch.cat([step.at(times), step.end[None]])
        times.append(step.t_end)
        for end, after in zip(times, _numbers_at(times, states, watch.events, layout)):
            happens = any(b != b or crosses(a, b, e.direction) for a, b, e in zip(before, after, watch.events))
            if happens:
                met = locate_events(
                    watch,
                    lambda t, step=step: step.at(t.tolist()),
                    (_time(start, y0), _time(end, y0)),
                    tuple(y0.new_tensor(values)[:, None] for values in (before, after)),
                    _time(direction, y0),
                )
                order = sorted((time, which) for which, time in enumerate(met.times[:, 0].tolist()) if time < math.inf)
                found += [(direction * time, which, abs(end - start)) for time, which in order]
                if bool(torch.isfinite(met.terminal_time)):
                    return found
            start, before = end, after
    return found


def _numbers_at(times: list[float], states: Tensor, events: tuple[Event, ...], layout: Layout) -> Iterator[list[float]]:
    """Yield the conditions' numbers at times (k,) and states (k, n), one time after the other and none before it is wanted."""
    moments = torch.tensor(times, dtype=states.dtype, device=states.device).unbind()
    parts = layout.unpack(states)
    unpacked = zip(*(part.unbind() for part in parts)) if layout.is_tuple else parts.unbind()
    for t, y in zip(moments, unpacked):
        yield [float(_numbers(event.condition(t, y), i, states, 1)) for i, event in enumerate(events)]


def _time(t: float, y: Tensor) -> Tensor:
    return torch.tensor([t], dtype=torch.float64, device=y.device)


def _with_times(ts: Any, kept: int, moments: list[float], forward: bool) -> tuple[Tensor, Tensor]:
    """Return the first `kept` times and the events' as one monotone tensor, and where each of them went."""
    own = as_tensor("ts", ts).to(torch.float64)[:kept]
    both = torch.cat([own, torch.tensor(moments, dtype=torch.float64, device=own.device)])
    _, places = torch.unique(both.detach(), return_inverse=True)  # sorted, rising
    if not forward:
        places = places.max() - places
    # Of a time given twice the first one counts: it is the user's, which may require a gradient.
    first = torch.full((int(places.max()) + 1,), len(both), device=both.device)
    first = first.scatter_reduce(0, places, torch.arange(len(both), device=both.device), "amin")
    return both[first], places


def _nearer(
    values: Rows, which: list[int], parts: list[float], there: tuple[Tensor, Tensor], corrected: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return times (p,) and states (p, n) `corrected` by Newton's step, or those `there` where it leads away from the event.

    It does where the condition is no line near the event: flat, as it grazes zero, or a jump made smooth. What stays is as
    good as the steps are, and connected to autograd as if it had moved.
    """
    good = torch.ones(len(which), dtype=torch.bool, device=there[0].device)
    with torch.no_grad():
        for i, (event, part) in enumerate(zip(which, parts)):
            before, after = (values(t[i : i + 1], y[i : i + 1])[event, 0].abs() for t, y in (there, corrected))
            good[i] = (after <= before) & ((corrected[0][i] - there[0][i]).abs() <= part)
    t, y = (old.detach() + (new - new.detach()) for old, new in zip(there, corrected))
    return torch.where(good, corrected[0], t), torch.where(good[:, None], corrected[1], y)


def _flat(ys: Any, layout: Layout) -> Tensor:
    parts = ys if layout.is_tuple else (ys,)
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)


def attach(
    f: Rows, values: Rows, rows: Tensor, which: Tensor, times: Tensor, states: Tensor, idle: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the times (p,) and states (p, n) of events, moved onto the events and connected to autograd.

    With g the condition along the solution, an event's time is t - g / (dg/dt) for any t near it (Newton), which makes
    its first derivative right too, even where dg/dt is taken for a constant (implicit function theorem; Chen, Amos and
    Nickel, ICLR 2021). Another step, from the state moved to there, makes the second one right.

    Parameters
    ----------
    f, values : callable
        Slopes and conditions of all m rows at once.
    rows, which : (p,)
        Row and index of each event, sorted by row.
    times, states : (p,) and (p, n)
        A fixed time near each event, and the state there, connected to autograd.
    idle : (m,) and (m, n)
        Times and states for rows that have no event to be moved.
    """
    if not len(rows):
        return times, states
    rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    order, ends, moments = [], [], []
    for turn in range(int(rank.max()) + 1):  # the first event of every row together, then the second ones
        mine = (rank == turn).nonzero()[:, 0]
        row, index = rows[mine], which[mine]
        t = idle[0].index_put((row,), times[mine])
        y = idle[1].index_put((row,), states[mine])
        with torch.no_grad():
            slopes = f(t, y)[row]
        rate = _rate(values, t, y.detach(), slopes, row, index)
        t_end, y_end = t, y
        for _ in range(2):
            t_end = t_end.index_put(
                (row,), -_newton(values(t_end, y_end)[index, row], rate).to(t.dtype), accumulate=True
            )
            y_end = moved(f, t, t_end, y, (t_end - t).to(y.dtype)[:, None], twice=True)
        order.append(mine)
        ends.append(y_end[row])
        moments.append(t_end[row])
    back = torch.argsort(torch.cat(order))
    return torch.cat(moments)[back], torch.cat(ends)[back]


def _newton(value: Tensor, rate: Tensor) -> Tensor:
    """Return Newton's steps (q,); none where a condition changes its sign through infinity, as 1 / (t - 1) does."""
    return torch.where(torch.isfinite(value), value, 0.0) / rate


@torch.enable_grad()
def _rate(values: Rows, t: Tensor, y: Tensor, slopes: Tensor, row: Tensor, index: Tensor) -> Tensor:
    """Return the total derivative (q,) of each condition along the solution; infinite where it is zero or unknown."""
    try:
        t, y = t.clone().requires_grad_(), y.clone().requires_grad_()
    except RuntimeError as error:  # torch.func's transformations do not let a graph begin inside them
        raise ArgumentError(
            "events do not pass through the transformations of torch.func: take torch.autograd.grad or "
            "torch.autograd.forward_ad."
        ) from error
    rate = torch.zeros_like(slopes[:, 0])
    try:
        value = values(t, y)[index, row].sum()
    except RuntimeError as error:
        if "requires grad" not in str(error):  # torch's word for a tensor that NumPy cannot take
            raise
        value = rate
    if value.requires_grad:
        by_time, by_state = torch.autograd.grad(value, (t, y), allow_unused=True)
        if by_time is not None:
            rate = rate + by_time[row].to(rate.dtype)
        if by_state is not None:
            rate = rate + (by_state[row] * slopes).sum(1)
    return torch.where((rate == 0) | rate.isnan(), math.inf, rate)
