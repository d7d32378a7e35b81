"""The path for small networks and the SEIR model: what it takes, and joint problems made ready for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .....gradients import OF_STEPS
from .....problem import Problem, Solution, Statistics
from .....problem.values import check_finite
from ....backend import Backend
from ...joint import JointPrepared, Values, check_tolerances
from ...march import not_finite_error
from ...stiff import find_tableau
from ...tableaus import Tableau
from ..available import floating, not_readable
from ..times import KnownTimes
from .function import Call, NetworkSolve, NetworkSolver, kernels
from .plan import has_kernels

# Multiplications in one evaluation of the field beyond which torch's matrix products are as fast (measured).
LARGE = 1_000_000


class Networks(Backend):
    """Takes described networks (`MLP`, `Linear`) and `SEIR`, with explicit solvers, on the CPU."""

    name = "torch (compiled)"

    def unsupported(self, problem: Problem) -> str | None:
        field, signature = problem.field, problem.signature
        if not problem.compiled:
            return "compiled is False: leave it out."
        if not has_kernels(field):
            return f"the field is a {type(field).__name__}, of which there is no compiled network: give an MLP."
        if not isinstance(find_tableau(problem.solver), Tableau):
            return f"solver is {problem.solver.name!r}: compiled networks take explicit ones, such as 'Tsit5'."
        if problem.dense or problem.events:
            return f"{'dense is True' if problem.dense else 'events are watched'}: write compiled=False."
        if problem.control.norm != "joint":
            return f"norm is {problem.control.norm!r}: compiled networks take 'joint'."
        if signature.differentiated - {"ts"} and not isinstance(problem.gradient, OF_STEPS):
            return f"gradient is {type(problem.gradient).__name__!r}: compiled code has 'Backprop' and 'Checkpointed'."
        samples = sum(shape.numel() for shape in signature.layout.shapes) // field.dim
        if samples * sum(map(math.prod, field.shapes().values())) > LARGE:
            return "the products of one evaluation are as fast in torch: write compiled=False."
        return not_readable(signature, kernels())

    def prepare(self, problem: Problem) -> NetworkPrepared:
        return NetworkPrepared(problem)


class NetworkPrepared(JointPrepared):
    """A joint problem whose plan, tolerances and known times are ready for the kernels."""

    engine = Networks.name

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.solver = NetworkSolver(problem, self.tableau)
        self.times = KnownTimes(self.tableau, problem.control)
        eps = torch.finfo(problem.signature.dtype).eps
        self.any_state = not problem.adaptive or problem.control.suits_any_state(eps)

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        """As in the base, without what costs more than a short solve."""
        followed, numpy = self.problem.signature.differentiated, self.layout.numpy
        if "ts" in followed:
            return super().run(parameters, y0, ts)
        solver, times, statistics = self.solver, self.times.read(ts), Statistics()
        call = Call(solver, times, statistics)
        start = np.array(floating("y0", y0), solver.dtype) if numpy else y0
        start = start.reshape(-1)
        if not math.isfinite(start.sum() if numpy else start.detach().sum()):
            check_finite("y0", torch.as_tensor(start))
        if not self.any_state:
            check_tolerances(self.problem, self.problem.control, torch.as_tensor(start))
        if followed:
            ys = NetworkSolve.apply(call, start, *solver.tensors(parameters))
            values = ys.detach().numpy()
        else:
            values = call.march(start if numpy else start.detach().numpy(), solver.theta(parameters), keep=False)
            ys = values if numpy else torch.from_numpy(values)
        if not math.isfinite(values.sum()) and not (finite := np.isfinite(values).all(1)).all():
            raise not_finite_error(float(times.ts[finite.argmin()]))
        return Solution(
            ts if isinstance(ts, Tensor) else np.asarray(ts, dtype=float),
            ys.reshape((len(values), *self.layout.shapes[0])),
            statistics.nfev,
            statistics.accepted,
            statistics.rejected,
            "reached the last time",
            self.tableau.name,
            self.engine,
        )

    def states(self, values: Values, start: Tensor, statistics: Statistics) -> Tensor:
        call, tensors = (
            Call(self.solver, self.times.read(values.ts), statistics),
            self.solver.tensors(values.parameters),
        )
        if torch.is_grad_enabled() and any(x.requires_grad for x in (start, *tensors)):
            return NetworkSolve.apply(call, start, *tensors)
        return torch.from_numpy(call.march(start.detach().numpy(), self.solver.theta(values.parameters), keep=False))
