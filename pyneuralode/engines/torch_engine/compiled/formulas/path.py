"""The path for formulas: which problems it supports, and the preparation of joint problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .....problem import Problem
from .....problem.values import as_tensor
from .....tableaus import Tableau
from ....backend import Backend
from ...stiff import find_tableau
from ..available import flat_parameters, unsuitable, without_numba
from ..joint import CompiledPrepared, Counts
from ..times import Times
from .function import Failure, FormulaSolve, FormulaSolver, Systems, kernels
from .program import MAX_DIM, program_of

# The steps of a program times the samples above which torch's vectors are as fast (measured), for explicit and stiff
# solvers.
LARGE, LARGE_STIFF = 6_000, 60_000


class Formulas(Backend):
    """Supports `Equations`, and fields that can be written as `Equations`, with explicit and stiff solvers, on the CPU."""

    name = "torch (compiled)"

    def unsupported(self, problem: Problem) -> str | None:
        field, signature, joint = problem.field, problem.signature, problem.batch == "joint"
        if (sentence := unsuitable(problem, bool(signature.differentiated - {"ts"}))) is not None:
            return sentence
        program = program_of(field)
        if program is None:
            return (
                f"the field is a {type(field).__name__}, which the compiled code has no formulas for: give Equations."
            )
        if joint and problem.control.norm != "joint":
            return f"norm is {problem.control.norm!r}: compiled formulas support 'joint'."
        explicit = isinstance(find_tableau(problem.solver), Tableau)
        if not explicit and field.dim > MAX_DIM:
            return f"the field has {field.dim} components: compiled stiff solvers support at most {MAX_DIM}."
        samples = sum(shape.numel() for shape in signature.layout.shapes) // field.dim
        if joint and samples * len(program.steps) > (LARGE if explicit else LARGE_STIFF):
            return "the formulas of all samples are as fast in torch: write compiled=False."
        return without_numba(kernels())

    def prepare(self, problem: Problem) -> FormulaPrepared:
        return FormulaPrepared(problem)


class FormulaPrepared(CompiledPrepared):
    """A joint problem whose program and method are prepared for the kernels."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.solver = FormulaSolver(problem)

    def march(self, y0: np.ndarray, parameters: Mapping[str, Any], times: Times) -> tuple[np.ndarray, Counts]:
        theta = flat_parameters(parameters, self.solver.program.shapes, float)[None]
        systems = Systems(self.solver, [times], self.problem.control, differentiated=False)
        states, counts = _counted(lambda: systems.march(y0.astype(float)[None], theta), systems)
        return states.astype(self.dtype, copy=False), counts

    def differentiable(self, y0: Tensor, parameters: Mapping[str, Any], times: Times) -> tuple[Tensor, Counts]:
        named = {name: as_tensor(name, parameters[name]) for name in self.solver.program.shapes}
        systems = Systems(self.solver, [times], self.problem.control, differentiated=True)
        theta = self.solver.theta(named, 0)
        return _counted(lambda: FormulaSolve.apply(systems, y0[None], theta), systems)


def _counted(solve: Callable[[], Any], systems: Systems) -> tuple[Any, Counts]:
    """Return the states of the single system, and its counts."""
    try:
        return solve(), tuple(systems.counts[0].tolist())
    except Failure as failure:
        raise failure.error from None
