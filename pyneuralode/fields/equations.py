"""A vector field written as formulas, which every engine evaluates without calling back into Python."""

from __future__ import annotations

import keyword
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..arguments import checked, real_number
from ..errors import ArgumentError
from .base import Parameters, VectorField, assign
from .formulas import CONSTANTS, FUNCTIONS, TIME, FormulaParser, operand_text

Pairs = tuple[tuple[str, str], ...]


def _pairs(argument: str, given: object, read: Callable) -> tuple:
    """Return the items of a mapping or a list of pairs as pairs (checked name, ``read(value)``)."""
    try:
        pairs = [(name, value) for name, value in (given.items() if isinstance(given, Mapping) else given)]
    except (TypeError, ValueError):
        raise ArgumentError(f"{argument} is {given!r}: give a dictionary with names as keys.") from None
    return tuple((_name(argument, name), read(f"{argument}[{name!r}]", value)) for name, value in pairs)


def _name(argument: str, name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ArgumentError(
            f"{argument} contains the name {name!r}: use a Python identifier, such as 'x_1', that is not a keyword."
        )
    name = unicodedata.normalize("NFKC", name)  # Python normalizes the names in a formula in the same way
    if name in (TIME, *CONSTANTS, *FUNCTIONS):
        meaning = "the time" if name == TIME else f"the constant {name}" if name in CONSTANTS else "a function"
        raise ArgumentError(
            f"{argument} contains the name {name!r}, which means {meaning} in formulas: choose another name."
        )
    return name


def _formula(where: str, formula: object) -> str:
    if not isinstance(formula, str) or not formula.strip():
        raise ArgumentError(f"{where} is {formula!r}: give a formula as text, such as '-k*x'.")
    return formula


def _number(where: str, value: object) -> float:
    return real_number(where, value, "give a finite number, such as 1.0")


@dataclass(frozen=True)
class Equations(VectorField):
    """A vector field defined by formulas.

    Parameters
    ----------
    equations : mapping of str to str
        Formula for the time derivative of each state component; the keys are the components' names, in order.
    parameters : mapping of str to float
        Initial values of the parameters, each of shape ().
    let : mapping of str to str
        Formulas of named terms, which later terms and the equations can refer to.

    A formula consists of numbers, ``+ - * / **``, parentheses, the components, the parameters, the preceding terms of
    `let`, the time ``t``, ``pi`` and the functions of `pyneuralode.fields.FUNCTIONS`. The three arguments are stored as
    tuples of pairs.

    Attributes
    ----------
    steps : tuple of str
        The formulas as a list of operations, for the engines. A step is an operation and its one or two operands, as in
        ``"* a x"`` or ``"exp #3"``; an operand is a name, a number, or ``#k``, the value of step k (counted from 1).
    outputs : tuple of str
        For each component, the operand that is its time derivative.

    Raises
    ------
    ArgumentError
        If a name or a formula is invalid; the message quotes it.

    Examples
    --------
    The predator-prey model of Lotka and Volterra:

    >>> import pyneuralode as pn
    >>> field = pn.Equations(
    ...     {"prey": "growth*prey - eaten", "predators": "0.25*eaten - 0.4*predators"},
    ...     parameters={"growth": 1.1, "hunting": 0.4},
    ...     let={"eaten": "hunting*prey*predators"},
    ... )
    >>> field.components, field.shapes()
    (('prey', 'predators'), {'growth': (), 'hunting': ()})
    >>> pn.solve(field, [10.0, 5.0], [0.0, 1.0, 2.0], engine="torch").ys.shape
    (3, 2)
    """

    equations: Pairs = checked(_pairs, read=_formula)
    parameters: tuple[tuple[str, float], ...] = checked(_pairs, (), read=_number)
    let: Pairs = checked(_pairs, (), read=_formula)
    steps: tuple[str, ...] = field(init=False, repr=False, compare=False)
    outputs: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        super().__post_init__()
        if not self.equations:
            raise ArgumentError('equations is empty: give at least one, such as {"x": "-k*x"}.')
        names = [name for pairs in (self.equations, self.parameters, self.let) for name, _ in pairs]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ArgumentError(f"the name {name!r} is used twice: rename one of the two.")
        parser = FormulaParser([*self.components, *self.shapes(), TIME])
        for name, formula in self.let:
            parser.values[name] = parser.read(f"the term {name}", formula)
        outputs = [parser.read(f"the equation of {name}", formula) for name, formula in self.equations]
        assign(self, steps=tuple(parser.steps), outputs=tuple(map(operand_text, outputs)))

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the state's components."""
        return tuple(name for name, _ in self.equations)

    @property
    def dim(self) -> int:
        return len(self.equations)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: () for name, _ in self.parameters}

    def initial(self, seed: int = 0) -> Parameters:
        return {name: np.array(value) for name, value in self.parameters}
