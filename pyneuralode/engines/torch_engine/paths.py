"""The torch engine's code paths, in the order in which they are tried."""

from __future__ import annotations

from ...gradients import OF_STEPS
from ...problem import Problem
from ..backend import Backend, Paths, Prepared
from .batched.path import SideBySide
from .compiled.flows import CompiledFlows
from .compiled.formulas import Formulas
from .compiled.formulas.each import FormulasOfEach
from .compiled.networks import Networks
from .flows import Flows
from .generic import Generic, lacking
from .one_by_one import FEW, OneByOne

_JOINT = (Networks(), Formulas(), Generic())
_PATHS = {
    "joint": Paths("torch", _JOINT),
    "independent": Paths("torch", (FormulasOfEach(), OneByOne(_JOINT, FEW), SideBySide(), OneByOne(_JOINT))),
    "flow": Paths("torch", (CompiledFlows(), Flows())),
}


class Torch(Backend):
    """The torch engine as a backend: it solves each problem with its first code path that supports it."""

    name = "torch"

    def unsupported(self, problem: Problem) -> str | None:
        return lacking(problem) or _lacking_for_batch(problem) or _paths(problem).unsupported(problem)

    def prepare(self, problem: Problem) -> Prepared:
        return _paths(problem).prepare(problem)


def _lacking_for_batch(problem: Problem) -> str | None:
    if problem.batch == "joint" or isinstance(problem.gradient, OF_STEPS):
        return None
    name = type(problem.gradient).__name__
    return f"gradient is {name!r}, which the torch engine does not support with batch='independent': use 'Backprop' or 'Checkpointed'."


def _paths(problem: Problem) -> Paths:
    return _PATHS[problem.batch if problem.integrals is None else "flow"]


TORCH = Torch()
