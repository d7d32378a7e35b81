"""What all paths of the torch engine share that solve the whole state in the same steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...gradients import Backprop
from ...problem import Control, Problem, Solution, Statistics
from ...problem.values import Layout, all_finite, check_times, flatten, read_parameters
from ..backend import Prepared
from .gradient_methods import attach_outputs, attach_start
from .march import not_finite_error
from .slopes import counted_slope
from .stiff import find_tableau
from .tangents import carries_derivatives


@dataclass
class Values:
    """The values of a solve, read: the flat start (n,), the times as a tensor and as numbers, the parameters by name."""

    y0: Tensor
    ts: Tensor
    times: list[float]
    parameters: dict[str, Tensor]


def read_values(problem: Problem, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Values:
    """Return the values of a solve, checked: finite, in order, within what the dtype can hold."""
    layout, control = problem.signature.layout, problem.control
    start, _ = flatten(y0)
    moments = check_times(ts)
    if moments.dtype != start.dtype:
        # Double times beside a single state keep the step arithmetic exact; gradients of the times flow through the cast.
        moments = moments.to(torch.float64)
    if layout.numpy:
        moments = moments.detach()
    check_tolerances(problem, control, start)
    named = read_parameters(problem.field, parameters, start, constant=layout.numpy)
    return Values(start, moments, moments.detach().tolist(), named)


def check_tolerances(problem: Problem, control: Control, y0: Tensor) -> None:
    """Raise if the tolerances of adaptive steps do not suit the state's dtype."""
    eps = torch.finfo(y0.dtype).eps
    if problem.adaptive and not control.suits_any_state(eps):
        control.check_against(y0.detach().cpu().double().numpy(), str(y0.dtype).removeprefix("torch."), eps)


class JointPrepared(Prepared):
    """A joint problem whose values are read, and whose states are connected to the times, the same way on every path."""

    # Whether the states may be differentiated twice by `Backprop`.
    twice = False

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.layout: Layout = problem.signature.layout
        self.tableau = find_tableau(problem.solver)

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.layout.numpy):
            return self.solve_values(read_values(self.problem, parameters, y0, ts), ts)

    def solve_values(self, values: Values, ts: Any) -> Solution:
        """Solve for values that were read; `ts` are the times as the caller gave them."""
        statistics, problem = Statistics(), self.problem
        if not carries_derivatives(values.ts):
            return self.solution(self.states(values, values.y0, statistics), statistics, ts)
        twice = isinstance(problem.gradient, Backprop)  # the others refuse second derivatives
        f = counted_slope(problem.field, values.parameters, self.layout, values.y0.dtype, statistics)
        moments = values.ts.clone()  # which the caller may change
        start = attach_start(f, moments, values.y0, twice)
        states = self.states(values, start, statistics)
        return self.solution(attach_outputs(f, moments, values.times, states, twice and self.twice), statistics, ts)

    @abstractmethod
    def states(self, values: Values, start: Tensor, statistics: Statistics) -> Tensor:
        """Return the states (T, n) at the times, from `start` (n,), connected to autograd."""

    def solution(self, states: Tensor, statistics: Statistics, ts: Any) -> Solution:
        """Return the solution of states (T, n), which are finite or an error."""
        require_finite(states, ts)
        return Solution(
            ts=ts if isinstance(ts, Tensor) else np.asarray(ts, dtype=float),
            ys=self.layout.deliver(states),
            nfev=statistics.nfev,
            accepted=statistics.accepted,
            rejected=statistics.rejected,
            message="reached the last time",
            solver=self.tableau.name,
            engine=self.engine,
        )


def require_finite(states: Tensor, ts: Any) -> None:
    """Raise where a state (T, n) is not finite, with its time."""
    if not all_finite(states):
        first = int((~torch.isfinite(states.detach()).all(1)).nonzero()[0])
        raise not_finite_error(float(ts[first]))
