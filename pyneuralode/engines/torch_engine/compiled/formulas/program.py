"""Formulas encoded as integer instructions: the program that the compiled register machine runs for any model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .....fields import SEIR, Equations, Linear, VectorField
from .....fields.formulas import BINARY, TIME, UNARY

# The exponent of "power" is a constant: unlike "**", "power" is differentiated only with respect to its base, which
# may be negative.
OPERATIONS = ("+", "-", "*", "/", "neg", "**", "power", *UNARY, *BINARY)
CODES = {name: code for code, name in enumerate(OPERATIONS)}

# The largest system that is solved with dense linear algebra, and the largest number of registers of a program.
MAX_DIM, MAX_REGISTERS = 32, 4096


@dataclass(frozen=True)
class Program:
    """A field's formulas as steps that operate on a row of registers.

    The registers contain the components, the parameters, the time, the constant 0, other constants, and the results of
    the steps.

    Attributes
    ----------
    steps : (s, 3) of uint32
        Each step's operation and the registers of its two operands; its result goes to the next register.
    outputs : (dim,) of uint32
        The registers that contain the slope.
    numbers : (c,)
        Values of the registers after the time; the first is 0.
    sizes : three int
        The number of components, of parameters, and of directions of the Jacobian: the components and, if used, the
        time.
    shapes : mapping
        The parameters' shapes by name, in the order of their registers.
    """

    steps: np.ndarray
    outputs: np.ndarray
    numbers: np.ndarray
    sizes: tuple[int, int, int]
    shapes: dict[str, tuple[int, ...]]

    @property
    def arrays(self) -> tuple:
        return self.steps, self.outputs, self.numbers, self.sizes


def program_of(field: Any) -> Program | None:
    """Return the program of a field, or None if the field has no formulas or needs too many registers."""
    # Fields of other types, such as user-defined ones, may not be hashable.
    return _lowered(field) if type(field) in (Equations, SEIR, Linear) else None


@lru_cache(maxsize=64)
def _lowered(field: VectorField) -> Program | None:
    if type(field) is Linear and field.dim > MAX_DIM:
        return None
    equations = as_equations(field)
    if equations is None:
        return None
    lowered = _Lowering(equations)
    if lowered.registers() > MAX_REGISTERS:
        return None
    steps = np.array(lowered.steps, dtype=np.int64).reshape(-1, 3)
    steps[:, 1:] = lowered.final_registers(steps[:, 1:])
    outputs = lowered.final_registers(np.array(lowered.outputs, dtype=np.int64))
    time = lowered.words[TIME]
    directions = equations.dim + bool((steps[:, 1:] == time).any() or (outputs == time).any())
    sizes = equations.dim, len(equations.parameters), directions
    numbers = np.array(list(lowered.numbers))
    return Program(steps.astype(np.uint32), outputs.astype(np.uint32), numbers, sizes, field.shapes())


def as_equations(field: VectorField) -> Equations | None:
    """Return a field as `Equations`, with its parameters in flat order, or None if the field has no such form."""
    if type(field) is Equations:
        return field
    if type(field) is SEIR:
        return Equations(
            {"s": "-infected", "e": "infected - onset", "i": "onset - recovered", "r": "recovered"},
            {"gamma": 0.0, "R0": 0.0, "sigma": 0.0},
            {"infected": "gamma*R0*s*i", "onset": "sigma*e", "recovered": "gamma*i"},
        )
    if type(field) is Linear:
        power = {"identity": 1, "square": 2, "cube": 3}[field.input_map]
        columns = range(field.dim)
        terms = [[f"a{i}_{j} * y{j}**{power}" for j in columns] for i in columns]
        return Equations(
            {f"y{i}": " + ".join(terms[i]) for i in columns}, {f"a{i}_{j}": 0.0 for i in columns for j in columns}
        )
    return None


class _Lowering:
    """Conversion of the steps of `Equations` from words to operation codes and registers.

    While steps are collected, operand -k denotes constant k - 1, and operands >= 0 are the other registers, numbered as
    if there were no constants: the number of constants is known only at the end.
    """

    def __init__(self, equations: Equations):
        self.words = {name: i for i, name in enumerate((*equations.components, *equations.shapes(), TIME))}
        self.inputs = len(self.words)
        self.numbers: dict[float, int] = {0.0: -1}
        self.steps: list[tuple[int, int, int]] = []
        for number, step in enumerate(equations.steps, start=1):
            operation, *operands = step.split()
            self.words[f"#{number}"] = self._compute(operation, operands)
        self.outputs = [self._operand(word) for word in equations.outputs]

    def registers(self) -> int:
        return self.inputs + len(self.numbers) + len(self.steps)

    def final_registers(self, operands: np.ndarray) -> np.ndarray:
        """Return the registers of the operands, once all constants are known."""
        numbers = self.inputs - 1 - operands
        steps = operands + len(self.numbers)
        return np.where(operands < 0, numbers, np.where(operands < self.inputs, operands, steps))

    def _operand(self, word: str) -> int:
        if word in self.words:
            return self.words[word]
        return self.numbers.setdefault(float(word), -1 - len(self.numbers))

    def _compute(self, operation: str, words: list[str]) -> int:
        if operation == "**" and words[1] not in self.words:
            return self._power(self._operand(words[0]), words[1])
        x, *others = (self._operand(word) for word in words)
        return self._add(operation, x, others[0] if others else -1)

    def _power(self, x: int, exponent: str) -> int:
        """Return the operand for x to a power; small integer powers become products, which are many times faster."""
        number = float(exponent)
        if number == 1:
            return x
        if number in (2, 3, 4):
            square = self._add("*", x, x)
            return square if number == 2 else self._add("*", square, x if number == 3 else square)
        if number == 0.5:
            return self._add("sqrt", x, -1)
        return self._add("power", x, self._operand(exponent))

    def _add(self, operation: str, x: int, y: int) -> int:
        self.steps.append((CODES[operation], x, y))
        return self.inputs + len(self.steps) - 1
