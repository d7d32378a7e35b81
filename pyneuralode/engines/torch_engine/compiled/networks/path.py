"""The compiled path for small networks and the SEIR model: which problems it supports, and how it prepares them."""

from __future__ import annotations

import math

from .....errors import kind_of
from .....problem import Problem
from .....tableaus import Tableau
from ....backend import Backend
from ...stiff import find_tableau
from ..available import unsuitable, without_numba
from ..joint import CompiledPrepared
from ..times import Times
from .function import Call, NetworkSolver, kernels
from .plan import has_kernels

# Number of multiplications in one evaluation of the field above which torch's matrix products are as fast as compiled
# code (measured).
LARGE = 1_000_000


class Networks(Backend):
    """A CPU backend for `MLP`, `Linear` and `SEIR` fields, with explicit solvers."""

    name = "torch (compiled)"

    def unsupported(self, problem: Problem) -> str | None:
        field, signature = problem.field, problem.signature
        if (sentence := unsuitable(problem, bool(signature.differentiated - {"ts"}))) is not None:
            return sentence
        if not has_kernels(field):
            return f"the field is {kind_of(field)}, which has no compiled kernels: use an MLP."
        if not isinstance(find_tableau(problem.solver), Tableau):
            return f"solver is {problem.solver.name!r}: use an explicit solver for compiled networks, such as 'Tsit5'."
        if problem.control.norm != "joint":
            return f"norm is {problem.control.norm!r}: use 'joint' with compiled networks."
        samples = sum(shape.numel() for shape in signature.layout.shapes) // field.dim
        if samples * sum(map(math.prod, field.shapes().values())) > LARGE:
            return "torch is as fast as compiled code for a network of this size: use compiled=False."
        return without_numba(kernels())

    def prepare(self, problem: Problem) -> NetworkPrepared:
        return NetworkPrepared(problem)


class NetworkPrepared(CompiledPrepared):
    """A joint problem with its plan, limits and tolerances prepared for the kernels."""

    def __init__(self, problem: Problem):
        super().__init__(problem, problem.signature.dtype)
        self.solver = NetworkSolver(problem, self.tableau, self.shapes)

    def call(self, times: Times) -> Call:
        return Call(self.solver, times)
