"""The path for flows of one hidden layer: what it takes, and problems made ready for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .....fields import VectorField
from .....gradients import OF_STEPS
from .....problem import Integrals, PathIntegrals, Problem, Solution
from ....backend import Backend, Prepared
from ...joint import check_tolerances
from ...stiff import find_tableau
from ...tableaus import Tableau
from ..available import not_readable
from ..times import KnownTimes
from .function import Call, kernels, solve
from .plan import flow_plan


class CompiledFlows(Backend):
    """Takes flows of one hidden layer with the exact trace and no penalties, explicit solvers, on the CPU."""

    name = "torch (compiled)"

    def unsupported(self, problem: Problem) -> str | None:
        field, control = problem.field, problem.control
        if not problem.compiled:
            return "compiled is False: leave it out."
        if problem.integrals != PathIntegrals():
            return "the trace is estimated or penalties are integrated: compiled flows have the exact trace alone."
        if not isinstance(field, VectorField) or flow_plan(field) is None:
            return f"the field is a {type(field).__name__}, of which there is no compiled flow: give a HyperMLP."
        if not isinstance(find_tableau(problem.solver), Tableau):
            return f"solver is {problem.solver.name!r}: compiled flows take explicit ones, such as 'Tsit5'."
        if control.norm != "joint" or np.ndim(control.rtol) or np.ndim(control.atol):
            return "norm is not 'joint', or a tolerance is an array: compiled flows take one number for all."
        if problem.signature.layout.shapes[0][0] == 0:
            return "y0 has no samples."
        if not isinstance(problem.gradient, OF_STEPS):
            return f"gradient is {type(problem.gradient).__name__!r}: compiled code has 'Backprop' and 'Checkpointed'."
        return not_readable(problem.signature, kernels())

    def prepare(self, problem: Problem) -> CompiledFlowPrepared:
        return CompiledFlowPrepared(problem)


class CompiledFlowPrepared(Prepared):
    """A flow whose plan and known times are ready for the kernels."""

    engine = CompiledFlows.name

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.plan, self.tableau = flow_plan(problem.field), find_tableau(problem.solver)
        self.times = KnownTimes(self.tableau, problem.control)

    def run(self, parameters: Mapping[str, Any], y0: Tensor, ts: Any, noise: Tensor | None = None) -> Solution:
        check_tolerances(self.problem, y0)
        call = Call(self.plan, self.times.read(ts), self.tableau, self.problem.control)
        end, trace = solve(call, y0, [parameters[name].to(y0.dtype) for name in self.plan.shapes])
        return Solution(
            call.times.ts[-1:],
            end[None],
            *call.counts,
            "reached the last time",
            self.tableau.name,
            self.engine,
            integrals=Integrals(trace),
        )
