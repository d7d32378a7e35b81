"""The three forms of a random problem: the package's `Equations`, a torch callable, a function of floats for SciPy.

A problem is defined once, as formulas, from which the three forms are built without shared code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

import pyneuralode as pn

Formulas = dict[str, str]


@dataclass(frozen=True)
class Units:
    """A change of units, T = shift + t / rate and Y = scale y; with a negative rate, time runs backward."""

    shift: float = 0.0
    rate: float = 1.0
    scale: float = 1.0


UNITS = Units()


@dataclass(frozen=True)
class RandomProblem:
    """One problem: formulas by component, parameters and terms by name, initial state (d,) and times (T,).

    Attributes
    ----------
    stiffness : float
        Approximately the largest rate times the span; above a few hundred, explicit solvers need too many steps.
    exact : callable or None
        ``exact(t)`` -> (d,), if a closed form is known.
    smooth : bool
        Whether fixed steps converge with the full order of the method.
    bends : bool
        Whether the slope has kinks; the error estimate of a step across a kink may be too small by chance.
    refusable : bool
        Whether a solver error is acceptable, for instance if the solution reaches the edge of the formulas' domain.
    end : float or None
        The time before the last time at which the solution ceases to exist, so that only an error is correct.
    single : bool
        Whether the problem makes sense in single precision.
    smallest : float
        The size of the smallest relevant component; absolute tolerances are chosen relative to it.
    stops : tuple of float
        Times for `tstops`: an error estimate cannot detect a pulse that begins and ends inside a step.
    units, natural : Units, RandomProblem or None
        The units of this problem, and the same problem in natural units, in which the reference is computed.
    """

    name: str
    equations: Formulas
    y0: np.ndarray
    ts: np.ndarray
    parameters: dict[str, float]
    let: Formulas
    stiffness: float
    exact: Callable[[float], np.ndarray] | None
    smooth: bool
    bends: bool
    refusable: bool
    end: float | None
    single: bool
    smallest: float = 1.0
    stops: tuple[float, ...] = ()
    kind: str = ""
    seed: int = -1
    units: Units = UNITS
    natural: RandomProblem | None = None
    solved: dict = field(default_factory=dict, repr=False)  # cached results of `truth`

    @cached_property
    def described(self) -> pn.Equations:
        return pn.Equations(self.equations, parameters=self.parameters, let=self.let)

    def callable(self) -> Callable:
        """Return ``f(t, y)`` for torch states (..., d); t may contain a time for each sample."""
        return _compiled(_written(self, _IN_TORCH), self, _TORCH)

    def numbers(self) -> Callable:
        """Return ``f(t, y)`` for a sequence of floats; functions outside their domain return the value at its edge."""
        return _compiled(_guard_powers(_written(self, _IN_NUMBERS)), self, _NUMBERS)

    def in_single(self) -> RandomProblem:
        """Return the problem with y0 and parameters rounded to float32; the closed form no longer applies."""
        parameters = {name: float(np.float32(value)) for name, value in self.parameters.items()}
        natural = self.natural and self.natural.in_single()
        return replace(self, y0=_single(self.y0), parameters=parameters, exact=None, natural=natural, solved={})


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(float)


# The three forms of a problem.

_IN_TORCH = """
def f(t, y):
    {components}, = y.unbind(-1)
    t = torch.as_tensor(t, dtype=y.dtype)
    t = t.reshape({first}.shape) if t.ndim else t
    {terms}
    return torch.stack([like({first}, slope) for slope in ({slopes},)], -1)
"""

_IN_NUMBERS = """
def f(t, y):
    {components}, = map(float, y)
    {terms}
    return [{slopes}]
"""


def _written(problem: RandomProblem, template: str) -> str:
    return template.format(
        components=", ".join(problem.equations),
        first=next(iter(problem.equations)),
        terms="\n    ".join(f"{name} = {formula}" for name, formula in problem.let.items()),
        slopes=", ".join(problem.equations.values()),
    )


def _compiled(source: str, problem: RandomProblem, scope: dict) -> Callable:
    functions = {**scope, **problem.parameters}
    exec(source, functions)  # noqa: S102 - the formulas are ours
    return functions["f"]


def _guard_powers(source: str) -> str:
    """Replace powers by calls of `power`, which returns a value even outside its domain."""
    import ast

    class Powers(ast.NodeTransformer):
        def visit_BinOp(self, node):
            self.generic_visit(node)
            if not isinstance(node.op, ast.Pow):
                return node
            return ast.Call(ast.Name("power", ast.Load()), [node.left, node.right], [])

    return ast.unparse(ast.fix_missing_locations(Powers().visit(ast.parse(source))))


def _like(x: torch.Tensor, slope) -> torch.Tensor:
    return slope.expand_as(x) if isinstance(slope, torch.Tensor) else torch.full_like(x, slope)


def _two(function: Callable) -> Callable:
    def of(a, b):
        tensor = a if isinstance(a, torch.Tensor) else b
        return function(*(torch.as_tensor(x, dtype=tensor.dtype) for x in (a, b)))

    return of


_NAMES = ("acos", "asin", "atan", "cos", "cosh", "exp", "expm1", "log", "log1p", "sin", "sinh", "sqrt", "tan", "tanh")
_TORCH = {
    **{name: getattr(torch, name) for name in (*_NAMES, "sigmoid", "abs")},
    "max": _two(torch.maximum),
    "min": _two(torch.minimum),
    "torch": torch,
    "like": _like,
    "pi": math.pi,
}


def _power(x: float, n: float) -> float:
    try:
        return x**n if x > 0 or (x < 0 and n == round(n)) else 0.0**n if n >= 0 else math.inf
    except OverflowError:
        return math.inf


def _inside(function: Callable, low: float, high: float) -> Callable:
    return lambda x: function(min(max(x, low), high))


_NUMBERS = {
    **{name: getattr(math, name) for name in _NAMES},
    "exp": _inside(math.exp, -700, 700),
    "sinh": _inside(math.sinh, -700, 700),
    "cosh": _inside(math.cosh, -700, 700),
    "sqrt": _inside(math.sqrt, 0, math.inf),
    "log": _inside(math.log, 1e-300, math.inf),
    "log1p": _inside(math.log1p, -1 + 1e-16, math.inf),
    "acos": _inside(math.acos, -1, 1),
    "asin": _inside(math.asin, -1, 1),
    "sigmoid": lambda x: (1 + math.tanh(x / 2)) / 2,
    "abs": abs,
    "max": max,
    "min": min,
    "power": _power,
    "pi": math.pi,
}


def source_of(problem: RandomProblem) -> str:
    """Return a program that defines the torch callable."""
    names = ", ".join(problem.parameters)
    lines = [f"from torch import {', '.join(_NAMES)}, sigmoid, abs", "from math import pi"]
    lines += [
        "def two(f): return lambda a, b: f(torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64))"
    ]
    lines += ["max, min = two(torch.maximum), two(torch.minimum)"]
    lines += [
        "def like(x, slope): return slope.expand_as(x) if isinstance(slope, torch.Tensor) else torch.full_like(x, slope)"
    ]
    lines += [f"{names} = {', '.join(map(repr, problem.parameters.values()))}"] if names else []
    return "\n".join([*lines, _written(problem, _IN_TORCH).strip()])
