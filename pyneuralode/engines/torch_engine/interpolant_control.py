"""The states between the ends of adaptive steps: which are asked for, and whether a step is good enough there."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .march import Slope, Step, Tolerance


class InterpolantControl:
    """What is asked for between the ends of a march's steps: the states at `times`, or everywhere.

    A step that is not good enough at times inside it is taken again: to the first of them, where a step that is good
    enough would not get that far, and shorter otherwise.
    """

    def __init__(self, times: list[float], everywhere: bool):
        self.times, self.everywhere = times, everywhere
        self.sign = 1 if times[-1] > times[0] else -1
        self.signed = [self.sign * t for t in times]
        self.asked: list[float] = []  # within the last step

    def error(self, step: Step, f: Slope, tolerance: Tolerance) -> float:
        """Return the largest estimated error over the tolerance at up to three places inside a step."""
        if self.everywhere:
            self.asked = [step.t + quarter * step.h / 4 for quarter in (1, 2, 3)]
        else:
            first = bisect_right(self.signed, self.sign * step.t)
            self.asked = self.times[first : bisect_left(self.signed, self.sign * step.t_end)]
        places = {self.asked[quarter * len(self.asked) // 4] for quarter in (1, 2, 3)} if self.asked else ()
        return step.interpolant_error(f, sorted(places), *tolerance) if places else 0.0

    def stop(self, t: float, shorter: float) -> float | None:
        """Return the time that the next step from t is to end on, or None where it is to be `shorter`."""
        first = self.asked[0]
        return first if not self.everywhere and shorter <= abs(first - t) else None
