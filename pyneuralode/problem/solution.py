"""What a solve gives: states at the times asked for, the work done, the events met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import ArgumentError


@dataclass
class Statistics:
    """Work done by a solve: evaluations of the field, accepted and rejected steps."""

    nfev: int = 0
    accepted: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class EventTrace:
    """The events that a solve met, ordered by time (with ``batch="independent"``: by sample, then by time).

    Attributes
    ----------
    times : array or tensor (m,)
        When they happened (time units); differentiable, as the states are.
    states : array or tensor (m, *state shape), or a tuple of them
        The states there.
    which : array (m,) of int
        Which of the events it was.
    samples : array (m,) of int or None
        Whose, with ``batch="independent"``.
    """

    times: Any
    states: Any
    which: np.ndarray
    samples: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.which)


@dataclass(frozen=True)
class Integrals:
    """The integrals along the path of each of a flow's n samples.

    Attributes
    ----------
    trace : tensor (n,)
        Of the trace of the Jacobian, with the sign of the direction in which the time ran.
    kinetic, jacobian : tensor (n,) or None
        Of |f|^2 and |J|_F^2, positive; None where they were not asked for.
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
        The times asked for, as far as the solve went.
    ys : array or tensor (T, *state shape), or a tuple of them
        The states at those times.
    nfev, accepted, rejected : int
        Evaluations of the field, accepted and rejected steps.
    message : str
        Why the solve ended: "reached the last time" or "event 0 at t = 1.43".
    solver, engine : str
        What solved it; "torch (compiled)" and "julia (compiled)" where an engine's compiled path for our own fields ran.
    events : EventTrace or None
        The events met, where events were watched.
    integrals : Integrals or None
        Of a continuous flow; `ts` and `ys` then hold the last time alone.

    With ``batch="independent"`` ``ys[i]`` belongs to ``ts[i]``: times (T,) for all give ys (T, B, *state shape), times
    (B, T) give (B, T, *state shape), and a list of B arrays of times gives a list of B arrays (T_b, *state shape). nfev,
    accepted and rejected are integer arrays (B,), and message is a list of B sentences. After a sample's terminal event
    its states are NaN, except in a list, which is cut there.
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
        """Return the state at time(s) `t` (time units) inside the span, by the method's own interpolant.

        A scalar gives a state, an array (T,) gives (T, *state shape). Needs a solve with ``dense=True``.
        """
        if self.dense is None:
            raise ArgumentError("this solution kept no dense output: solve with dense=True.")
        return self.dense(t)
