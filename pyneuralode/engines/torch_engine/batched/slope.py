"""The slopes of many rows, each at its own time, for a described field (`VectorField`), a module or a callable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import ArgumentError, PyNeuralODEError
from ....fields import MLP, SEIR, Equations, Linear, VectorField
from ..dynamics import bind, build
from ..numpy_functions import refuse_array_function
from ..slopes import check_slope, evaluated

AUTONOMOUS = (MLP, SEIR, Linear)


class BatchedSlope:
    """The slope of m rows, a function ``f(t, y)`` of t (m,) and y (m, n) that returns (m, n).

    If `needs_all_rows`, it must always be called with all rows, in order: a user's function may contain different data
    for each sample. A described field (`VectorField`) may be evaluated for a subset of the rows; see `take`.
    """

    needs_all_rows = True

    def __init__(self, call: Callable, shape: torch.Size, name: str):
        self.call, self.shape, self.name = call, shape, name

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        states = y.view(len(y), *self.shape)
        slope = self.evaluate(t.to(y.dtype).view(len(t), *[1] * len(self.shape)), states)
        check_slope(slope, states, self.name)
        return slope.reshape(y.shape)

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        slope = evaluated(self.call, t, y, y, self.name)
        # Cloned, as a user's function may overwrite the result at its next call.
        return slope.clone() if isinstance(slope, Tensor) else slope

    def take(self, rows: Tensor) -> BatchedSlope:
        """Return the function for only the given rows."""
        return self


class FieldSlope(BatchedSlope):
    """The slope of a described field; `own` contains the parameters that differ between samples, (m, *shape)."""

    needs_all_rows = False

    def __init__(self, field: VectorField, shared: dict[str, Tensor], own: dict[str, Tensor], shape: torch.Size):
        super().__init__(_batched_call(field, shared, own, len(shape)), shape, type(field).__name__)
        self.field, self.shared, self.own = field, shared, own

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        return self.call(t, y)

    def take(self, rows: Tensor) -> BatchedSlope:
        if not self.own:
            return self
        return FieldSlope(self.field, self.shared, {name: p[rows] for name, p in self.own.items()}, self.shape)


def _batched_call(field: VectorField, shared: dict[str, Tensor], own: dict[str, Tensor], axes: int) -> Callable:
    """Return ``call(t, y)`` for t (m, 1, ...) and y (m, *state), where a state has `axes` axes."""
    if isinstance(field, Equations):  # formulas are elementwise, so one number per sample broadcasts
        spread = {name: p.view(len(p), *[1] * (axes - 1)) for name, p in own.items()}
        call = build(field, shared | spread)
        return lambda t, y: call(t[..., 0], y)
    if isinstance(field, AUTONOMOUS) and not own:
        call = build(field, shared)
        return lambda t, y: call(0.0, y)

    def one(t: Tensor, y: Tensor, own: dict[str, Tensor]) -> Tensor:
        return build(field, shared | own)(t, y)

    every = torch.func.vmap(one)
    return lambda t, y: every(t.view(len(t)), y, own)


def batched_slope(
    dynamics: Any, parameters: dict[str, Tensor], own: dict[str, Tensor], shape: torch.Size
) -> BatchedSlope:
    """Return the slope of any dynamics; each row is a state of `shape`, and `own` is the result of `own_parameters`."""
    if isinstance(dynamics, VectorField):
        return FieldSlope(dynamics, {name: p for name, p in parameters.items() if name not in own}, own, shape)
    call, _ = bind(dynamics, parameters)
    return BatchedSlope(call, shape, type(dynamics).__name__ if isinstance(dynamics, nn.Module) else "the field")


def first_slope(f: BatchedSlope, t: Tensor, y: Tensor) -> Tensor:
    """Return the slopes at the first time; torch's errors about shapes and dtypes are converted to an ArgumentError."""
    try:
        return f(t, y)
    except Exception as error:
        if f.name == "the field":
            states = y.view(len(y), *f.shape)
            refuse_array_function(f.call, t.to(y.dtype).view(len(t), *[1] * len(f.shape)), states, error)
        if isinstance(error, PyNeuralODEError) or not isinstance(error, RuntimeError):
            raise
        raise ArgumentError(
            f"{f.name} cannot be evaluated at y of shape {(len(y), *f.shape)}, {y.dtype}, and t of shape "
            f"{(len(t), *[1] * len(f.shape))} ({str(error).splitlines()[0].rstrip('.')}): use a y0 that the field accepts."
        ) from error
