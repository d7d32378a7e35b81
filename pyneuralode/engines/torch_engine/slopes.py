"""Evaluation of a field at one flat state: calls, checks and counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ArgumentError, PyNeuralODEError, kind_of
from ...fields import VectorField
from ...problem import Statistics
from ...problem.values import Layout
from .dynamics import Parameters, bind
from .numpy_functions import refuse_array_function


def check_slope(slope: object, y: Tensor, name: str) -> None:
    """Raise unless the field returned a tensor with the state's shape, dtype and device."""
    if not isinstance(slope, Tensor):
        raise ArgumentError(f"{name} returned {kind_of(slope)}: return dy/dt as a tensor like y.")
    for kind, ours, theirs in (
        ("shape", tuple(y.shape), tuple(slope.shape)),
        ("dtype", y.dtype, slope.dtype),
        ("device", y.device, slope.device),
    ):
        if ours != theirs:
            raise ArgumentError(
                f"{name} returned {kind} {theirs} for a state of {kind} {ours}: y0 and dy/dt must have the same {kind}."
            )


def evaluated(call: Callable, time: Any, state: Any, y: Tensor, name: str) -> Any:
    """Return ``call(time, state)``; raise if the call changed the state (which shares memory with `y`) in place."""
    version = None if y.is_inference() else y._version
    value = call(time, state)
    if version is not None and y._version != version:
        raise ArgumentError(
            f"{name} changes y in place, but the solver continues from this state: write y = y.clone() first."
        )
    return value


def flat_slope(call: Callable, layout: Layout, wants_tensor: bool, name: str) -> Callable:
    """Return ``f(t, flat y)`` that calls a function of the user's state and checks every value it returns.

    With `wants_tensor`, the function is the user's and receives the time as a tensor. Its values are then copied,
    because the function may overwrite their memory at its next call.
    """

    def slope(t: float, y: Tensor) -> Tensor:
        states = layout.unpack(y)
        if not wants_tensor:
            slopes = call(t, states)
            check_slope(slopes, states, name)
            return slopes.reshape(-1)
        time = t if isinstance(t, Tensor) else torch.full((), t, dtype=y.dtype, device=y.device)
        slopes = evaluated(call, time, states, y, name)
        if not layout.is_tuple:
            check_slope(slopes, states, name)
            return slopes.reshape(-1).clone()
        if not isinstance(slopes, tuple) or len(slopes) != len(states):
            raise ArgumentError(f"{name} must return a tuple of {len(states)} tensors, one for each part of y0.")
        for part, state in zip(slopes, states):
            check_slope(part, state, name)
        return torch.cat([part.reshape(-1) for part in slopes])

    return slope


def counted_slope(
    field: Any, parameters: Parameters, layout: Layout, dtype: torch.dtype, statistics: Statistics
) -> Callable[[float, Tensor], Tensor]:
    """Return a function ``f(t, flat y)`` that evaluates any field and counts the evaluations.

    Errors in the first evaluation are reported as caused by y0."""
    if isinstance(field, nn.Module):
        for label, buffer in field.named_buffers():
            if buffer.is_floating_point() and dtype != buffer.dtype:
                raise ArgumentError(
                    f"the buffer {label} is {buffer.dtype} and y0 is {dtype}: give both the same dtype."
                )
    name = type(field).__name__ if isinstance(field, (VectorField, nn.Module)) else "the field"
    grad = torch.is_grad_enabled()

    @cache  # built at the first call, as the compiled paths do not need it
    def plain() -> Callable:
        # Gradient methods evaluate the field without recording, but also differentiate the values that are computed
        # here from its parameters.
        with torch.set_grad_enabled(grad):
            call, wants_tensor = bind(field, parameters)
        return flat_slope(call, layout, wants_tensor, name)

    def slope(t: float, y: Tensor) -> Tensor:
        statistics.nfev += 1
        if statistics.nfev > 1:
            return plain()(t, y)
        try:
            return plain()(t, y)
        except Exception as error:  # later errors are not caused by y0
            if not layout.numpy and name == "the field":
                time = torch.full((), float(t), dtype=y.dtype, device=y.device)
                refuse_array_function(field, time, layout.unpack(y), error)
            if isinstance(error, PyNeuralODEError) or not isinstance(error, RuntimeError):
                raise
            # torch's exception type for mismatched shapes and dtypes
            raise ArgumentError(
                f"{name} cannot be evaluated at y0 of shape {layout.describe()} and {y.dtype} "
                f"({str(error).splitlines()[0].rstrip('.')}): use a y0 that the field accepts."
            ) from error

    return slope
