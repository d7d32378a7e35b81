"""Events within a part of each row's step: which conditions cross zero, when, and which event ends the row's solve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....errors import ArgumentError, SolverError
from ....problem import Event
from .control import name_sample
from .roots import find_roots

# Fractions of every accepted step at which conditions are evaluated, in addition to its end: as many as SciML's
# interp_points.
PROBES = tuple(i / 11 for i in range(1, 11))


@dataclass
class EventMonitor:
    """Events to locate; ``arguments(t (m,), y (m, n))`` returns the time and state that their conditions accept."""

    events: tuple[Event, ...]
    arguments: Callable[[Tensor, Tensor], tuple[Tensor, Any]]

    def values(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the values of all conditions (events, m), always for all rows."""
        given = self.arguments(t, y)
        return torch.stack(
            [read_condition(event.condition(*given), i, y, len(y)) for i, event in enumerate(self.events)]
        )


_NO_NUMBERS = {torch.bool: "True or False", np.dtype(bool): "True or False"} | dict.fromkeys(
    (torch.complex64, torch.complex128, np.dtype(np.complex64), np.dtype(np.complex128)), "complex numbers"
)


def read_condition(value: Any, index: int, y: Tensor, count: int) -> Tensor:
    """Return the value of the condition of event `index` as `count` numbers of the state's dtype."""
    kind = value.dtype if isinstance(value, Tensor) else np.asarray(value).dtype
    if kind in _NO_NUMBERS or kind == np.dtype(object):
        found = _NO_NUMBERS.get(kind) or type(value).__name__
        raise ArgumentError(
            f"the condition of event {index} returns {found}: return a number that crosses zero, such as y[0] - 1."
        )
    value = torch.as_tensor(value, dtype=y.dtype, device=y.device)
    if value.numel() != count or (value.ndim > 1 and count > 1):
        wanted = "one number" if count == 1 else f"one number for each sample, shape ({count},)"
        more = ", or one for each sample with batch='independent'" if count == 1 else ""
        raise ArgumentError(
            f"the condition of event {index} returns a value of shape {tuple(value.shape)}: return {wanted}{more}."
        )
    return value.reshape(count).clone()  # the next condition may overwrite the same memory


@dataclass
class LocatedEvents:
    """The events found in m rows.

    Attributes
    ----------
    times : (events, m)
        The time of each event, multiplied by the direction of time; infinite if the event does not occur.
    terminal_time, terminal_event : (m,)
        The time of the first terminal event, also multiplied by the direction of time, and its index; infinite and -1
        if there is none.
    """

    times: Tensor
    terminal_time: Tensor
    terminal_event: Tensor


def crosses(before: Any, after: Any, direction: int) -> Any:
    """Return whether a condition with these values at two times crosses zero between them, in the given direction.

    Reaching zero counts as crossing and leaving zero does not, so that a zero at one of the times is counted once.
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
    """Return the events of each of m rows in a part of its step, up to the first terminal event.

    Parameters
    ----------
    monitor : EventMonitor
    at : callable
        The states inside the step: times (m,) -> states (m, n).
    span : two (m,)
        The times at which the part starts and ends.
    values : two (events, m)
        The conditions at these times: never NaN at the start, possibly NaN at the end. Equal values mean that there is
        no event.
    sign : (m,)
        The direction of time.
    samples : (m,), optional
        The sample of each row, for the error message.

    Raises SolverError if a condition is NaN before a terminal event.
    """
    start, end = span
    times = torch.full(values[0].shape, math.inf, dtype=torch.float64, device=start.device)
    undefined = times.clone()
    for which, (event, before, after) in enumerate(zip(monitor.events, *values)):
        value, last, lost = partial(_value, monitor, at, which), end, torch.isnan(after)
        if bool(lost.any()):  # a terminal event before the NaN still ends the row: search up to the NaN
            known = torch.where(lost, -1.0, 1.0).to(after)
            last = find_roots(
                partial(_is_number, value), (end, torch.where(lost, start, end)), (known, torch.ones_like(known))
            )
            there = value(last)
            # A zero that is the last number before NaN is not a crossing.
            after = torch.where(lost, torch.where(there == 0, before, there), after)
            undefined[which] = torch.where(lost, last * sign, math.inf)
        met = crosses(before, after, event.direction)
        if bool(met.any()):
            found = find_roots(
                partial(_number, value, which, met, samples), (torch.where(met, start, last), last), (before, after)
            )
            times[which] = torch.where(met, found * sign, math.inf)
    terminal = torch.tensor([event.terminal for event in monitor.events], device=start.device)[:, None]
    terminal_time, terminal_event = torch.where(terminal, times, math.inf).min(0)
    undefined_time, undefined_event = undefined.min(0)
    for row in (undefined_time < terminal_time).nonzero()[:1, 0].tolist():
        raise undefined_condition_error(int(undefined_event[row]), float(undefined_time[row] * sign[row]), samples, row)
    terminal_event = torch.where(torch.isfinite(terminal_time), terminal_event, -1)
    return LocatedEvents(torch.where(times <= terminal_time, times, math.inf), terminal_time, terminal_event)


def _value(monitor: EventMonitor, at: Callable[[Tensor], Tensor], which: int, t: Tensor) -> Tensor:
    return monitor.values(t, at(t))[which]


def _is_number(value: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return 1 where the condition is a number and -1 where it is NaN."""
    return torch.where(torch.isnan(value(t)), -1.0, 1.0)


def _number(value: Callable[[Tensor], Tensor], which: int, met: Tensor, samples: Tensor | None, t: Tensor) -> Tensor:
    """Return the condition; raise an error if it is NaN in a row in which a crossing is being located."""
    found = value(t)
    for row in (torch.isnan(found) & met).nonzero()[:1, 0].tolist():
        raise undefined_condition_error(which, float(t[row]), samples, row)
    return found


def undefined_condition_error(which: int, t: float, samples: Tensor | None = None, row: int = 0) -> SolverError:
    error = SolverError(
        f"the condition of event {which} is NaN at t = {t:g}: return a number for every state of the solve, or end the "
        "solve earlier with a terminal event.",
        t,
    )
    return error if samples is None else name_sample(error, int(samples[row]))
