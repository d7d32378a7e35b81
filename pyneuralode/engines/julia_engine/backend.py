"""The Julia engine: its code paths, in the order in which they are tried."""

from __future__ import annotations

from ...problem import Problem
from ..backend import Backend, Prepared
from .ensembles import Ensembles
from .flows import JuliaFlows
from .forms import Forms
from .python_fields import PythonFields
from .solve import DescribedFields

_FLOWS, _FORMS, _PYTHON, _DESCRIBED, _ENSEMBLES = JuliaFlows(), Forms(), PythonFields(), DescribedFields(), Ensembles()


class JuliaBackend(Backend):
    """SciML's solvers and adjoints, called in this process or in a worker."""

    name = "julia"

    def unsupported(self, problem: Problem) -> str | None:
        return _paths(problem).unsupported(problem)

    def prepare(self, problem: Problem) -> Prepared:
        return _paths(problem).prepare(problem)

    def yields(self, problem: Problem) -> str | None:
        return _paths(problem).yields(problem)


def _paths(problem: Problem) -> Backend:
    if problem.integrals is not None:
        return _FLOWS
    if problem.form is not None:
        return _FORMS
    if PythonFields.is_for(problem.field):
        return _PYTHON
    return _DESCRIBED if problem.batch == "joint" else _ENSEMBLES


JULIA = JuliaBackend()
