"""The compiled path for flows with one hidden layer: which problems it supports, and how it prepares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .....errors import kind_of
from .....fields import VectorField
from .....problem import Integrals, PathIntegrals, Problem, Solution
from .....tableaus import Tableau
from ....backend import Backend, Prepared
from ...stiff import find_tableau
from ..autograd import CompiledSolve
from ..available import unsuitable, wants_gradient, without_numba
from ..times import KnownTimes
from .function import Call, kernels
from .plan import flow_plan


class CompiledFlows(Backend):
    """A CPU backend for flows with one hidden layer and the exact trace, without penalties, with explicit solvers."""

    name = "torch (compiled)"

    def unsupported(self, problem: Problem) -> str | None:
        field, control = problem.field, problem.control
        if (sentence := unsuitable(problem, differentiated=True)) is not None:
            return sentence
        if problem.integrals != PathIntegrals():
            return "the trace is estimated or penalties are integrated: use the exact trace alone for compiled flows."
        if not isinstance(field, VectorField) or flow_plan(field) is None:
            return f"the field is {kind_of(field)}, which has no compiled kernels: use a HyperMLP."
        if not isinstance(find_tableau(problem.solver), Tableau):
            return f"solver is {problem.solver.name!r}: use an explicit solver for compiled flows, such as 'Tsit5'."
        if control.norm != "joint" or np.ndim(control.rtol) or np.ndim(control.atol):
            return "norm is not 'joint' or a tolerance is an array: use norm='joint' and scalar tolerances."
        if problem.signature.layout.shapes[0][0] == 0:
            return "y0 has no samples: give at least one sample for compiled flows."
        return without_numba(kernels())

    def prepare(self, problem: Problem) -> CompiledFlowPrepared:
        return CompiledFlowPrepared(problem)


class CompiledFlowPrepared(Prepared):
    """A flow problem with its plan prepared for the kernels, and a cache of checked times."""

    engine = CompiledFlows.name

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.plan, self.tableau = flow_plan(problem.field), find_tableau(problem.solver)
        self.times = KnownTimes(self.tableau, problem.control)

    def run(self, parameters: Mapping[str, Any], y0: Tensor, ts: Any, noise: Tensor | None = None) -> Solution:
        self.problem.check_tolerances(y0)
        call = Call(self.plan, self.times.read(ts), self.tableau, self.problem.control)
        tensors = [parameters[name].to(y0.dtype) for name in self.plan.shapes]
        if wants_gradient(y0, *tensors):
            end = CompiledSolve.apply(call, y0.t(), *tensors)
        else:
            theta = torch.cat([p.detach().reshape(-1) for p in tensors]).numpy()
            end = torch.from_numpy(call.march(y0.detach().t().contiguous().numpy(), theta, keep=False))
        return Solution(
            call.times.ts[-1:],
            end[:-1].t().contiguous()[None],
            *call.counts,
            "reached the last time",
            self.tableau.name,
            self.engine,
            integrals=Integrals(end[-1]),
        )
