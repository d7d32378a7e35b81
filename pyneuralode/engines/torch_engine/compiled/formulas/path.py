"""The path for formulas: what it takes, and joint problems made ready for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .....fields import VectorField
from .....gradients import OF_STEPS
from .....problem import Problem, Statistics
from .....problem.values import as_tensor
from ....backend import Backend
from ...stiff import find_tableau
from ...tableaus import Tableau
from ..available import floating, not_readable
from ..joint import CompiledPrepared
from ..times import Times
from .function import Failure, FormulaSolve, FormulaSolver, Systems, kernels
from .program import MAX_DIM, program_of

# Steps of a program times samples beyond which torch's vectors are as fast (measured), with explicit and stiff solvers.
LARGE, LARGE_STIFF = 6_000, 60_000


def unsupported(problem: Problem, limited: bool) -> str | None:
    """Return why a problem of formulas is not solved in compiled code; `limited` by the work of one evaluation."""
    field, signature, method = problem.field, problem.signature, find_tableau(problem.solver)
    if not problem.compiled:
        return "compiled is False: leave it out."
    program = program_of(field) if isinstance(field, VectorField) else None
    if program is None:
        return f"the field is a {type(field).__name__}, which has no formulas that the compiled machine knows: give Equations."
    if problem.dense or problem.events:
        return f"{'dense is True' if problem.dense else 'events are watched'}: write compiled=False."
    if limited and problem.control.norm != "joint":
        return f"norm is {problem.control.norm!r}: compiled formulas take 'joint'."
    explicit = isinstance(method, Tableau)
    if not explicit and field.dim > MAX_DIM:
        return f"the field has {field.dim} components: compiled stiff solvers take at most {MAX_DIM}."
    if signature.differentiated - {"ts"} and not isinstance(problem.gradient, OF_STEPS):
        return f"gradient is {type(problem.gradient).__name__!r}: compiled code has 'Backprop' and 'Checkpointed'."
    samples = sum(shape.numel() for shape in signature.layout.shapes) // field.dim
    if limited and samples * len(program.steps) > (LARGE if explicit else LARGE_STIFF):
        return "the formulas of all samples are as fast in torch: write compiled=False."
    return not_readable(signature, kernels())


class Formulas(Backend):
    """Takes formulas (`Equations`, and networks as such), with explicit and stiff solvers, on the CPU."""

    name = "torch (compiled)"

    def unsupported(self, problem: Problem) -> str | None:
        return unsupported(problem, limited=True)

    def prepare(self, problem: Problem) -> FormulaPrepared:
        return FormulaPrepared(problem)


class FormulaPrepared(CompiledPrepared):
    """A joint problem whose program and method are ready for the kernels."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.solver = FormulaSolver(problem)

    def march(self, y0: np.ndarray, parameters: Mapping[str, Any], times: Times, statistics: Statistics) -> np.ndarray:
        theta = [floating(name, parameters[name]).reshape(-1) for name in self.solver.program.shapes]
        theta = np.concatenate(theta, dtype=float)[None] if theta else np.empty((1, 0))
        systems = self.solver.systems([times], self.problem.control, differentiated=False)
        states = self._counted(lambda: systems.march(y0.astype(float)[None], theta), systems, statistics)
        return states.astype(self.dtype, copy=False)

    def differentiable(self, y0: Tensor, parameters: Mapping[str, Any], times: Times, statistics: Statistics) -> Tensor:
        named = {name: as_tensor(name, parameters[name]) for name in self.solver.program.shapes}
        systems = self.solver.systems([times], self.problem.control, differentiated=True)
        theta = self.solver.theta(named, 0)
        return self._counted(lambda: FormulaSolve.apply(systems, y0[None], theta), systems, statistics)

    def _counted(self, solve: Callable[[], Any], systems: Systems, statistics: Statistics) -> Any:
        try:
            states = solve()
        except Failure as failure:
            raise failure.error from None
        nfev, accepted, rejected = systems.counts[0].tolist()
        statistics.nfev += nfev
        statistics.accepted += accepted
        statistics.rejected += rejected
        return states
