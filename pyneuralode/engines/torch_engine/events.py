"""Events: where a condition on time and state crosses zero, and how that moment depends on what led to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ..base import Crossings, Event, Problem, Solution
from ..state import Layout
from .differentiate import Task
from .march import fixed_grid, march
from .rows.roots import root

Rows = Callable[[Tensor, Tensor], Tensor]


def solve(problem: Problem, task: Task, y0: Tensor, layout: Layout, again: Callable[[Problem], Solution]) -> Solution:
    """Solve with events: march once to find them, then through the times asked for and theirs.

    The second solve is an ordinary one, with the gradient that was asked for, and ends at the terminal event. There
    the event's time is corrected by one Newton step, which also connects it to autograd.
    """
    if task.control.step is None and fixed_grid(task.method.tableau, task.ts, task.control) is not None:
        raise ArgumentError(needs_steps(problem.solver))
    values = condition_values(problem.events, layout)
    found = _find(problem.events, values, task, y0.detach())
    forward = task.ts[-1] > task.ts[0]
    terminal = [(t, which) for t, which in found if problem.events[which].terminal]
    last = terminal[0][0] if terminal else task.ts[-1]
    kept = sum(t <= last if forward else t >= last for t in task.ts)
    whole, places = _with_times(problem.ts, kept, [t for t, _ in found], forward)

    start = problem.y0 if not layout.numpy else layout.unpack(y0)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not layout.numpy):
        solution = again(replace(problem, y0=start, ts=whole, events=()))
        states = _flat(solution.ys, layout)
        times, moved = attach(
            lambda t, y: task.f(float(t[0]), y[0])[None],
            values,
            torch.zeros(len(found), dtype=torch.int64),
            torch.tensor([which for _, which in found], dtype=torch.int64),
            torch.tensor([t for t, _ in found], dtype=torch.float64, device=y0.device),
            states[places[kept:]],
            (_time(task.ts[0], y0), y0.detach()[None]),
        )
    which = np.array([which for _, which in found], dtype=int)
    return replace(
        solution,
        ts=problem.ts[:kept] if isinstance(problem.ts, Tensor) else np.asarray(problem.ts, dtype=float)[:kept],
        ys=layout.deliver(states[places[:kept]]),
        nfev=solution.nfev + task.statistics.nfev,
        reason=reason(terminal[0][1] if terminal else -1, last),
        events=Crossings(times.numpy() if layout.numpy else times, layout.deliver(moved), which),
        again=None,  # it would not look for events
    )


def needs_steps(solver: Any) -> str:
    name = solver if isinstance(solver, str) else solver.name
    return (
        f"solver is {name!r}, which steps from one time to the next and finds no events between them: give a step, such as "
        "step=0.01, or take an adaptive solver such as Tsit5."
    )


def reason(which: int, t: float) -> str:
    return "reached the last time" if which < 0 else f"event {which} at t = {t:g}"


def condition_values(events: tuple[Event, ...], layout: Layout) -> Rows:
    """Return ``values(t (1,), y (1, n))`` -> (events, 1) for conditions on a whole state."""

    def values(t: Tensor, y: Tensor) -> Tensor:
        time, state = t[0].to(y.dtype), layout.unpack(y[0])
        return torch.cat([_numbers(event.condition(time, state), i, y, 1) for i, event in enumerate(events)]).view(-1, 1)

    return values


def row_values(events: tuple[Event, ...], shape: torch.Size) -> Rows:
    """Return ``values(t (m,), y (m, n))`` -> (events, m) for conditions on samples, each a state of `shape`."""

    def values(t: Tensor, y: Tensor) -> Tensor:
        time, states = t.to(y.dtype).view(len(t), *[1] * len(shape)), y.view(len(y), *shape)
        return torch.stack([_numbers(event.condition(time, states), i, y, len(y)) for i, event in enumerate(events)])

    return values


def _numbers(value: Any, index: int, y: Tensor, count: int) -> Tensor:
    kind = value.dtype if isinstance(value, Tensor) else np.asarray(value).dtype
    if kind in (torch.bool, np.bool_) or kind == object:
        found = type(value).__name__ if kind == object else "True or False"
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
    return value.reshape(count)


@torch.no_grad()
def _find(events: tuple[Event, ...], values: Rows, task: Task, y0: Tensor) -> list[tuple[float, int]]:
    """Return time and index of every event in the order of time, up to the first terminal one."""
    found = []
    before = torch.sign(values(_time(task.ts[0], y0), y0[None]))[:, 0].tolist()
    direction = math.copysign(1.0, task.ts[-1] - task.ts[0])
    for stop in march(task.method, task.f, y0, [task.ts[0], task.ts[-1]], task.control, task.statistics, task.norm):
        step = stop.step
        after = torch.sign(values(_time(step.t_end, y0), step.end[None]))[:, 0].tolist()
        met = []
        for which, event in enumerate(events):
            if crosses(before[which], after[which], event.direction):
                ends = _time(step.t, y0), _time(step.t_end, y0)
                moment = root(lambda t, step=step, which=which: values(t, step.at(t.tolist()))[which], *ends, y0.dtype)
                met.append((float(moment), which))
        for moment, which in sorted(met, key=lambda pair: direction * pair[0]):
            if found and events[found[-1][1]].terminal and moment != found[-1][0]:
                break
            found.append((moment, which))
        if any(events[which].terminal for _, which in found):
            break
        before = after
    return found


def crosses(before: float, after: float, direction: int) -> bool:
    """Return whether a condition with these signs at a step's two ends crosses zero in the direction watched."""
    return (before < 0 <= after and direction >= 0) or (before > 0 >= after and direction <= 0)


def _time(t: float, y: Tensor) -> Tensor:
    return torch.tensor([t], dtype=torch.float64, device=y.device)


def _with_times(ts: Any, kept: int, moments: list[float], forward: bool) -> tuple[Tensor, Tensor]:
    """Return the first `kept` times and the events' as one monotone tensor, and where each of them went."""
    own = torch.as_tensor(ts).to(torch.float64)[:kept]
    both = torch.cat([own, torch.tensor(moments, dtype=torch.float64, device=own.device)])
    _, places = torch.unique(both.detach(), return_inverse=True)  # sorted, rising
    if not forward:
        places = places.max() - places
    # Of a time given twice the first one counts: it is the user's, which may require a gradient.
    first = torch.full((int(places.max()) + 1,), len(both), device=both.device)
    first = first.scatter_reduce(0, places, torch.arange(len(both), device=both.device), "amin")
    return both[first], places


def _flat(ys: Any, layout: Layout) -> Tensor:
    parts = ys if layout.is_tuple else (ys,)
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)


def attach(
    f: Rows, values: Rows, rows: Tensor, which: Tensor, times: Tensor, states: Tensor, idle: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the times (p,) and states (p, n) of events, moved onto the events and connected to autograd.

    With g the condition along the solution, an event's time is t - g / (dg/dt) for any t near it (Newton), and its
    derivative that of -g / (dg/dt) with the state at a fixed t (implicit function theorem; Chen, Amos and Nickel,
    ICLR 2021). First derivatives only.

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
        delay = -values(t, y)[index, row] / rate
        order.append(mine)
        ends.append(states[mine] + slopes * delay[:, None])
        moments.append(times[mine] + delay.to(times.dtype))
    back = torch.argsort(torch.cat(order))
    return torch.cat(moments)[back], torch.cat(ends)[back]


@torch.enable_grad()
def _rate(values: Rows, t: Tensor, y: Tensor, slopes: Tensor, row: Tensor, index: Tensor) -> Tensor:
    """Return the total derivative (q,) of each condition along the solution; infinite where it is zero or unknown."""
    t, y = t.clone().requires_grad_(), y.clone().requires_grad_()
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
    return torch.where(rate == 0, math.inf, rate)
