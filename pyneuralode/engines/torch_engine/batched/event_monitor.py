"""What rows meet in a part of their steps: which conditions cross zero there, when, and which of them ends a row."""

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
from .control import of_sample
from .roots import root

# Where conditions are asked for inside every accepted step, beside its end: in as many places as SciML's interp_points.
PROBES = tuple(i / 11 for i in range(1, 11))


@dataclass
class EventMonitor:
    """Events and what tells their signs: ``values(t (m,), y (m, n))`` -> (events, m), of all rows always."""

    events: tuple[Event, ...]
    values: Callable[[Tensor, Tensor], Tensor]


@dataclass
class LocatedEvents:
    """What rows met.

    Attributes
    ----------
    times : (events, m)
        When each event was met, times the direction of time; infinite where it was not, or only after the row's end.
    limit, ended : (m,)
        When the first terminal event was met, likewise, and which one it was; infinite and -1 where there was none.
    """

    times: Tensor
    limit: Tensor
    ended: Tensor


def crosses(before: Any, after: Any, direction: int) -> Any:
    """Return whether a condition with these values at two times crosses zero between them in the direction watched.

    To reach zero is to cross it and to leave it is not, so that what is zero at one of the times counts once.
    """
    rising, falling = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
    return rising if direction > 0 else falling if direction < 0 else rising | falling


@torch.no_grad()
def locate_events(
    watch: EventMonitor,
    at: Callable[[Tensor], Tensor],
    span: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    sign: Tensor,
    samples: Tensor | None = None,
) -> LocatedEvents:
    """Return what each of m rows meets in a part of its step, up to its first terminal event.

    Parameters
    ----------
    watch : EventMonitor
    at : callable
        The states inside the step: times (m,) -> (m, n).
    span : two (m,)
        Where the part starts and ends.
    values : two (events, m)
        The conditions there: numbers at the start, perhaps NaN at the end. Where both are the same there is nothing to meet.
    sign : (m,)
        The direction of time.
    samples : (m,), optional
        Which samples the rows are, for the error.

    Raises SolverError where a condition is NaN before a terminal event is met.
    """
    start, end = span
    times = torch.full(values[0].shape, math.inf, dtype=torch.float64, device=start.device)
    limit, gone = torch.full_like(start, math.inf), torch.full_like(start, math.inf)
    ended, culprit = (torch.full(start.shape, -1, device=start.device) for _ in range(2))
    for which, (event, before, after) in enumerate(zip(watch.events, *values)):
        value, last, lost = partial(_value, watch, at, which), end, torch.isnan(after)
        if bool(lost.any()):  # a terminal event before that still ends the row: look as far as there are numbers
            known = torch.where(lost, -1.0, 1.0).to(after)
            last = root(
                partial(_is_number, value), (end, torch.where(lost, start, end)), (known, torch.ones_like(known))
            )
            there = value(last)
            after = torch.where(
                lost, torch.where(there == 0, before, there), after
            )  # the edge of numbers is no crossing
            sooner = lost & (last * sign < gone)
            gone, culprit = torch.where(sooner, last * sign, gone), torch.where(sooner, which, culprit)
        met = crosses(before, after, event.direction)
        if not bool(met.any()):
            continue
        found = root(
            partial(_number, value, which, met, samples), (torch.where(met, start, last), last), (before, after)
        )
        times[which] = torch.where(met, found * sign, math.inf)
        if event.terminal:
            sooner = times[which] < limit
            limit, ended = torch.where(sooner, times[which], limit), torch.where(sooner, which, ended)
    for row in (gone < limit).nonzero()[:1, 0].tolist():
        raise undefined_condition_error(int(culprit[row]), float(gone[row] * sign[row]), samples, row)
    return LocatedEvents(torch.where(times <= limit, times, math.inf), limit, ended)


def _value(watch: EventMonitor, at: Callable[[Tensor], Tensor], which: int, t: Tensor) -> Tensor:
    return watch.values(t, at(t))[which]


def _is_number(value: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return 1 where the condition is a number and -1 where it is none."""
    return torch.where(torch.isnan(value(t)), -1.0, 1.0)


def _number(value: Callable[[Tensor], Tensor], which: int, met: Tensor, samples: Tensor | None, t: Tensor) -> Tensor:
    """Return the condition where its sign is looked for, which must not be in a gap between its numbers."""
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
    return error if samples is None else of_sample(error, int(samples[row]))
