"""The error between the ends of adaptive steps: where it is checked, and what follows if it is too large."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Protocol

from .tolerance import Norm, Slope, Tolerance


class StepWithInterpolant(Protocol):
    """What is asked of a step here: where it lies, and how inaccurate its interpolant is at times inside it."""

    t: float
    t_end: float
    h: float

    def interpolant_error(self, f: Slope, times: list[float], rtol: float, atol: float, norm: Norm) -> float: ...


class InterpolantControl:
    """Which states are requested between the ends of a march's steps: those at `times`, or everywhere.

    A step that is not accurate enough at the times inside it is repeated: up to the first of them if a step that is
    accurate enough would not get that far, shorter otherwise.
    """

    def __init__(self, times: list[float], everywhere: bool):
        self.times, self.everywhere = times, everywhere
        self.sign = 1 if times[-1] > times[0] else -1
        self.signed = [self.sign * t for t in times]
        self.requested: list[float] = []  # within the last step

    def error(self, step: StepWithInterpolant, f: Slope, tolerance: Tolerance) -> float:
        """Return the largest estimated error over the tolerance at up to three places inside a step."""
        if self.everywhere:
            self.requested = [step.t + quarter * step.h / 4 for quarter in (1, 2, 3)]
        else:
            first = bisect_right(self.signed, self.sign * step.t)
            self.requested = self.times[first : bisect_left(self.signed, self.sign * step.t_end)]
        places = {self.requested[quarter * len(self.requested) // 4] for quarter in (1, 2, 3)} if self.requested else ()
        return step.interpolant_error(f, sorted(places), *tolerance) if places else 0.0

    def next_stop(self, t: float, shorter: float) -> float | None:
        """Return the time at which the next step from t must end, or None if it is to be of size `shorter`."""
        first = self.requested[0]
        return first if not self.everywhere and shorter <= abs(first - t) else None
