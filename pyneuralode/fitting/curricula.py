"""Plans of a fit: stages, and a curriculum that generates stages over growing time spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

from ..arguments import nonnegative_number, real_number, whole_number
from ..errors import ArgumentError, kind_of
from .optimizers import Adam, Optimizer


@dataclass(frozen=True)
class Stage:
    """One stage of a fit: an optimizer, and the data that it uses.

    Parameters
    ----------
    optimizer : Optimizer
        By default Adam(1e-3).
    iterations : int
        Maximum number of iterations.
    end : float, optional
        Last data time that the stage uses; by default the last time of the data.
    goal : float, optional
        Loss at which the stage ends early. If the noise level of the data is known, choose the loss that the noise
        alone causes: at a smaller loss, the model fits the noise (Morozov's discrepancy principle).

    Raises
    ------
    ArgumentError
        If an argument is invalid.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> pn.Stage(pn.LBFGS(), iterations=200, goal=1e-3).goal
    0.001
    """

    optimizer: Optimizer = field(default_factory=Adam)
    iterations: int = 1000
    end: float | None = None
    goal: float | None = None

    def __post_init__(self):
        if not isinstance(self.optimizer, Optimizer):
            raise ArgumentError(f"optimizer is {kind_of(self.optimizer)}: give an optimizer, such as Adam(lr=1e-3).")
        object.__setattr__(self, "iterations", whole_number("iterations", self.iterations))
        if self.end is not None:
            remedy = "give a time, or None to use all of the data"
            object.__setattr__(self, "end", real_number("end", self.end, remedy))
        if self.goal is not None:
            remedy = "give a nonnegative, finite loss, or None to run all iterations"
            object.__setattr__(self, "goal", nonnegative_number("goal", self.goal, remedy))

    def stages(self) -> list[Stage]:
        """Return a list that contains only this stage."""
        return [self]


@dataclass(frozen=True)
class GrowingSpan:
    """A plan of growing time spans: each stage fits more of the data, starting from the previous stage's result.

    Fitting a long trajectory all at once often converges to the mean of the data. Fitting its beginning first, and then
    longer and longer parts of it, avoids this (the "iterative growing of fits" of the SciML tutorials).

    Parameters
    ----------
    ends : sequence of float
        Last data time of each stage, increasing.
    optimizers : Optimizer, or a sequence with one for each stage
    iterations : int, or a sequence with one for each stage
        Maximum number of iterations.
    finish : sequence of Stage
        Stages to run after those with growing spans; stages without `end` use the data up to the last of `ends`.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> plan = pn.GrowingSpan([1.0, 2.0], pn.Adam(0.01), 100, finish=[pn.Stage(pn.LBFGS(), 50)])
    >>> [stage.end for stage in plan.stages()]
    [1.0, 2.0, 2.0]
    """

    ends: Sequence[float]
    optimizers: Optimizer | Sequence[Optimizer] = field(default_factory=Adam)
    iterations: int | Sequence[int] = 1000
    finish: Sequence[Stage] = ()

    def stages(self) -> list[Stage]:
        """Return the stages. Raises ArgumentError unless `ends` increases and all sequences are as long as `ends`."""
        ends = [real_number("an end", end, "give increasing times, such as [60, 91, 170]") for end in self.ends]
        if not ends or any(b <= a for a, b in zip(ends, ends[1:])):
            raise ArgumentError(f"ends is {ends}: give increasing times, such as [60, 91, 170].")
        optimizers = _one_for_each("optimizers", self.optimizers, len(ends), Optimizer)
        iterations = _one_for_each("iterations", self.iterations, len(ends), Real)
        growing = [Stage(o, n, end) for o, n, end in zip(optimizers, iterations, ends)]
        return growing + [replace(s, end=ends[-1] if s.end is None else s.end) for s in self.finish]


def _one_for_each(name: str, value, count: int, kind: type) -> list:
    """Return a single value, repeated `count` times, or a sequence of `count` values as a list."""
    if not isinstance(value, kind) and (isinstance(value, (str, bytes)) or not isinstance(value, Iterable)):
        raise ArgumentError(f"{name} is {value!r}: give a single value, or a sequence with one value for each end.")
    values = [value] * count if isinstance(value, kind) else list(value)
    if len(values) != count:
        raise ArgumentError(
            f"{name} has {len(values)} entries, but ends has {count}: give a single value, or one for each end."
        )
    return values


def stages_of(plan: Stage | GrowingSpan | Optimizer | Sequence) -> list[Stage]:
    """Return the stages of a plan: a stage, a curriculum, a single optimizer, or a sequence of these."""
    if isinstance(plan, Optimizer):
        return [Stage(plan)]
    if isinstance(plan, (Stage, GrowingSpan)):
        return plan.stages()
    try:
        stages = [stage for part in plan for stage in stages_of(part)]
    except TypeError:
        raise ArgumentError(f"plan is {kind_of(plan)}: give a Stage, a GrowingSpan, or a list of these.") from None
    if not stages:
        raise ArgumentError("plan is empty: give at least one Stage.")
    return stages
