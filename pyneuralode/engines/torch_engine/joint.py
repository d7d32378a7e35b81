"""What all paths of the torch engine share that solve the whole state in the same steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...problem import Problem, Solution, Statistics
from ...problem.values import Layout, all_finite, check_times, flatten, read_parameters
from ..backend import Prepared
from .march import not_finite_error
from .stiff import find_tableau


@dataclass
class Values:
    """The values of a solve, read: the flat start (n,), the times as a tensor and as numbers, the parameters by name."""

    y0: Tensor
    ts: Tensor
    times: list[float]
    parameters: dict[str, Tensor]


def read_values(problem: Problem, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Values:
    """Return the values of a solve, checked: finite, in order, within what the dtype can hold."""
    layout = problem.signature.layout
    start, _ = flatten(y0)
    moments = check_times(ts)
    if moments.dtype != start.dtype:
        # Double times beside a single state keep the step arithmetic exact; gradients of the times flow through the cast.
        moments = moments.to(torch.float64)
    if layout.numpy:
        moments = moments.detach()
    check_tolerances(problem, start)
    named = read_parameters(problem.field, parameters, start, constant=layout.numpy)
    return Values(start, moments, moments.detach().tolist(), named)


def check_tolerances(problem: Problem, y0: Tensor) -> None:
    """Raise if the tolerances of adaptive steps do not suit the state's dtype."""
    eps, control = torch.finfo(y0.dtype).eps, problem.control
    if problem.adaptive and not control.suits_any_state(eps):
        control.check_against(y0.detach().cpu().double().numpy(), str(y0.dtype).removeprefix("torch."), eps)


class JointPrepared(Prepared):
    """A joint problem whose values are read, and whose solution is given, the same way on every path."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.layout: Layout = problem.signature.layout
        self.tableau = find_tableau(problem.solver)

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.layout.numpy):
            return self.solve_values(read_values(self.problem, parameters, y0, ts), ts)

    @abstractmethod
    def solve_values(self, values: Values, ts: Any) -> Solution:
        """Solve for values that were read; `ts` are the times as the caller gave them."""

    def solution(self, states: Tensor, statistics: Statistics, ts: Any) -> Solution:
        """Return the solution of states (T, n), which are finite or an error."""
        require_finite(states, ts)
        return Solution(
            ts=ts if isinstance(ts, Tensor) else np.asarray(ts, dtype=float),
            ys=self.layout.deliver(states),
            **vars(statistics),
            message="reached the last time",
            solver=self.tableau.name,
            engine=self.engine,
        )


def require_finite(states: Tensor, ts: Any) -> None:
    """Raise where a state (T, n) is not finite, with its time."""
    if not all_finite(states):
        first = int((~torch.isfinite(states.detach()).all(1)).nonzero()[0])
        raise not_finite_error(float(ts[first]))
