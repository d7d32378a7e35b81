"""Formulas as a function of tensors: the operations of `Equations` become lines of Python, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ...fields import Equations
from ...fields.formulas import BINARY, TIME, UNARY

_FUNCTIONS = {**{name: getattr(torch, name) for name in UNARY}, "max": torch.maximum, "min": torch.minimum}


def build_equations(field: Equations, parameters: dict[str, Tensor]) -> Callable[[float, Tensor], Tensor]:
    """Return ``f(t, y)`` for the given parameters; y and dy/dt have shape (..., dim)."""
    compute = _compute(field)
    values = [parameters[name] for name in field.shapes()]
    return lambda t, y: compute(t, y, *values)


@lru_cache(maxsize=64)
def _compute(field: Equations) -> Callable[..., Tensor]:
    scope = {"as_tensor": torch.as_tensor, "stack": torch.stack, **_FUNCTIONS}
    exec(_source(field), scope)  # noqa: S102 - the words come from the parser and contain no names chosen by users
    return scope["compute"]


def _source(field: Equations) -> str:
    states = [f"y{i}" for i in range(field.dim)]
    values = [f"p{i}" for i in range(len(field.parameters))]
    variables = {**dict(zip(field.components, states)), **dict(zip(field.shapes(), values)), TIME: "t"}
    varying = set(states)  # names whose values have the shape of a state component

    def variable(word: str) -> str:
        if word.startswith("#"):
            return f"v{word[1:]}"
        return variables.get(word) or f"({float(word)!r})"

    def tensor(operand: str) -> str:
        return f"y0.new_tensor{operand}" if operand.startswith("(") else operand

    lines = [f"def compute({', '.join(['t', 'y', *values])}):", f"{', '.join(states)}, = y.unbind(-1)"]
    if any(TIME in step.split()[1:] for step in (*field.steps, *(f"= {word}" for word in field.outputs))):
        lines.append("t = as_tensor(t, dtype=y.dtype, device=y.device)")
    for number, step in enumerate(field.steps, start=1):
        operation, *operands = step.split()
        operands = [variable(word) for word in operands]
        if varying.intersection(operands):
            varying.add(f"v{number}")
        if operation in BINARY:
            operands = [tensor(operand) for operand in operands]
        if operation in _FUNCTIONS:
            value = f"{operation}({', '.join(operands)})"
        elif operation == "neg":
            value = f"-{operands[0]}"
        else:
            value = f" {operation} ".join(operands)
        lines.append(f"v{number} = {value}")
    outputs = [variable(word) for word in field.outputs]
    slopes = [name if name in varying else f"{tensor(name)}.expand_as(y0)" for name in outputs]
    lines.append(f"return stack(({', '.join(slopes)},), -1)")
    return "\n    ".join(lines)
