"""The argument `engine` of a solve that also selects one of the Julia engine's code paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arguments import Checked, checked, known_name


@dataclass(frozen=True)
class Julia(Checked):
    """The Julia engine with one of its code paths: an `engine` for `solve`, `NeuralODE` and the other models.

    Parameters
    ----------
    path : {"auto", "sciml", "fast"}
        "sciml" uses SciML's own solver, and the adjoints of SciMLSensitivity if gradients are needed: select one of
        them, such as ``gradient="GaussAdjoint"``. "fast" uses this package's own compiled steps and their exact
        discrete adjoint, which requires an explicit solver and ``gradient="Backprop"`` or ``"Checkpointed"``. "auto"
        uses "fast" if it supports the problem, and "sciml" otherwise. `Solution.engine` tells which path was used.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> engine = pn.Julia(path="sciml")
    >>> pn.solve(pn.Linear(((-1.0,),)), [1.0], [0.0, 1.0], engine=engine).engine  # doctest: +SKIP
    'julia (sciml)'
    """

    path: str = checked(known_name, "auto", known=("auto", "sciml", "fast"))

    def __str__(self) -> str:
        return "julia"


def path_of(engine: Any) -> str:
    """Return the code path that the argument `engine` of a solve selects."""
    return engine.path if isinstance(engine, Julia) else "auto"
