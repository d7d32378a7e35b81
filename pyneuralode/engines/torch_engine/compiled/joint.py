"""Code shared by the compiled paths for joint problems: reading values and returning the solution in a few microseconds."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ....gradients import Backprop
from ....problem import Problem, Solution, Statistics
from ....problem.values import check_finite
from ..gradient_methods import attach_outputs, attach_start
from ..joint import JointPrepared, Values, check_tolerances
from ..march import not_finite_error
from ..slopes import counted_slope
from ..tangents import carries_derivatives
from .available import floating
from .times import KnownTimes, Times

# Evaluations, accepted and rejected steps.
Counts: TypeAlias = tuple[int, int, int]


class CompiledPrepared(JointPrepared):
    """A joint problem that is solved by compiled code, with a cache of times."""

    engine = "torch (compiled)"

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.times = KnownTimes(self.tableau, problem.control)
        self.dtype = np.dtype("f4" if problem.signature.dtype == torch.float32 else "f8")
        # Whether the tolerances can be checked without the initial state.
        self.any_state = not problem.adaptive or problem.control.suits_any_state(np.finfo(self.dtype).eps)

    @abstractmethod
    def march(self, y0: np.ndarray, parameters: Mapping[str, Any], times: Times) -> tuple[np.ndarray, Counts]:
        """Return the states (T, n) of the solve from y0 (n,), and the counts."""

    @abstractmethod
    def differentiable(self, y0: Tensor, parameters: Mapping[str, Any], times: Times) -> tuple[Tensor, Counts]:
        """Return the states (T, n) of the solve from y0 (n,), connected to autograd, and the counts."""

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        """Like the base class's method, but faster than a short solve."""
        followed, numpy = self.problem.signature.differentiated, self.layout.numpy
        if "ts" in followed:
            return super().run(parameters, y0, ts)
        times = self.times.read(ts)
        start = np.array(floating("y0", y0), self.dtype).reshape(-1)  # a copy, as the caller may change y0
        if not math.isfinite(start.sum()):
            check_finite("y0", torch.from_numpy(start))
        if not self.any_state:
            check_tolerances(self.problem, torch.from_numpy(start))
        if followed:
            # Creating a view costs as much as a stage of a small network, so none is created if the state is already
            # flat.
            ys, counts = self.differentiable(y0 if y0.ndim == 1 else y0.reshape(-1), parameters, times)
            values = ys.detach().numpy()
        else:
            values, counts = self.march(start, parameters, times)
            ys = values if numpy else torch.from_numpy(values)
        if not math.isfinite(values.sum()) and not (finite := np.isfinite(values).all(1)).all():
            raise not_finite_error(float(times.ts[finite.argmin()]))
        shape = self.layout.shapes[0]
        return self.delivered(ys if len(shape) == 1 else ys.reshape((len(values), *shape)), ts, *counts)

    def solve_values(self, values: Values, ts: Any) -> Solution:
        problem, statistics = self.problem, Statistics()
        if not carries_derivatives(values.ts):
            return self.solution(self._states(values, values.y0, statistics), statistics, ts)
        f = counted_slope(problem.field, values.parameters, self.layout, values.y0.dtype, statistics)
        moments = values.ts.clone()  # a copy, as the caller may change them
        # Only `Backprop` may be differentiated again, and not through compiled code.
        start = attach_start(f, moments, values.y0, isinstance(problem.gradient, Backprop))
        states = self._states(values, start, statistics)
        return self.solution(attach_outputs(f, moments, values.times, states, False), statistics, ts)

    def _states(self, values: Values, start: Tensor, statistics: Statistics) -> Tensor:
        times = self.times.read(values.ts)
        if torch.is_grad_enabled() and (start.requires_grad or self.problem.differentiated):
            states, counts = self.differentiable(start, values.parameters, times)
        else:
            ys, counts = self.march(start.detach().numpy(), values.parameters, times)
            states = torch.from_numpy(ys)
        statistics.nfev += counts[0]  # in addition to the slopes that gradients of the times need
        statistics.accepted, statistics.rejected = counts[1:]
        return states
