"""The compiled path for formulas: which problems it supports, and how it prepares joint problems."""

from __future__ import annotations

import torch

from .....errors import kind_of
from .....problem import Problem
from .....tableaus import Tableau
from ....backend import Backend
from ...stiff import find_tableau
from ..available import unsuitable, without_numba
from ..joint import CompiledPrepared
from ..times import Times
from .function import FormulaCall, FormulaSolver, by_system, kernels
from .program import MAX_DIM, program_of

# Number of program steps times number of samples above which torch's vectorized operations are as fast as compiled code
# (measured), for explicit and for stiff solvers.
LARGE, LARGE_STIFF = 6_000, 60_000


class Formulas(Backend):
    """A CPU backend for fields that are, or can be written as, `Equations`, with explicit and stiff solvers."""

    name = "torch (compiled)"

    def unsupported(self, problem: Problem) -> str | None:
        field, signature, joint = problem.field, problem.signature, problem.batch == "joint"
        if (sentence := unsuitable(problem, bool(signature.differentiated - {"ts"}))) is not None:
            return sentence
        program = program_of(field)
        if program is None:
            return f"the field is {kind_of(field)}, for which there are no compiled formulas: use Equations."
        if joint and problem.control.norm != "joint":
            return f"norm is {problem.control.norm!r}: use 'joint' with compiled formulas."
        explicit = isinstance(find_tableau(problem.solver), Tableau)
        if not explicit and field.dim > MAX_DIM:
            return f"the field has {field.dim} components, more than {MAX_DIM}: use compiled=False with a stiff solver."
        samples = sum(shape.numel() for shape in signature.layout.shapes) // field.dim
        if joint and samples * len(program.steps) > (LARGE if explicit else LARGE_STIFF):
            return "torch is as fast as compiled code for this number of formulas and samples: use compiled=False."
        return without_numba(kernels())

    def prepare(self, problem: Problem) -> FormulaPrepared:
        return FormulaPrepared(problem)


class FormulaPrepared(CompiledPrepared):
    """A joint problem with its program, method and tolerances prepared for the kernels."""

    def __init__(self, problem: Problem):
        super().__init__(problem, torch.float64)
        self.solver = FormulaSolver(problem)
        self.tolerances = [by_system(tolerance) for tolerance in (problem.control.rtol, problem.control.atol)]

    def call(self, times: Times) -> FormulaCall:
        return FormulaCall(self.solver, times, self.tolerances)
