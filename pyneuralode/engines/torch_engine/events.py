"""Events: the times at which a condition on time and state crosses zero, and the derivatives of these times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import ArgumentError
from ...problem import Event
from ...problem.values import Layout, all_finite
from ...solvers import Solver
from ...tableaus import Tableau
from .batched.event_monitor import (
    PROBES,
    EventMonitor,
    crosses,
    locate_events,
    read_condition,
    undefined_condition_error,
)
from .gradient_methods import moved
from .march import Slope, Step

Rows = Callable[[Tensor, Tensor], Tensor]


class StepEvents:
    """A monitor that finds events in the steps of one solve and adds their times to the output times.

    Attributes
    ----------
    rows : list of int
        For each state that the solve returns, except the first: the index in `found` of its event, or -1 if the state
        is at a requested time.
    found : list of (float, int, float)
        For every event in order, up to the first terminal one: its time, its index in the `events` of the solve, and
        the length of the subinterval of the step in which it was found.
    ended : bool
        Whether a terminal event ended the solve.
    components : int or None
        The number of leading components of the integrated vector that form the state; None if all of them do.
    """

    components: int | None = None

    def __init__(self, events: tuple[Event, ...], layout: Layout, y0: Tensor, ts: list[float]):
        self.layout, self.y0 = layout, y0.detach()
        self.monitor = EventMonitor(events, whole_state(layout))
        self.direction = math.copysign(1.0, ts[-1] - ts[0])
        self.rows: list[int] = []
        self.found: list[tuple[float, int, float]] = []
        self.ended = False
        self.start = ts[0]
        with torch.no_grad():
            self.before = next(self._numbers([ts[0]], self.y0[None]))
        if any(map(math.isnan, self.before)):
            raise undefined_condition_error([math.isnan(value) for value in self.before].index(True), ts[0])

    def look(self, step: Step, times: list[float]) -> tuple[list[float], bool]:
        """Find events in the step and return the output times, as in `Monitor.look`."""
        if not all_finite(step.end):
            self.rows += [-1] * len(times)
            return times, False  # the solve itself reports the non-finite state
        step.extend()  # recorded by autograd if the solve is recorded
        with torch.no_grad():
            met = self._met(step)
        if self.ended:
            last = met[-1][0]
            times = [t for t in times if self.direction * t <= self.direction * last]
        first = len(self.found)
        self.found += met
        # For an event at a requested time, the state is returned twice.
        merged = [(self.direction * t, -1, t) for t in times]
        merged += [(self.direction * t, k, t) for k, (t, _, _) in enumerate(met, start=first)]
        merged.sort()
        self.rows += [k for _, k, _ in merged]
        return [t for _, _, t in merged], self.ended

    def _met(self, step: Step) -> list[tuple[float, int, float]]:
        """Return the events within a step up to the first terminal one, in order."""
        found = []
        times = [step.t + part * step.h for part in PROBES]
        states = torch.cat([step.at(times), step.end[None]])[:, : self.components]
        times.append(step.t_end)
        for end, after in zip(times, self._numbers(times, states)):
            watched = zip(self.before, after, self.monitor.events)
            if any(b != b or crosses(a, b, event.direction) for a, b, event in watched):
                met = locate_events(
                    self.monitor,
                    lambda t: step.at(t.tolist())[:, : self.components],
                    (_time(self.start, self.y0), _time(end, self.y0)),
                    tuple(self.y0.new_tensor(values)[:, None] for values in (self.before, after)),
                    _time(self.direction, self.y0),
                )
                order = sorted((time, which) for which, time in enumerate(met.times[:, 0].tolist()) if time < math.inf)
                found += [(self.direction * time, which, abs(end - self.start)) for time, which in order]
                if bool(torch.isfinite(met.terminal_time)):
                    self.ended = True
                    return found
            self.start, self.before = end, after
        return found

    def _numbers(self, times: list[float], states: Tensor) -> Iterator[list[float]]:
        """Yield the values of the conditions at each of the times (k,) and states (k, n), computed when needed."""
        moments = torch.tensor(times, dtype=states.dtype, device=states.device).unbind()
        parts = self.layout.unpack(states)
        unpacked = zip(*(part.unbind() for part in parts)) if self.layout.is_tuple else parts.unbind()
        for t, y in zip(moments, unpacked):
            yield [
                float(read_condition(event.condition(t, y), i, states, 1))
                for i, event in enumerate(self.monitor.events)
            ]

    def split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states at the requested times, and the states at the events in the order of `found`."""
        rows = torch.tensor([-1, *self.rows], device=states.device)
        events = (rows >= 0).nonzero()[:, 0]
        return states[rows < 0], states[events[torch.argsort(rows[events])]]

    def corrected(self, f: Slope, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return times (p,) and states (p, n) of the events, refined by one Newton step and connected to autograd.

        `states` (p, n) are the states that the solve returned at the events.
        """
        which, parts = [event for _, event, _ in self.found], [part for _, _, part in self.found]
        moments = torch.tensor([t for t, _, _ in self.found], dtype=torch.float64, device=states.device)
        idle = torch.tensor([self.start], dtype=torch.float64, device=states.device), self.y0[None]
        corrected = attach(
            lambda t, y: f(t[0].to(y.dtype), y[0])[None],
            self.monitor.values,
            torch.zeros(len(which), dtype=torch.int64, device=states.device),
            torch.tensor(which, dtype=torch.int64, device=states.device),
            moments,
            states,
            idle,
        )
        return _nearer(self.monitor.values, which, parts, (moments, states), corrected)


def needs_steps(solver: Solver | Tableau) -> str:
    return (
        f"solver is {solver.name!r}, which takes one step from each time to the next and finds no events between them: give a step_size, such as "
        "step_size=0.01, or use an adaptive solver such as Tsit5."
    )


def message(which: int, t: float) -> str:
    return "reached the last time" if which < 0 else f"event {which} at t = {t:g}"


def whole_state(layout: Layout) -> Callable:
    """Return a function that converts t (1,) and y (1, n) to the arguments of conditions on a whole state."""
    return lambda t, y: (t[0].to(y.dtype), layout.unpack(y[0]))


def each_sample(shape: torch.Size) -> Callable:
    """Return a function that converts t (m,) and y (m, n) to the arguments of conditions on samples of this shape."""
    return lambda t, y: (t.to(y.dtype).view(len(t), *[1] * len(shape)), y.view(len(y), *shape))


def of_sample(events: tuple[Event, ...], b: int, times: Tensor, states: Tensor) -> tuple[Event, ...]:
    """Return the events for a solve of sample `b` alone.

    A condition may use different data for each sample, so it is evaluated for all samples: the other samples stay at
    `times` (B,) and `states` (B, *state).
    """
    row, axes = torch.tensor([b], device=states.device), [1] * (states.ndim - 1)

    def alone(index: int, event: Event) -> Event:
        def condition(t: Tensor, y: Tensor) -> Tensor:
            time = times.to(y.dtype).index_put((row,), t.reshape(1)).view(-1, *axes)
            whole = states.index_put((row,), y.reshape(1, *states.shape[1:]))
            return read_condition(event.condition(time, whole), index, y, len(states))[b]

        return replace(event, condition=condition)

    return tuple(alone(index, event) for index, event in enumerate(events))


def _time(t: float, y: Tensor) -> Tensor:
    return torch.tensor([t], dtype=torch.float64, device=y.device)


def _nearer(
    values: Rows, which: list[int], parts: list[float], there: tuple[Tensor, Tensor], corrected: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the `corrected` times (p,) and states (p, n), or those in `there` if Newton's step moves off the event.

    Newton's step does so if the condition is far from linear near the event: for example, if it only grazes zero, or is
    a smoothed jump. Uncorrected values are as accurate as the steps, and have the same gradients as corrected ones.
    """
    good = torch.ones(len(which), dtype=torch.bool, device=there[0].device)
    with torch.no_grad():
        for i, (event, part) in enumerate(zip(which, parts)):
            before, after = (values(t[i : i + 1], y[i : i + 1])[event, 0].abs() for t, y in (there, corrected))
            good[i] = (after <= before) & ((corrected[0][i] - there[0][i]).abs() <= part)
    t, y = (old.detach() + (new - new.detach()) for old, new in zip(there, corrected))
    return torch.where(good, corrected[0], t), torch.where(good[:, None], corrected[1], y)


def attach(
    f: Rows, values: Rows, rows: Tensor, which: Tensor, times: Tensor, states: Tensor, idle: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the times (p,) and states (p, n) of events, corrected by Newton steps and connected to autograd.

    If g is the condition along the solution, an event's time is t - g / (dg/dt) for any t near it (Newton). This step
    also makes the first derivative correct, even if dg/dt is treated as a constant (implicit function theorem; Chen,
    Amos and Nickel, ICLR 2021). Another step, from the state at the new time, makes the second derivative correct.

    Parameters
    ----------
    f, values : callable
        Derivatives dy/dt and conditions of all m rows at once.
    rows, which : (p,)
        Row and index of each event, sorted by row.
    times, states : (p,) and (p, n)
        A fixed time near each event, and the state there, connected to autograd.
    idle : (m,) and (m, n)
        Times and states to use for rows without an event.
    """
    if not len(rows):
        return times, states
    rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    moved_events = []
    for turn in range(int(rank.max()) + 1):  # the first events of all rows together, then the second ones, and so on
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
        moved_events.append((mine, t_end[row], y_end[row]))
    order, moments, ends = map(torch.cat, zip(*moved_events))
    back = torch.argsort(order)
    return moments[back], ends[back]


def _newton(value: Tensor, rate: Tensor) -> Tensor:
    """Return Newton's steps (q,), or zero where a condition changes sign through infinity, like 1 / (t - 1)."""
    return torch.where(torch.isfinite(value), value, 0.0) / rate


@torch.enable_grad()
def _rate(values: Rows, t: Tensor, y: Tensor, slopes: Tensor, row: Tensor, index: Tensor) -> Tensor:
    """Return the total derivative (q,) of each condition along the solution; infinite where it is zero or unknown."""
    try:
        t, y = t.clone().requires_grad_(), y.clone().requires_grad_()
    except RuntimeError as error:  # torch.func transforms do not allow a new graph
        raise ArgumentError(
            "events cannot be differentiated with torch.func transforms: use torch.autograd.grad or "
            "torch.autograd.forward_ad."
        ) from error
    rate = torch.zeros_like(slopes[:, 0])
    try:
        value = values(t, y)[index, row].sum()
    except RuntimeError as error:
        if "requires grad" not in str(error):  # from torch's message for a tensor that cannot be converted to NumPy
            raise
        value = rate
    if value.requires_grad:
        by_time, by_state = torch.autograd.grad(value, (t, y), allow_unused=True)
        if by_time is not None:
            rate = rate + by_time[row].to(rate.dtype)
        if by_state is not None:
            rate = rate + (by_state[row] * slopes).sum(1)
    return torch.where((rate == 0) | rate.isnan(), math.inf, rate)
