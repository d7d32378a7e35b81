"""Events: conditions on time and state that are monitored during a solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError, kind_of


@dataclass(frozen=True)
class Event:
    """An event, triggered when a condition on time and state crosses zero.

    Parameters
    ----------
    condition : callable
        ``condition(t, y)``, called like the field; returns a number or a tensor with one element (with
        ``batch="independent"``: one number per sample, (B,)).
    terminal : bool
        Whether the solve ends at the event (with ``batch="independent"``: the solve of that sample).
    direction : {0, 1, -1}
        Which crossings to detect: all (0), only upward ones (1, from below zero), or only downward ones (-1).

    Notes
    -----
    Crossings are detected as changes of sign. The condition is evaluated at the end of every step and at 10 points
    inside it, on the solver's interpolant. Two crossings between neighboring points, 1/11 of a step apart, are missed;
    a smaller `max_step` prevents this. Reaching zero counts as a crossing, regardless of what the condition does
    afterward. A zero at the start of the solve does not, so that a solve can continue from an event. A condition that
    becomes NaN before the first terminal event raises a SolverError that states the time.

    Examples
    --------
    >>> import numpy as np
    >>> import pyneuralode as pn
    >>> ball = lambda t, y: np.array([y[1], -9.81])  # height and speed
    >>> ground = pn.Event(lambda t, y: y[0], direction=-1)
    >>> pn.solve(ball, [10.0, 0.0], [0.0, 5.0], events=ground).message
    'event 0 at t = 1.42784'
    """

    condition: Callable
    terminal: bool = True
    direction: int = 0

    def __post_init__(self):
        if not callable(self.condition):
            raise ArgumentError(
                f"condition is {kind_of(self.condition)}: give a function of (t, y), such as lambda t, y: y[0]."
            )
        if self.direction not in (-1, 0, 1):
            raise ArgumentError(f"direction is {self.direction!r}: give 0, 1 (upward) or -1 (downward).")


def read_events(events: Any) -> tuple[Event, ...]:
    """Return `events` (one event, a list or tuple of events, or None) as a tuple."""
    several = tuple(events) if isinstance(events, (list, tuple)) else () if events is None else (events,)
    for event in several:
        if not isinstance(event, Event):
            raise ArgumentError(f"events contains {kind_of(event)}: give pn.Event(condition) or a list of events.")
    return several
