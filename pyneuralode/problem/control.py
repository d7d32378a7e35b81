"""The controls of a solve: tolerances, step sizes, and times at which steps must end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from ..arguments import real_array, real_number, whole_number
from ..errors import ArgumentError, unknown_name

NORMS = ("joint", "samples")


@dataclass(frozen=True)
class Control:
    """The settings that control a solver's steps; `pyneuralode.solve` accepts each as a keyword argument.

    Parameters
    ----------
    rtol, atol : float or array of the state's shape
        The error of each step, measured as the root mean square of error / (atol + rtol |y|), is kept below 1.
    norm : {"joint", "samples"}
        "joint" takes the root mean square over the whole state. "samples" takes it over each sample and uses the
        largest, so that the error of one sample is not averaged out by many others. Samples lie along the first axis of
        the state; a state with one axis is one sample.
    step_size : float, optional
        Size of fixed steps (time units). Without it, a method that estimates its error adapts its steps, and any other
        method takes one step between consecutive times of the solve.
    first_step, min_step, max_step : float, optional
        Sizes of the first, smallest and largest adaptive step (time units). An adaptive step is never shorter than 10
        floating-point spacings at t. If the error is too large at the smallest step, the solve raises a SolverError.
    max_steps : int
        Maximum number of steps (accepted and rejected) of one solve.
    tstops : sequence of float
        Times at which a step must end, in any order; times outside the time span are ignored. Use them where the field
        jumps or changes so quickly that a longer step could miss the change. The field is evaluated exactly at these
        times, both by the step that ends there and by the step that begins there. A field that jumps at such a time
        should return its value after the jump.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> pn.Control(rtol=1e-8, tstops=[5.0, 2.0]).tstops
    (2.0, 5.0)
    >>> pn.solve(lambda t, y: -y, [1.0], [0.0, 1.0], solver="RK4", step_size=0.25).accepted
    4
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
            given = getattr(self, name)
            value = real_array(name, given.detach().cpu() if isinstance(given, Tensor) else given)
            if value.ndim:  # a read-only copy
                value = np.array(value, dtype=float)
                value.flags.writeable = False
                object.__setattr__(self, name, value)
            if not np.isfinite(value).all() or (value < 0).any():
                raise ArgumentError(f"{name} is {getattr(self, name)}: give finite, nonnegative numbers, such as 1e-6.")
        if not np.any(np.asarray(self.rtol)) and not np.any(np.asarray(self.atol)):
            raise ArgumentError("rtol and atol are both 0: set at least one to a positive number, such as 1e-6.")
        if self.norm not in NORMS:
            raise unknown_name("norm", self.norm, NORMS)
        for name in ("step_size", "first_step", "max_step"):
            value, remedy = getattr(self, name), "give a positive size; the order of the times determines the direction"
            given = value != math.inf if name == "max_step" else value is not None
            if given and not real_number(name, value, remedy) > 0:
                raise ArgumentError(f"{name} is {value}: {remedy}.")
        if not real_number("min_step", self.min_step, "give a nonnegative size") >= 0:
            raise ArgumentError(f"min_step is {self.min_step}: give a nonnegative size.")
        if self.min_step > self.max_step:
            raise ArgumentError(
                f"min_step is {self.min_step} and max_step is {self.max_step}: choose min_step <= max_step."
            )
        whole_number("max_steps", self.max_steps)

    def suits_any_state(self, eps: float) -> bool:
        """Return whether the tolerances are single numbers (the usual case) that are valid for every state."""
        plain = isinstance(self.rtol, (int, float)) and isinstance(self.atol, (int, float))
        return plain and self.rtol >= 2 * eps and self.atol > 0

    def check_against(self, y0: np.ndarray, dtype: str, eps: float) -> None:
        """Raise if the tolerances at y0 (n,) are tighter than `dtype` can resolve, or 0 for a component."""
        rtol, atol = np.broadcast_to(self.rtol, y0.shape), np.broadcast_to(self.atol, y0.shape)
        advice = f"{10 * eps:.0e} or more" + (", or use float64" if eps > 1e-10 else "")
        if (rtol[rtol > 0] < 2 * eps).any():
            raise ArgumentError(
                f"rtol is {rtol[rtol > 0].min():g}, tighter than {dtype} can resolve: use rtol={advice}."
            )
        if ((atol == 0) & (y0 == 0)).any():
            raise ArgumentError(
                "atol is 0 where y0 is 0, so no error is small enough: use a positive atol, such as 1e-9."
            )
        absolute = (rtol == 0) & (atol < 2 * eps * np.abs(y0))
        if absolute.any():
            raise ArgumentError(
                f"atol is {atol[absolute].min():g} and rtol is 0, tighter than {dtype} can resolve at y0: use rtol={advice}."
            )


def _read_tstops(tstops: Any) -> tuple[float, ...]:
    """Return the times as floats in increasing order."""
    if isinstance(tstops, tuple) and not tstops:
        return ()
    array = np.asarray(tstops.detach().cpu() if isinstance(tstops, Tensor) else tstops)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "fiu" or not np.isfinite(array).all())):
        raise ArgumentError(f"tstops is {tstops}: give a sequence of finite times, such as [5.0, 5.05].")
    return tuple(np.unique(array).astype(float).tolist())


def make_control(settings: Mapping[str, Any]) -> Control:
    """Return the `Control` with these keyword arguments; the error for an unknown name lists the known ones."""
    try:
        return _known_control(tuple([(name, type(value), value) for name, value in settings.items()]))
    except TypeError:  # arrays and lists have no hash
        return _new_control(settings)


@lru_cache(maxsize=256)
def _known_control(settings: tuple[tuple[str, type, Any], ...]) -> Control:
    """Return the same object for the same settings, because prepared problems are looked up by object identity."""
    return _new_control({name: value for name, _, value in settings})


def _new_control(settings: Mapping[str, Any]) -> Control:
    known = set(Control.__dataclass_fields__)
    if wrong := sorted(set(settings) - known):
        raise ArgumentError(
            f"{wrong[0]} is not a known argument: the controls of a solve are {', '.join(sorted(known))}."
        )
    return Control(**settings)
