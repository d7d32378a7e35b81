"""What both engines share: the problem that an engine solves, the controls of a solve and its solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arguments import real_array, real_number, whole_number
from .errors import ArgumentError, unknown_name

NORMS = ("joint", "samples")


@dataclass(frozen=True)
class Control:
    """How steps are chosen.

    Parameters
    ----------
    rtol, atol : float or array of the state's shape
        The error of a step is measured as the root mean square of error / (atol + rtol |y|) and kept below 1.
    norm : {"joint", "samples"}
        Whether that mean is over the whole state, or over each sample alone, and the largest counts: then no sample's error
        hides among those of many others. Samples lie along the state's first axis; a state of one axis is one sample.
    step_size : float, optional
        Size of fixed steps (time units). Without it a method that estimates its error adapts its steps, and
        one that does not steps from one of the times asked for to the next.
    first_step, min_step, max_step : float, optional
        Sizes of the first, smallest and largest adaptive step (time units). No adaptive step is shorter than 10 spacings
        of the numbers around t either; a solve ends in a SolverError where the error of the smallest one is too large.
    max_steps : int
        Most steps, accepted and rejected, of one solve.
    tstops : sequence of float
        Times that a step must end on, in any order; those outside the span are ignored. Where the field jumps, or does much
        within a short time, a step across may miss it. The field is evaluated at these times themselves, by the step that
        ends there and by the one that begins there; one that jumps there best has the value that it goes on with.
    """

    rtol: Any = 1e-6
    atol: Any = 1e-6
    norm: str = "joint"
    step_size: float | None = None
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float = math.inf
    max_steps: int = 100_000
    tstops: Sequence[float] = ()

    def __post_init__(self):
        object.__setattr__(self, "tstops", _read_tstops(self.tstops))
        for name in ("rtol", "atol"):
            value = real_array(name, getattr(self, name))
            if not np.isfinite(value).all() or (value < 0).any():
                raise ArgumentError(
                    f"{name} is {getattr(self, name)}: give finite numbers of at least 0, such as 1e-6."
                )
        if not np.any(np.asarray(self.rtol)) and not np.any(np.asarray(self.atol)):
            raise ArgumentError("rtol and atol are both 0: give at least one a positive value, such as 1e-6.")
        if self.norm not in NORMS:
            raise unknown_name("norm", self.norm, NORMS)
        for name in ("step_size", "first_step", "max_step"):
            value, remedy = getattr(self, name), "give a positive size; the direction follows the times"
            given = value != math.inf if name == "max_step" else value is not None
            if given and not real_number(name, value, remedy) > 0:
                raise ArgumentError(f"{name} is {value}: {remedy}.")
        if not real_number("min_step", self.min_step, "give a size of at least 0") >= 0:
            raise ArgumentError(f"min_step is {self.min_step}: give a size of at least 0.")
        if self.min_step > self.max_step:
            raise ArgumentError(
                f"min_step is {self.min_step} and max_step {self.max_step}: give a min_step below max_step."
            )
        whole_number("max_steps", self.max_steps)

    def suits_any_state(self, eps: float) -> bool:
        """Return whether the tolerances are plain numbers with which nothing is wrong whatever the state, the usual case."""
        plain = isinstance(self.rtol, (int, float)) and isinstance(self.atol, (int, float))
        return plain and self.rtol >= 2 * eps and self.atol > 0

    def check_against(self, y0: np.ndarray, dtype: str, eps: float) -> None:
        """Raise if the tolerances ask for more digits than numbers of `dtype` have, or for none at all, at y0 (n,)."""
        rtol, atol = np.broadcast_to(self.rtol, y0.shape), np.broadcast_to(self.atol, y0.shape)
        advice = f"{10 * eps:.0e} or more" + (", or use float64" if eps > 1e-10 else "")
        if (rtol[rtol > 0] < 2 * eps).any():
            raise ArgumentError(f"rtol is {rtol[rtol > 0].min():g}, below what {dtype} can hold: write rtol={advice}.")
        if ((atol == 0) & (y0 == 0)).any():
            raise ArgumentError(
                "atol is 0 where y0 is 0, so no error is small enough: give a positive atol, such as 1e-9."
            )
        absolute = (rtol == 0) & (atol < 2 * eps * np.abs(y0))
        if absolute.any():
            raise ArgumentError(
                f"atol is {atol[absolute].min():g} without an rtol, below what {dtype} can hold for y0: give rtol={advice}."
            )


def _read_tstops(tstops: Any) -> tuple[float, ...]:
    """Return the times, rising."""
    if isinstance(tstops, tuple) and not tstops:
        return ()
    array = np.asarray(tstops.detach().cpu() if hasattr(tstops, "detach") else tstops)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "fiu" or not np.isfinite(array).all())):
        raise ArgumentError(f"tstops is {tstops}: give a sequence of finite times, such as [5.0, 5.05].")
    return tuple(np.unique(array).astype(float).tolist())


@dataclass
class Statistics:
    """Work done by a solve: evaluations of the field, accepted and rejected steps."""

    nfev: int = 0
    accepted: int = 0
    rejected: int = 0


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


BATCHES = ("joint", "independent")


def check_batch(batch: str) -> str:
    """Return `batch`; raise unless it is one of `BATCHES`."""
    if batch not in BATCHES:
        raise unknown_name("batch", batch, BATCHES)
    return batch


def read_events(events: Any) -> tuple[Event, ...]:
    """Return one event, several or none as a tuple."""
    several = tuple(events) if isinstance(events, (list, tuple)) else () if events is None else (events,)
    for event in several:
        if not isinstance(event, Event):
            raise ArgumentError(f"events holds a {type(event).__name__}: give pn.Event(condition) or a list of such.")
    return several


@dataclass(frozen=True)
class Problem:
    """A whole solve, handed to an engine in one piece.

    `dynamics` is a `VectorField`, a `torch.nn.Module` or a callable; `parameters` maps names to arrays or tensors;
    `y0` is an array, a tensor or a tuple of tensors; `ts` an array or tensor (T,) of monotone times, with
    ``batch="independent"`` also (B, T) or a list of B such arrays.
    """

    dynamics: Any
    parameters: dict[str, Any]
    y0: Any
    ts: Any
    solver: Any
    control: Control
    gradient: Any
    dense: bool = False
    compiled: bool = True
    batch: str = "joint"
    events: tuple[Event, ...] = ()


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
    again : callable or None
        ``again(parameters)`` -> ys, the same solve for other parameters (tensors by name, with autograd), for loops that
        solve thousands of times: what does not depend on the parameters was prepared, and neither they nor the states are checked. There
        where the torch engine's compiled path ran for a torch state.

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
    again: Callable | None = field(default=None, repr=False)

    def __getstate__(self) -> dict:
        """Copies and pickles do without `again`, which holds the solve itself."""
        return {**vars(self), "again": None}

    def __call__(self, t):
        """Return the state at time(s) `t` (time units) inside the span, by the method's own interpolant.

        A scalar gives a state, an array (T,) gives (T, *state shape). Needs a solve with ``dense=True``.
        """
        if self.dense is None:
            raise ArgumentError("this solution kept no dense output: solve with dense=True.")
        return self.dense(t)
