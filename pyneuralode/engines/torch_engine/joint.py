"""Code shared by all torch paths for batch='joint', where the whole state is solved with the same steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...problem import Problem, Solution, Statistics, Values
from ...problem.values import Layout, all_finite
from ..backend import Prepared
from .march import not_finite_error
from .stiff import find_tableau


class JointPrepared(Prepared):
    """A prepared problem for batch='joint': it reads values and returns solutions in the same way on every path."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.layout: Layout = problem.signature.layout
        self.tableau = find_tableau(problem.solver)

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.layout.numpy):
            return self.solve_values(self.problem.read(parameters, y0, ts), ts)

    @abstractmethod
    def solve_values(self, values: Values, ts: Any) -> Solution:
        """Solve for `values`, which are already checked; `ts` are the times as the caller passed them."""

    def solution(self, states: Tensor, statistics: Statistics, ts: Any) -> Solution:
        """Return the solution with states (T, n); raise if they are not finite."""
        require_finite(states, ts)
        return self.delivered(self.layout.deliver(states), ts, **vars(statistics))

    def delivered(self, ys: Any, ts: Any, nfev: int, accepted: int, rejected: int) -> Solution:
        """Return the solution with the states `ys`, which already have the form of the caller's state."""
        return Solution(
            ts=ts if isinstance(ts, Tensor) else np.asarray(ts, dtype=float),
            ys=ys,
            nfev=nfev,
            accepted=accepted,
            rejected=rejected,
            message="reached the last time",
            solver=self.tableau.name,
            engine=self.engine,
        )


def require_finite(states: Tensor, ts: Any) -> None:
    """Raise if one of the states (T, n) is not finite; the message states the time."""
    if not all_finite(states):
        first = int((~torch.isfinite(states.detach()).all(1)).nonzero()[0])
        raise not_finite_error(float(ts[first]))
