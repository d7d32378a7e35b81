"""Code shared by the compiled paths for joint problems: it reads values and returns solutions in a few microseconds."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....errors import SolverError
from ....fields import VectorField
from ....gradients import Backprop
from ....problem import Problem, Solution, Statistics, Values
from ....problem.values import as_tensor, check_finite, flatten
from ..gradient_methods import attach_outputs, attach_start
from ..joint import JointPrepared
from ..march import not_finite_error
from ..slopes import counted_slope
from ..tangents import carries_derivatives
from .autograd import Call, CompiledSolve
from .available import flat_parameters, floating
from .times import KnownTimes, Times

_NUMPY = {torch.float32: np.dtype("f4"), torch.float64: np.dtype("f8")}


class CompiledPrepared(JointPrepared):
    """A joint problem that is solved by compiled code, with a cache of times.

    The parameters are passed to compiled code in the dtype `parameter_dtype`.
    """

    engine = "torch (compiled)"

    def __init__(self, problem: Problem, parameter_dtype: torch.dtype):
        super().__init__(problem)
        assert isinstance(problem.field, VectorField)  # as there are no kernels of other fields
        self.shapes, self.parameter_dtype = problem.field.shapes(), parameter_dtype
        self.times = KnownTimes(self.tableau, problem.control)
        self.dtype = _NUMPY[problem.signature.dtype]
        # Whether the tolerances can be checked without the initial state.
        self.any_state = not problem.adaptive or problem.control.suits_any_state(np.finfo(self.dtype).eps)

    @abstractmethod
    def call(self, times: Times) -> Call:
        """Return a new solve at the given times, from an initial state (n,) to states (T, n)."""

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        """Like the base class's method, but with less of the overhead that would dominate short solves."""
        followed, numpy = self.problem.signature.differentiated, self.layout.numpy
        if "ts" in followed:
            return super().run(parameters, y0, ts)
        if not self.any_state:
            self.problem.check_tolerances(flatten(y0)[0])
        call = self.call(self.times.read(ts))
        try:
            if followed:
                # Creating a view costs as much as a stage of a small network, so none is created if the state is
                # already flat.
                ys = self._recorded(call, y0 if y0.ndim == 1 else y0.reshape(-1), parameters)
            else:
                ys = self._plain(call, np.array(floating("y0", y0), self.dtype).reshape(-1), parameters)
        except SolverError:
            # Checked only after a failure, since a solve from a non-finite state always fails.
            check_finite("y0", as_tensor("y0", y0))
            raise
        if not (followed or numpy):
            ys = torch.from_numpy(ys)
        shape = self.layout.shapes[0]
        return self.delivered(ys if len(shape) == 1 else ys.reshape((len(ys), *shape)), ts, *call.counts)

    def _plain(self, call: Call, start: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
        return call.march(start, flat_parameters(parameters, self.shapes, _NUMPY[self.parameter_dtype]), keep=False)

    def _recorded(self, call: Call, start: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        tensors, dtype = [parameters[name] for name in self.shapes], self.parameter_dtype
        if not all(isinstance(tensor, Tensor) and tensor.dtype is dtype for tensor in tensors):
            tensors = [as_tensor(name, value).to(dtype) for name, value in zip(self.shapes, tensors)]
        return CompiledSolve.apply(call, start, *tensors)

    def solve_values(self, values: Values, ts: Any) -> Solution:
        problem, statistics = self.problem, Statistics()
        if not carries_derivatives(values.ts):
            return self.solution(self._states(values, values.y0, statistics), statistics, ts)
        f = counted_slope(problem.field, values.parameters, self.layout, values.y0.dtype, statistics)
        moments = values.ts.clone()  # a copy, as the caller may change the times
        # Only gradients computed by `Backprop` without compiled code can be differentiated again.
        start = attach_start(f, moments, values.y0, isinstance(problem.gradient, Backprop))
        states = self._states(values, start, statistics)
        return self.solution(attach_outputs(f, moments, values.times, states, False), statistics, ts)

    def _states(self, values: Values, start: Tensor, statistics: Statistics) -> Tensor:
        call = self.call(self.times.read(values.ts))
        if torch.is_grad_enabled() and (start.requires_grad or self.problem.differentiated):
            states = self._recorded(call, start, values.parameters)
        else:
            states = torch.from_numpy(self._plain(call, start.detach().numpy(), values.parameters))
        statistics.nfev += call.counts[0]  # in addition to the evaluations for gradients with respect to the times
        statistics.accepted, statistics.rejected = call.counts[1:]
        return states


def require_finite(states: np.ndarray, times: Times) -> None:
    """Raise an error that states the time if one of the states (T, n) is not finite."""
    if not math.isfinite(states.sum()) and not (finite := np.isfinite(states).all(1)).all():
        raise not_finite_error(float(times.ts[finite.argmin()]))
