"""Events within a part of the rows' steps: which conditions cross zero there, when, and which of them ends a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....errors import SolverError
from ....problem import Event
from .control import name_sample
from .roots import find_roots

# Fractions of every accepted step at which conditions are evaluated, besides its end: as many as SciML's interp_points.
PROBES = tuple(i / 11 for i in range(1, 11))


@dataclass
class EventMonitor:
    """Events and their conditions: ``values(t (m,), y (m, n))`` -> (events, m), always evaluated for all rows."""

    events: tuple[Event, ...]
    values: Callable[[Tensor, Tensor], Tensor]


@dataclass
class LocatedEvents:
    """The events found in some rows.

    Attributes
    ----------
    times : (events, m)
        The time of each event, multiplied by the direction of time; infinite if there was none before the row's end.
    terminal_time, terminal_event : (m,)
        The time of the first terminal event, likewise, and its index; infinite and -1 if there was none.
    """

    times: Tensor
    terminal_time: Tensor
    terminal_event: Tensor


def crosses(before: Any, after: Any, direction: int) -> Any:
    """Return whether a condition with these values at two times crosses zero between them, in the given direction.

    Reaching zero counts as crossing it and leaving zero does not, so that a zero at one of the times counts once.
    """
    rising, falling = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
    return rising if direction > 0 else falling if direction < 0 else rising | falling


@torch.no_grad()
def locate_events(
    monitor: EventMonitor,
    at: Callable[[Tensor], Tensor],
    span: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    sign: Tensor,
    samples: Tensor | None = None,
) -> LocatedEvents:
    """Return the events of each of m rows in a part of its step, up to the first terminal one.

    Parameters
    ----------
    monitor : EventMonitor
    at : callable
        The states inside the step: times (m,) -> (m, n).
    span : two (m,)
        Where the part starts and ends.
    values : two (events, m)
        The conditions there: numbers at the start, possibly NaN at the end. Equal values mean that there is no event.
    sign : (m,)
        The direction of time.
    samples : (m,), optional
        The sample of each row, for the error message.

    Raises SolverError if a condition is NaN before a terminal event.
    """
    start, end = span
    times = torch.full(values[0].shape, math.inf, dtype=torch.float64, device=start.device)
    terminal_time, undefined_time = torch.full_like(start, math.inf), torch.full_like(start, math.inf)
    terminal_event, undefined_event = (torch.full(start.shape, -1, device=start.device) for _ in range(2))
    for which, (event, before, after) in enumerate(zip(monitor.events, *values)):
        value, last, lost = partial(_value, monitor, at, which), end, torch.isnan(after)
        if bool(lost.any()):  # a terminal event before that still ends the row: search as far as there are numbers
            known = torch.where(lost, -1.0, 1.0).to(after)
            last = find_roots(
                partial(_is_number, value), (end, torch.where(lost, start, end)), (known, torch.ones_like(known))
            )
            there = value(last)
            # A zero that is the last number before NaN is no crossing.
            after = torch.where(lost, torch.where(there == 0, before, there), after)
            sooner = lost & (last * sign < undefined_time)
            undefined_time, undefined_event = (
                torch.where(sooner, last * sign, undefined_time),
                torch.where(sooner, which, undefined_event),
            )
        met = crosses(before, after, event.direction)
        if not bool(met.any()):
            continue
        found = find_roots(
            partial(_number, value, which, met, samples), (torch.where(met, start, last), last), (before, after)
        )
        times[which] = torch.where(met, found * sign, math.inf)
        if event.terminal:
            sooner = times[which] < terminal_time
            terminal_time, terminal_event = (
                torch.where(sooner, times[which], terminal_time),
                torch.where(sooner, which, terminal_event),
            )
    for row in (undefined_time < terminal_time).nonzero()[:1, 0].tolist():
        raise undefined_condition_error(int(undefined_event[row]), float(undefined_time[row] * sign[row]), samples, row)
    return LocatedEvents(torch.where(times <= terminal_time, times, math.inf), terminal_time, terminal_event)


def _value(monitor: EventMonitor, at: Callable[[Tensor], Tensor], which: int, t: Tensor) -> Tensor:
    return monitor.values(t, at(t))[which]


def _is_number(value: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return 1 where the condition is a number and -1 where it is NaN."""
    return torch.where(torch.isnan(value(t)), -1.0, 1.0)


def _number(value: Callable[[Tensor], Tensor], which: int, met: Tensor, samples: Tensor | None, t: Tensor) -> Tensor:
    """Return the condition; raise if it is NaN in a row whose crossing is searched."""
    found = value(t)
    for row in (torch.isnan(found) & met).nonzero()[:1, 0].tolist():
        raise undefined_condition_error(which, float(t[row]), samples, row)
    return found


def undefined_condition_error(which: int, t: float, samples: Tensor | None = None, row: int = 0) -> SolverError:
    error = SolverError(
        f"the condition of event {which} is NaN at t = {t:g}: return a number wherever the solve goes, or end the solve "
        "before by a terminal event.",
        t,
    )
    return error if samples is None else name_sample(error, int(samples[row]))
