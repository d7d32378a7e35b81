"""The interface of backends and of the problems that they prepare.

A backend examines a whole problem, and either states why it cannot solve the problem or prepares it. A prepared problem
can be solved for any values of the same shapes and dtypes, any number of times and from any number of threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..errors import ArgumentError
from ..problem import Problem, Signature, Solution


class Prepared(ABC):
    """A problem that is ready to be solved, as returned by `NeuralODE.prepare`.

    Attributes
    ----------
    problem : Problem
        The problem, without its values.
    engine : str
        The name of the engine that solves the problem, as in `Solution.engine`.
    """

    engine: str

    def __init__(self, problem: Problem):
        self.problem = problem

    def solve(self, parameters: Mapping[str, Any], y0: Any, ts: Any, *, noise: Tensor | None = None) -> Solution:
        """Solve for values of the same shapes, dtypes and device as those for which the problem was prepared.

        Parameters
        ----------
        parameters : mapping of name to array or tensor
        y0 : array, tensor or tuple of these
            Initial state.
        ts : array or tensor (T,), or any form that `batch="independent"` accepts
            Times; the solve starts at the first one.
        noise : tensor (n, d), optional
            The noise with which the trace of a flow is estimated.

        Raises
        ------
        ArgumentError
            If shapes, dtypes or devices differ, or if values require gradients that did not when the problem was
            prepared.
        SolverError
            If the solve fails before the last time.

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
            raise ArgumentError("noise is given, but this problem is not a flow: leave it out.")
        expected, found = self.problem.signature, Signature.of(parameters, y0, ts)
        if found.key != expected.key:
            _check_same_kind(expected, found)
        return self.run(parameters, y0, ts) if noise is None else self.run(parameters, y0, ts, noise)

    @abstractmethod
    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        """Solve for values whose shapes and dtypes are already checked; flows also accept `noise`."""


class Backend(ABC):
    """Base class of backends, which prepare problems for solving; each is an engine or a code path of an engine."""

    name: str

    @abstractmethod
    def unsupported(self, problem: Problem) -> str | None:
        """Return a message that says why this backend cannot solve a problem and what to change; None if it can."""

    @abstractmethod
    def prepare(self, problem: Problem) -> Prepared:
        """Prepare a problem for solving. The backend must support it (`unsupported` returns None)."""

    def yields(self, problem: Problem) -> str | None:
        """Return the reason why "auto" should prefer another backend that supports the problem; None if it should not."""
        return None


class Paths(Backend):
    """An ordered list of backends; the first that supports a problem solves it."""

    def __init__(self, name: str, paths: Iterable[Backend]):
        self.name, self.paths = name, tuple(paths)

    def unsupported(self, problem: Problem) -> str | None:
        """Return None if one of the paths supports the problem, else the message of the last path, the most general one."""
        sentence = None
        for path in self.paths:
            sentence = path.unsupported(problem)
            if sentence is None:
                return None
        return sentence

    def first(self, problem: Problem) -> Backend:
        """Return the path that solves a problem; one of the paths must support it."""
        return next(path for path in self.paths if path.unsupported(problem) is None)

    def prepare(self, problem: Problem) -> Prepared:
        return self.first(problem).prepare(problem)


def _check_same_kind(expected: Signature, found: Signature) -> None:
    """Raise unless a problem prepared for values with one signature can be solved for values with another, `found`.

    The only difference allowed is that fewer values require gradients.
    """
    pairs = {
        "y0": (expected.state(), found.state()),
        "parameters": (f"of shapes {expected.parameters}", f"of shapes {found.parameters}"),
        "ts": (f"of kind {expected.times!r}", f"of kind {found.times!r}"),
    }
    for name, (wanted, given) in pairs.items():
        if wanted != given:
            raise ArgumentError(f"{name} is {given}, but was {wanted} when the problem was prepared: prepare it again.")
    if more := (found.differentiated - expected.differentiated) | (
        {"forward-mode tangents"} if found.tangents > expected.tangents else set()
    ):
        raise ArgumentError(
            f"autograd now records {', '.join(sorted(more))}, but did not when the problem was prepared: prepare it again."
        )
