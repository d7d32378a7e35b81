"""A vector field written as formulas, which every engine computes without calling Python back.

The formulas are text. They are parsed, never evaluated: what is not on the white list below is refused, so that
a file with formulas in it is safe to load. Parsing ends in a list of steps, three words each, that an engine
turns into its own code without a parser of its own.
"""

from __future__ import annotations

import ast
import keyword
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..arguments import real_number
from ..errors import ArgumentError, unknown_name
from .base import Parameters, VectorField

UNARY = (
    "abs", "acos", "asin", "atan", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "sigmoid", "sin", "sinh",
    "sqrt", "tan", "tanh",
)  # fmt: skip
BINARY = ("max", "min")
FUNCTIONS = (*UNARY, *BINARY)
CONSTANTS = {"pi": math.pi}
TIME = "t"

_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_OF_NUMBERS: dict[str, Callable[..., float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "neg": operator.neg,
    **{name: getattr(math, name) for name in UNARY if name not in ("abs", "sigmoid")},
    "abs": abs,
    "sigmoid": lambda x: (1 + math.tanh(x / 2)) / 2,
    "max": max,
    "min": min,
}

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Equations(VectorField):
    """A vector field of formulas, such as Lotka and Volterra's predators and prey::

        Equations(
            {"x": "a*x - b*x*y", "y": "-c*y + d*x*y"},
            parameters={"a": 1.5, "b": 1.0, "c": 3.0, "d": 1.0},
        )

    Parameters
    ----------
    equations : mapping of str to str
        The time derivative of each state component; the components are the keys, in their order.
    parameters : mapping of str to float
        Initial values of the parameters, each of shape ().
    let : mapping of str to str
        Terms that later terms and the equations use by name, each written once.

    A formula holds numbers, ``+ - * / **``, parentheses, the components, the parameters, the terms of `let`
    before it, the time ``t``, ``pi`` and the functions of `FUNCTIONS`. All three are kept as tuples of pairs.

    Attributes
    ----------
    steps : tuple of str
        What the formulas compute, for the engines. Step k is ``"* a x"`` or ``"exp #3"``: an operation and its
        one or two operands; an operand is a name, a number or ``#k``, the value of step k (from 1).
    outputs : tuple of str
        The operand that is each component's time derivative.

    Raises
    ------
    ArgumentError
        For a name or a formula that cannot be used; the sentence names both.
    """

    equations: Pairs
    parameters: tuple[tuple[str, float], ...] = ()
    let: Pairs = ()
    steps: tuple[str, ...] = field(init=False, repr=False, compare=False)
    outputs: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        equations = _pairs("equations", self.equations, _formula)
        parameters = _pairs("parameters", self.parameters, _number)
        let = _pairs("let", self.let, _formula)
        if not equations:
            raise ArgumentError('equations is empty: give at least one, such as {"x": "-k*x"}.')
        names = [name for pairs in (equations, parameters, let) for name, _ in pairs]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ArgumentError(f"the name {name!r} is given twice: rename one.")
        parser = _Parser([*dict(equations), *dict(parameters), TIME])
        for name, formula in let:
            parser.values[name] = parser.read(f"the term {name}", formula)
        outputs = tuple(_word(parser.read(f"the equation of {name}", formula)) for name, formula in equations)
        for name, value in {
            "equations": equations,
            "parameters": parameters,
            "let": let,
            "steps": tuple(parser.steps),
            "outputs": outputs,
        }.items():
            object.__setattr__(self, name, value)

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


def _pairs(argument: str, given: object, read: Callable) -> tuple:
    """Return a mapping, or what was made of it in a description, as pairs of a name and what `read` makes of a value."""
    try:
        pairs = [(name, value) for name, value in (given.items() if isinstance(given, Mapping) else given)]
    except (TypeError, ValueError):
        raise ArgumentError(f"{argument} is {given!r}: give a dictionary by name.") from None
    return tuple((_name(argument, name), read(f"{argument}[{name!r}]", value)) for name, value in pairs)


def _name(argument: str, name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ArgumentError(f"{argument} has the name {name!r}: give one of letters, digits and _, such as 'x_1'.")
    name = unicodedata.normalize("NFKC", name)  # as Python reads names in a formula
    if name in (TIME, *CONSTANTS, *FUNCTIONS):
        meaning = "the time" if name == TIME else f"the constant {name}" if name in CONSTANTS else "a function"
        raise ArgumentError(f"{argument} has the name {name!r}, which is {meaning} in a formula: give it another.")
    return name


def _formula(where: str, formula: object) -> str:
    if not isinstance(formula, str) or not formula.strip():
        raise ArgumentError(f"{where} is {formula!r}: give a formula as text, such as '-k*x'.")
    return formula


def _number(where: str, value: object) -> float:
    return real_number(where, value, "give a finite number, such as 1.0")


Operand = str | float


def _word(operand: Operand) -> str:
    return operand if isinstance(operand, str) else repr(operand)


class _Parser:
    """Formulas to steps. What is written twice is computed once, and what holds only numbers is computed here."""

    def __init__(self, names: Iterable[str]):
        self.values: dict[str, Operand] = {**{name: name for name in names}, **CONSTANTS}
        self.steps: dict[str, str] = {}
        self.where = self.formula = ""

    def read(self, where: str, formula: str) -> Operand:
        """Return the operand that is a formula's value."""
        self.where, self.formula = where, " ".join(formula.split())
        try:
            if "#" in formula:
                raise SyntaxError("# is no part of a formula")
            return self._value(self.formula)
        except (SyntaxError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            reason = getattr(error, "msg", error)
            raise ArgumentError(
                f"{where} is {_short(formula)!r}, which cannot be read ({reason}): write it as in 'a*x - b*x*y'."
            ) from None
        except (RecursionError, MemoryError):
            raise ArgumentError(f"{where} is nested too deeply: put parts of it into `let`.") from None

    def _value(self, formula: str, chains: tuple[str, ...] = ("+-", "*/")) -> Operand:
        """Return a formula's value; one too long for Python's parser is read term by term, a term factor by factor.

        A cut is safe: the operators that bind less than those cut at are refused in the piece that holds them.
        """
        whole, self.formula = self.formula, formula
        try:
            return self._operand(ast.parse(formula, mode="eval").body)
        except (RecursionError, MemoryError):
            if not chains:
                raise
        finally:
            self.formula = whole
        (_, first), *others = _pieces(formula, chains[0])
        value = self._value(first, chains[1:])
        for sign, piece in others:
            value = self._add(None, sign, value, self._value(piece, chains[1:]))
        return value

    def _operand(self, node: ast.expr) -> Operand:
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return self._add(node, "+", 0.0, node.value)
            case ast.Name(id=name):
                if name not in self.values:
                    raise unknown_name(f"a name in {self.where}", name, self.values)
                return self.values[name]
            case ast.UnaryOp(op=ast.UAdd()):
                return self._operand(node.operand)
            case ast.UnaryOp(op=ast.USub()):
                return self._add(node, "neg", self._operand(node.operand))
            case ast.BinOp() if type(node.op) in _OPERATORS:
                chain = [node]  # a sum's terms nest to the left, as deep as they are many
                while isinstance(node.left, ast.BinOp) and type(node.left.op) in _OPERATORS:
                    chain.append(node := node.left)
                value = self._operand(node.left)
                for link in reversed(chain):
                    value = self._add(link, _OPERATORS[type(link.op)], value, self._operand(link.right))
                return value
            case ast.BinOp(op=ast.BitXor()):
                raise ArgumentError(f"{self.where} holds {self._part(node)!r}: write ** for a power.")
            case ast.Call(func=ast.Name(id=name), keywords=[]):
                return self._call(node, name)
        raise ArgumentError(
            f"{self.where} holds {self._part(node)!r}: write it with + - * / **, numbers, names and functions "
            f"({', '.join(FUNCTIONS)})."
        )

    def _call(self, node: ast.Call, name: str) -> Operand:
        if name in self.values:
            raise ArgumentError(f"{self.where} holds {self._part(node)!r}: write {name}*(...) for a product.")
        if name not in FUNCTIONS:
            raise unknown_name(f"a function in {self.where}", name, FUNCTIONS)
        count, wanted = len(node.args), "1 argument" if name in UNARY else "2 or more arguments"
        if (count != 1) if name in UNARY else (count < 2):
            raise ArgumentError(f"{self.where} holds {self._part(node)!r}: give {name} {wanted}.")
        first, *others = (self._operand(argument) for argument in node.args)
        if name in UNARY:
            return self._add(node, name, first)
        for other in others:
            first = self._add(node, name, first, other)
        return first

    def _add(self, node: ast.expr | None, operation: str, *operands: Operand) -> Operand:
        if any(isinstance(operand, str) for operand in operands):
            step = " ".join([operation, *map(_word, operands)])
            return self.steps.setdefault(step, f"#{len(self.steps) + 1}")
        try:
            value = _OF_NUMBERS[operation](*map(float, operands))
            if isinstance(value, float) and math.isfinite(value):
                return value
        except (ArithmeticError, ValueError):
            pass
        raise ArgumentError(f"{self.where} holds {self._part(node)!r}, which is no finite number: correct it.")

    def _part(self, node: ast.expr | None) -> str:
        return _short(node and ast.get_source_segment(self.formula, node) or self.formula)


_TOKENS = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|\w+|\*\*|//|\S")


def _pieces(formula: str, operators: str) -> list[tuple[str, str]]:
    """Return the parts of a formula between the binary `operators` outside all brackets, each with the one before it."""
    pieces, sign, start, depth, after_operand = [], "", 0, 0, False
    for token in _TOKENS.finditer(formula):
        word = token[0]
        if word in operators and after_operand and depth == 0:
            pieces.append((sign, formula[start : token.start()].strip()))
            sign, start = word, token.end()
        depth += (word in "([{") - (word in ")]}")
        after_operand = word[-1] in ")]}._" or word[-1].isalnum()
    return [*pieces, (sign, formula[start:].strip())]


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
