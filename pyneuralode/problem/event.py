"""Events: conditions on time and state that a solve watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError


@dataclass(frozen=True)
class Event:
    """A condition on time and state that a solve watches: it happens where the condition crosses zero.

    Parameters
    ----------
    condition : callable
        ``condition(t, y)``, called as the field is; returns a number or a tensor of one element (with
        ``batch="independent"``: one number per sample, (B,)).
    terminal : bool
        Whether the solve ends there (with ``batch="independent"``: that of the sample).
    direction : {0, 1, -1}
        Count crossings both ways, only rising ones (from below zero), or only falling ones.

    A crossing is seen by a change of sign. Every step is looked at in 10 places inside it, as its interpolant has the
    state there, and at its end: two crossings are missed where both lie between neighbors of those places, 1/11 of a step
    apart, which `max_step` prevents. To reach zero is to cross it, whatever the condition does then; one that is zero at
    the start of the solve does not count there, so that a solve may go on from an event. A condition that is NaN where
    the solve goes, before its first terminal event, ends it in a SolverError that names the time.
    """

    condition: Callable
    terminal: bool = True
    direction: int = 0

    def __post_init__(self):
        if not callable(self.condition):
            raise ArgumentError(
                f"condition is a {type(self.condition).__name__}: give a function of (t, y), such as lambda t, y: y[0]."
            )
        if self.direction not in (-1, 0, 1):
            raise ArgumentError(f"direction is {self.direction!r}: give 0, 1 (rising) or -1 (falling).")


def read_events(events: Any) -> tuple[Event, ...]:
    """Return one event, several or none as a tuple."""
    several = tuple(events) if isinstance(events, (list, tuple)) else () if events is None else (events,)
    for event in several:
        if not isinstance(event, Event):
            raise ArgumentError(f"events holds a {type(event).__name__}: give pn.Event(condition) or a list of such.")
    return several
