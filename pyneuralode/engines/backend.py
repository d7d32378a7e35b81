"""The protocol of backends, and of what they prepare.

A backend says of a whole problem why it does not take it, or prepares it; what it prepared solves the problem for any
values of its kind, as often as wanted and from any number of threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..errors import ArgumentError
from ..problem import Problem, Signature, Solution


class Prepared(ABC):
    """A problem that is ready to be solved.

    Attributes
    ----------
    problem : Problem
    engine : str
        What solves it, as `Solution.engine` names it.
    """

    engine: str

    def __init__(self, problem: Problem):
        self.problem = problem

    def solve(self, parameters: Mapping[str, Any], y0: Any, ts: Any, *, noise: Tensor | None = None) -> Solution:
        """Solve for these values, which are of the kind that the problem was prepared for.

        Parameters
        ----------
        parameters : mapping of name to array or tensor
        y0 : array, tensor or tuple of them
            Initial state.
        ts : array or tensor (T,), or as `batch="independent"` takes them
            Times; the solve starts at the first.
        noise : tensor (n, d), optional
            Of a flow whose trace is estimated.

        Raises ArgumentError for values of another kind, SolverError where the solve cannot reach its end.
        """
        expected, found = self.problem.signature, Signature.of(parameters, y0, ts)
        if found.key != expected.key:
            _check_same_kind(expected, found)
        return self.run(parameters, y0, ts) if noise is None else self.run(parameters, y0, ts, noise)

    @abstractmethod
    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        """Solve for values that are known to be of the problem's kind; those of a flow may bring their noise."""


class Backend(ABC):
    """What solves problems: an engine, or one of an engine's paths."""

    name: str

    @abstractmethod
    def unsupported(self, problem: Problem) -> str | None:
        """Return the sentence that says why this backend does not take a problem, and what to change; None if it does."""

    @abstractmethod
    def prepare(self, problem: Problem) -> Prepared:
        """Return a problem that is not `unsupported`, ready to be solved."""

    def yields(self, problem: Problem) -> str | None:
        """Return the sentence that says why "auto" leaves a problem to others; None if it does not."""
        return None


class Paths(Backend):
    """Several backends in order: the first that takes a problem has it."""

    def __init__(self, name: str, paths: Iterable[Backend]):
        self.name, self.paths = name, tuple(paths)

    def unsupported(self, problem: Problem) -> str | None:
        """Return None if one of the paths takes the problem, else what the last of them, the most general one, says."""
        sentence = None
        for path in self.paths:
            sentence = path.unsupported(problem)
            if sentence is None:
                return None
        return sentence

    def first(self, problem: Problem) -> Backend:
        """Return the path that takes a problem which is not `unsupported`."""
        return next(path for path in self.paths if path.unsupported(problem) is None)

    def prepare(self, problem: Problem) -> Prepared:
        return self.first(problem).prepare(problem)


def _check_same_kind(expected: Signature, found: Signature) -> None:
    """Raise unless values of one kind may be solved by what was prepared for another: less may be differentiated."""
    pairs = {
        "y0": ((expected.layout, expected.dtype, expected.device), (found.layout, found.dtype, found.device)),
        "parameters": (expected.parameters, found.parameters),
        "ts": (expected.times, found.times),
    }
    for name, (wanted, given) in pairs.items():
        if wanted != given:
            raise ArgumentError(
                f"{name} is of another kind than what was prepared: {given}, not {wanted}; prepare again."
            )
    if more := (found.differentiated - expected.differentiated) | (
        {"tangents"} if found.tangents > expected.tangents else set()
    ):
        raise ArgumentError(
            f"{', '.join(sorted(more))} is to be differentiated, which was not so when this was prepared: prepare again."
        )
