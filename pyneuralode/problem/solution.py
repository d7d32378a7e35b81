"""Solutions: the states at the requested times, the work done, and the events that occurred."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import ArgumentError


@dataclass
class Statistics:
    """The work done by a solve: the numbers of field evaluations, accepted steps and rejected steps."""

    nfev: int = 0
    accepted: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class EventTrace:
    """The events that occurred during a solve, ordered by time (with ``batch="independent"``: by sample, then by time).

    Attributes
    ----------
    times : array or tensor (m,)
        The times of the events (time units); differentiable, like the states.
    states : array or tensor (m, *state shape), or a tuple of these
        The states at these times.
    which : array (m,) of int
        The index of each event in the `events` of the solve.
    samples : array (m,) of int or None
        The index of the sample of each event, with ``batch="independent"``; otherwise None.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> half = pn.Event(lambda t, y: y[0] - 0.5, terminal=False)
    >>> solution = pn.solve(lambda t, y: -y, [1.0], [0.0, 2.0], events=half)
    >>> len(solution.events), solution.events.times.round(4)
    (1, array([0.6931]))
    """

    times: Any
    states: Any
    which: np.ndarray
    samples: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.which)


@dataclass(frozen=True)
class Integrals:
    """The integrals along the paths of the n samples of a flow.

    Attributes
    ----------
    trace : tensor (n,)
        Integral of the trace of the Jacobian over time; its sign changes with the direction of time.
    kinetic, jacobian : tensor (n,) or None
        Integrals of |f|^2 and |J|_F^2, positive in both directions of time; None if they were not requested.
    """

    trace: Tensor
    kinetic: Tensor | None = None
    jacobian: Tensor | None = None


@dataclass
class Solution:
    """The result of a solve.

    Attributes
    ----------
    ts : array or tensor (T,)
        The requested times that the solve reached.
    ys : array or tensor (T, *state shape), or a tuple of these
        The states at those times.
    nfev, accepted, rejected : int
        Evaluations of the field, accepted and rejected steps.
    message : str
        Why the solve ended: "reached the last time" or "event 0 at t = 1.43".
    solver, engine : str
        The solver and the engine used. The engine is "torch (compiled)" if compiled code ran; "julia (fast)" and
        "julia (sciml)" are the paths that `pyneuralode.Julia` describes.
    events : EventTrace or None
        The events that occurred; None if the solve had no `events`.
    integrals : Integrals or None
        The integrals of a continuous flow; `ts` and `ys` then contain only the last time.

    Notes
    -----
    With ``batch="independent"``, ``ys[i]`` belongs to ``ts[i]``: shared times (T,) give ys (T, B, *state shape), times
    (B, T) give (B, T, *state shape), and a list of B arrays of times gives a list of B arrays (T_b, *state shape).
    `nfev`, `accepted` and `rejected` are integer arrays (B,), and `message` is a list of B messages. After a sample's
    terminal event its states are NaN, except in a list of arrays, where its array ends at the event.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> solution = pn.solve(lambda t, y: -y, [1.0], [0.0, 1.0, 2.0], dense=True)
    >>> solution.message, solution.ys.shape
    ('reached the last time', (3, 1))
    >>> solution(0.5).round(4)
    array([0.6065])
    """

    ts: Any
    ys: Any
    nfev: Any
    accepted: Any
    rejected: Any
    message: Any
    solver: str
    engine: str
    dense: Callable | None = field(default=None, repr=False)
    events: EventTrace | None = None
    integrals: Integrals | None = None

    def __call__(self, t):
        """Return the state at time(s) `t` (time units) inside the time span, from the solver's interpolant.

        A scalar gives a state; an array (T,) gives (T, *state shape). The solution must come from a solve with
        ``dense=True``.
        """
        if self.dense is None:
            raise ArgumentError("this solution has no dense output: solve with dense=True.")
        return self.dense(t)
