"""Formulas as text, and their translation into steps that evaluate them.

Formulas are parsed, never passed to `eval`: anything that is not listed below is refused, so that a file with formulas
is safe to load. The parser returns a list of steps, each with an operation and one or two operands, from which engines
generate code without parsing the formulas.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable

from ..errors import ArgumentError, unknown_name

UNARY = (
    "abs", "acos", "asin", "atan", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "sigmoid", "sin", "sinh",
    "sqrt", "tan", "tanh",
)  # fmt: skip
BINARY = ("max", "min")
FUNCTIONS = (*UNARY, *BINARY)
CONSTANTS = {"pi": math.pi}
TIME = "t"

_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_ON_NUMBERS: dict[str, Callable[..., float]] = {
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

Operand = str | float


def operand_text(operand: Operand) -> str:
    """Return the text of an operand, as written in a step."""
    return operand if isinstance(operand, str) else repr(operand)


class FormulaParser:
    """A parser that translates formulas into steps; repeated expressions share a step, constant ones become numbers.

    `names` are the names that formulas may use; `values` maps these names, and names added later, to operands. `steps`
    maps the text of each step to the operand that is its value.
    """

    def __init__(self, names: Iterable[str]):
        self.values: dict[str, Operand] = {**{name: name for name in names}, **CONSTANTS}
        self.steps: dict[str, str] = {}
        self.where = self.formula = ""

    def read(self, where: str, formula: str) -> Operand:
        """Return the operand that is a formula's value; error messages refer to the formula as `where`."""
        self.where, self.formula = where, " ".join(formula.split())
        try:
            if "#" in formula:
                raise SyntaxError("a formula cannot contain #")
            return self._value(self.formula)
        except (SyntaxError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            reason = getattr(error, "msg", error)
            raise ArgumentError(
                f"{where} is {_shortened(formula)!r}, which cannot be read ({reason}): write it like 'a*x - b*x*y'."
            ) from None
        except (RecursionError, MemoryError):
            raise ArgumentError(f"{where} is nested too deeply: move parts of it to `let`.") from None

    def _value(self, formula: str, operators: tuple[str, ...] = ("+-", "*/")) -> Operand:
        """Return a formula's value.

        A formula too long for Python's parser is split into terms, and a term that is still too long into factors. This
        cannot change the meaning of a formula: a part that contains an operator of lower precedence is refused.
        """
        whole, self.formula = self.formula, formula
        try:
            return self._operand(ast.parse(formula, mode="eval").body)
        except (RecursionError, MemoryError):
            if not operators:
                raise
        finally:
            self.formula = whole
        (_, first), *others = _split_at(operators[0], formula)
        value = self._value(first, operators[1:])
        for sign, piece in others:
            value = self._add(None, sign, value, self._value(piece, operators[1:]))
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
                chain = [node]  # a long sum has one level of nesting per term, too many for recursion
                while isinstance(node.left, ast.BinOp) and type(node.left.op) in _OPERATORS:
                    chain.append(node := node.left)
                value = self._operand(node.left)
                for link in reversed(chain):
                    value = self._add(link, _OPERATORS[type(link.op)], value, self._operand(link.right))
                return value
            case ast.BinOp(op=ast.BitXor()):
                raise ArgumentError(f"{self.where} contains {self._source(node)!r}: write ** for a power.")
            case ast.Call(func=ast.Name(id=name), keywords=[]):
                return self._call(node, name)
        raise ArgumentError(
            f"{self.where} contains {self._source(node)!r}: use only + - * / **, numbers, names and functions "
            f"({', '.join(FUNCTIONS)})."
        )

    def _call(self, node: ast.Call, name: str) -> Operand:
        if name in self.values:
            raise ArgumentError(f"{self.where} contains {self._source(node)!r}: write {name}*(...) for a product.")
        if name not in FUNCTIONS:
            raise unknown_name(f"a function in {self.where}", name, FUNCTIONS)
        count, wanted = len(node.args), "1 argument" if name in UNARY else "2 or more arguments"
        if (count != 1) if name in UNARY else (count < 2):
            raise ArgumentError(f"{self.where} contains {self._source(node)!r}: give {name} {wanted}.")
        first, *others = (self._operand(argument) for argument in node.args)
        if name in UNARY:
            return self._add(node, name, first)
        for other in others:
            first = self._add(node, name, first, other)
        return first

    def _add(self, node: ast.expr | None, operation: str, *operands: Operand) -> Operand:
        if any(isinstance(operand, str) for operand in operands):
            step = " ".join([operation, *map(operand_text, operands)])
            return self.steps.setdefault(step, f"#{len(self.steps) + 1}")
        try:
            value = _ON_NUMBERS[operation](*map(float, operands))
            if isinstance(value, float) and math.isfinite(value):
                return value
        except (ArithmeticError, ValueError):
            pass
        raise ArgumentError(f"{self.where} contains {self._source(node)!r}, which is not a finite number: correct it.")

    def _source(self, node: ast.expr | None) -> str:
        return _shortened((node and ast.get_source_segment(self.formula, node)) or self.formula)


_TOKENS = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|\w+|\*\*|//|\S")


def _split_at(operators: str, formula: str) -> list[tuple[str, str]]:
    """Split a formula at binary `operators` outside brackets; return each part with the operator that precedes it."""
    pieces, sign, start, depth, after_operand = [], "", 0, 0, False
    for token in _TOKENS.finditer(formula):
        word = token[0]
        if word in operators and after_operand and depth == 0:
            pieces.append((sign, formula[start : token.start()].strip()))
            sign, start = word, token.end()
        depth += (word in "([{") - (word in ")]}")
        after_operand = word[-1] in ")]}._" or word[-1].isalnum()
    return [*pieces, (sign, formula[start:].strip())]


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
