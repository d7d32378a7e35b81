"""The order in which a fit sees its data: stages, and a curriculum that makes stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

from ..arguments import nonnegative_number, real_number, whole_number
from ..errors import ArgumentError
from .optimizers import Adam, Optimizer


@dataclass(frozen=True)
class Stage:
    """One part of a fit: an optimizer, and the data that it sees.

    Parameters
    ----------
    optimizer : Optimizer
        By default Adam(1e-3).
    iterations : int
        Largest number of iterations.
    end : float, optional
        Last time of the data that the stage sees, by default the last of all.
    goal : float, optional
        Loss at which the stage ends early. If the size of the noise in the data is known, a lower loss than the
        noise alone would give means that the noise is fitted (Morozov's discrepancy principle).

    Raises
    ------
    ArgumentError
        If one of them is wrong.

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
            raise ArgumentError(f"optimizer is a {type(self.optimizer).__name__}: give one such as Adam(lr=1e-3).")
        object.__setattr__(self, "iterations", whole_number("iterations", self.iterations))
        if self.end is not None:
            remedy = "give a time of the data, or None for all of it"
            object.__setattr__(self, "end", real_number("end", self.end, remedy))
        if self.goal is not None:
            remedy = "give a finite loss of at least 0, or None to go on to the last iteration"
            object.__setattr__(self, "goal", nonnegative_number("goal", self.goal, remedy))

    def stages(self) -> list[Stage]:
        """Return the stage itself, as a plan of one."""
        return [self]


@dataclass(frozen=True)
class GrowingSpan:
    """A plan of growing time spans: each stage fits the data up to its end, from the best parameters of the one before.

    A fit of a long trajectory at once often ends in the mean of the data. A fit of its beginning, and then of more and
    more of it, does not (the "iterative growing of fits" of the SciML tutorials).

    Parameters
    ----------
    ends : sequence of float
        Last time of each stage, rising.
    optimizers : Optimizer, or one for each stage
    iterations : int, or one for each stage
        Largest number of iterations.
    finish : sequence of Stage
        Stages after the growing ones, by default on the data up to the last end.

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
        """Return the stages; raises ArgumentError unless the ends rise and there is one of each for every end."""
        ends = [real_number("an end", end, "give rising times, such as [60, 91, 170]") for end in self.ends]
        if not ends or any(b <= a for a, b in zip(ends, ends[1:])):
            raise ArgumentError(f"ends is {ends}: give rising times, such as [60, 91, 170].")
        optimizers = _one_for_each("optimizers", self.optimizers, len(ends), Optimizer)
        iterations = _one_for_each("iterations", self.iterations, len(ends), Real)
        growing = [Stage(o, n, end) for o, n, end in zip(optimizers, iterations, ends)]
        return growing + [replace(s, end=ends[-1] if s.end is None else s.end) for s in self.finish]


def _one_for_each(name: str, value, count: int, kind: type) -> list:
    """Return `count` values, from one or from a sequence of them."""
    if not isinstance(value, kind) and (isinstance(value, (str, bytes)) or not isinstance(value, Iterable)):
        raise ArgumentError(f"{name} is {value!r}: give one, or a sequence with one for each end.")
    values = [value] * count if isinstance(value, kind) else list(value)
    if len(values) != count:
        raise ArgumentError(f"{name} has {len(values)} entries and ends {count}: give one, or one for each end.")
    return values


def stages_of(plan: Stage | GrowingSpan | Optimizer | Sequence) -> list[Stage]:
    """Return the stages of a plan: a stage, a curriculum, an optimizer alone, or a sequence of these."""
    if isinstance(plan, Optimizer):
        return [Stage(plan)]
    if isinstance(plan, (Stage, GrowingSpan)):
        return plan.stages()
    try:
        stages = [stage for part in plan for stage in stages_of(part)]
    except TypeError:
        raise ArgumentError(
            f"plan is a {type(plan).__name__}: give a Stage, a GrowingSpan, or a list of them."
        ) from None
    if not stages:
        raise ArgumentError("plan is empty: give at least one Stage.")
    return stages
