"""Adapters that call a user's functions of NumPy arrays, such as those for SciPy, with tensors; without gradients.

For a NumPy state, the first call shows whether a function expects tensors or arrays. It is called with tensors, as
documented; if it fails, or returns anything other than tensors like the state, it is called with arrays. If that works,
all later calls use arrays. A function that accepts both but computes different values for the two (by `y.std()`, for
example) is rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ...errors import ArgumentError, kind_of
from ...fields import VectorField
from ...problem import Event, Statistics
from .dynamics import bind, with_hints

# Methods that both tensors and arrays have, but with different meanings.
_AMBIGUOUS = ("max", "min", "nonzero", "repeat", "sort", "std", "transpose", "var")
_WRONG_KIND = (TypeError, AttributeError)


def adapt_events(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Return events for a NumPy state: their conditions may be functions of tensors or of arrays."""
    return tuple(
        replace(event, condition=_TensorOrArrayFunction(event.condition, f"the condition of event {index}"))
        for index, event in enumerate(events)
    )


def adapt_field(field: Any, statistics: Statistics | None = None) -> Any:
    """Return a field for a NumPy state: callables may be functions of tensors or of arrays; others are unchanged."""
    if isinstance(field, (VectorField, nn.Module)):
        return field
    function = _TensorOrArrayFunction(bind(field, {})[0], "the field", like_state=True, statistics=statistics)
    jacobian = {"jacobian": function.own_jacobian(field.jacobian)} if hasattr(field, "jacobian") else {}
    return with_hints(function, field, **jacobian)


def refuse_array_function(field: Callable, t: Tensor, y: Any, error: Exception) -> None:
    """Raise if a field that failed on torch tensors accepts NumPy arrays instead."""
    if isinstance(field, _TensorOrArrayFunction):
        return  # arrays have been tried already
    try:
        _tensors(field(_numpy_time(t), _array(y)), y, "the field")
    except Exception:  # noqa: BLE001 - any failure: the one with tensors is reported instead
        return
    raise ArgumentError(
        "the field accepts only NumPy arrays, but y0 is a torch tensor: give y0 as a NumPy array (then without gradients), or write "
        "the field with torch."
    ) from error


class _TensorOrArrayFunction:
    """A user's function of time and state; after the first call, `of_arrays` says whether it is called with arrays.

    With `like_state`, the returned value is converted to tensors like the state; otherwise it is left unchanged.
    """

    def __init__(self, function: Callable, name: str, like_state: bool = False, statistics: Statistics | None = None):
        self.function, self.name, self.like_state, self.statistics = function, name, like_state, statistics
        self.of_arrays: bool | None = None

    def __call__(self, t: Tensor, y: Any) -> Any:
        if self.of_arrays is None:
            return self._first(t, y)
        return self._by_arrays(t, y) if self.of_arrays else self.function(t, y)

    def own_jacobian(self, given: Callable) -> Callable:
        """Return a function that calls the user's Jacobian with tensors or arrays, whichever the field accepts."""
        return lambda t, y: _tensor(given(_numpy_time(t), _array(y)), y, "jacobian") if self.of_arrays else given(t, y)

    def _by_arrays(self, t: Tensor, y: Any) -> Any:
        value = self.function(_numpy_time(t), _array(y))
        return _tensors(value, y, self.name) if self.like_state else value

    def _first(self, t: Tensor, y: Any) -> Any:
        value = failure = None
        with _NumPyUseMonitor() as monitor:
            try:
                value = self.function(t, tree_map(torch.clone, y))  # in-place changes must not reach the arrays
            except Exception as error:  # noqa: BLE001 - arrays are tried next; a failure of both is raised below
                failure = error
        self.of_arrays = False
        suits = failure is None and (not self.like_state or _is_like(value, y))
        if suits and not monitor.ambiguous and not monitor.numpy:
            return value
        if self.statistics is not None:
            self.statistics.nfev += 1
        try:
            by_arrays = self._by_arrays(t, y)
        except Exception as error:
            if suits or (failure is None and _holds_tensors(value)):
                return value
            if failure is None or (isinstance(failure, _WRONG_KIND) and not isinstance(error, _WRONG_KIND)):
                raise
            raise failure from None
        if suits and not _agree(value, by_arrays):
            raise ArgumentError(
                f"{self.name} accepts tensors and NumPy arrays but computes different values for the "
                f"two{f', because {monitor.ambiguous} does' if monitor.ambiguous else ''}: begin it with y = "
                "np.asarray(y) or y = torch.as_tensor(y)."
            )
        self.of_arrays = monitor.numpy or not suits
        return by_arrays if self.of_arrays else value


class _NumPyUseMonitor(TorchFunctionMode):
    """Records whether NumPy functions are applied to tensors, and operations whose results differ for arrays."""

    numpy, ambiguous = False, ""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        value, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        given = [argument for argument in args if isinstance(argument, Tensor)]
        if name == "__array__":
            self.numpy = True
        elif name in _AMBIGUOUS:
            self.ambiguous = f"y.{name}()"
        elif (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and given
            and not any(map(torch.is_floating_point, given))
        ):
            self.ambiguous = "integer arithmetic"  # which torch computes in float32
        return value


def _numpy_time(t: Tensor) -> Any:
    """Return a time as a float, or the times of samples (B, 1, ...) as an array."""
    return t.item() if t.ndim == 0 else t.detach().numpy().copy()


def _array(state: Any) -> Any:
    """Return a copy of a state as arrays, which the user's function may keep and modify."""
    return tree_map(lambda part: part.detach().numpy().copy(), state)


def _is_like(value: Any, state: Any) -> bool:
    if isinstance(state, tuple):
        return isinstance(value, tuple) and len(value) == len(state) and all(map(_is_like, value, state))
    return isinstance(value, Tensor) and value.shape == state.shape and value.dtype == state.dtype


def _holds_tensors(value: Any) -> bool:
    return all(isinstance(part, Tensor) for part in (value if isinstance(value, tuple) else (value,)))


def _tensors(value: Any, state: Any, name: str) -> Any:
    """Return the arrays that a user's function returned as tensors like the state; the numbers are copied."""
    if not isinstance(state, tuple):
        slope = _tensor(value, state, name)
        if slope.shape != state.shape:
            raise ArgumentError(
                f"{name} returned {kind_of(value)} of shape {tuple(slope.shape)} for a state of shape {tuple(state.shape)}: "
                "return dy/dt as an array like y."
            )
        return slope
    if not isinstance(value, (tuple, list)) or len(value) != len(state):
        raise ArgumentError(f"{name} must return a tuple of {len(state)} arrays, one for each part of y0.")
    return tuple(_tensors(part, own, name) for part, own in zip(value, state))


def _tensor(value: Any, like: Tensor, name: str) -> Tensor:
    if isinstance(value, Tensor):
        raise ArgumentError(f"{name} returned a tensor for a NumPy array: return an array.")
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiu":
        raise ArgumentError(
            f"{name} returned {kind_of(value)} with dtype {array.dtype}: return an array of real numbers like y."
        )
    return torch.from_numpy(np.array(array, order="C")).to(like.dtype)


def _agree(value: Any, other: Any) -> bool:
    """Return whether two results agree to two thirds of the digits of their dtype."""
    pairs = zip(value, other) if isinstance(value, tuple) else ((value, other),)
    return all(_close(*pair) for pair in pairs)


def _close(*pair: Any) -> bool:
    a, b = (np.asarray(part.detach() if isinstance(part, Tensor) else part) for part in pair)
    rtol = np.finfo(np.result_type(a, b, np.float32)).eps ** (2 / 3)
    size = np.nanmax(np.abs(a), initial=0.0, where=np.isfinite(a))
    return a.shape == b.shape and np.allclose(a, b, rtol=rtol, atol=rtol * size, equal_nan=True)
