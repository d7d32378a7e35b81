"""The protocol of backends and of the problems that they prepare.

A backend looks at a whole problem and either says why it cannot solve it, or prepares it. A prepared problem is solved for
any values of its kind, any number of times and from any number of threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..errors import ArgumentError
from ..problem import Problem, Signature, Solution


class Prepared(ABC):
    """A problem that is ready to be solved, as `NeuralODE.prepare` returns it.

    Attributes
    ----------
    problem : Problem
        The problem, without its values.
    engine : str
        The name of what solves it, as in `Solution.engine`.
    """

    engine: str

    def __init__(self, problem: Problem):
        self.problem = problem

    def solve(self, parameters: Mapping[str, Any], y0: Any, ts: Any, *, noise: Tensor | None = None) -> Solution:
        """Solve for values of the kind that the problem was prepared for.

        Parameters
        ----------
        parameters : mapping of name to array or tensor
        y0 : array, tensor or tuple of them
            Initial state.
        ts : array or tensor (T,), or as `batch="independent"` takes them
            Times; the solve starts at the first.
        noise : tensor (n, d), optional
            The noise of a flow whose trace is estimated.

        Raises
        ------
        ArgumentError
            For values of another kind.
        SolverError
            If the solve cannot reach its end.

        Examples
        --------
        >>> import torch
        >>> import pyneuralode as pn
        >>> model = pn.NeuralODE(pn.MLP((2, 16, 2)))
        >>> y0, ts = torch.ones(2), torch.linspace(0, 1, 5)
        >>> prepared = model.prepare(y0, ts)
        >>> [prepared.solve(model.tensors(), scale * y0, ts).ys.shape for scale in (1.0, 2.0)]
        [torch.Size([5, 2]), torch.Size([5, 2])]
        """
        if noise is not None and self.problem.integrals is None:
            raise ArgumentError("noise is given, and this problem is not a flow: leave it out.")
        expected, found = self.problem.signature, Signature.of(parameters, y0, ts)
        if found.key != expected.key:
            _check_same_kind(expected, found)
        return self.run(parameters, y0, ts) if noise is None else self.run(parameters, y0, ts, noise)

    @abstractmethod
    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        """Solve for values that are known to be of the problem's kind; a flow is also given its noise."""


class Backend(ABC):
    """Base of what solves problems: an engine, or one of the paths of an engine."""

    name: str

    @abstractmethod
    def unsupported(self, problem: Problem) -> str | None:
        """Return a sentence that says why this backend cannot solve a problem and what to change; None if it can."""

    @abstractmethod
    def prepare(self, problem: Problem) -> Prepared:
        """Return a problem ready to be solved; it must not be `unsupported`."""

    def yields(self, problem: Problem) -> str | None:
        """Return a sentence that says why "auto" should leave a problem to another backend; None if it should not."""
        return None


class Paths(Backend):
    """Several backends in order; the first that supports a problem solves it."""

    def __init__(self, name: str, paths: Iterable[Backend]):
        self.name, self.paths = name, tuple(paths)

    def unsupported(self, problem: Problem) -> str | None:
        """Return None if one of the paths supports the problem, else the sentence of the last path, the most general one."""
        sentence = None
        for path in self.paths:
            sentence = path.unsupported(problem)
            if sentence is None:
                return None
        return sentence

    def first(self, problem: Problem) -> Backend:
        """Return the path that solves a problem; it must not be `unsupported`."""
        return next(path for path in self.paths if path.unsupported(problem) is None)

    def prepare(self, problem: Problem) -> Prepared:
        return self.first(problem).prepare(problem)


def _check_same_kind(expected: Signature, found: Signature) -> None:
    """Raise unless values of the kind found can be solved by what was prepared for the kind expected.

    They may only differ in that fewer values are differentiated.
    """
    pairs = {
        "y0": (expected.state(), found.state()),
        "parameters": (f"of shapes {expected.parameters}", f"of shapes {found.parameters}"),
        "ts": (expected.times, found.times),
    }
    for name, (wanted, given) in pairs.items():
        if wanted != given:
            raise ArgumentError(f"{name} is {given}, but {wanted} when this was prepared: prepare again.")
    if more := (found.differentiated - expected.differentiated) | (
        {"tangents"} if found.tangents > expected.tangents else set()
    ):
        raise ArgumentError(
            f"{', '.join(sorted(more))} is to be differentiated, but was not when this was prepared: prepare again."
        )
