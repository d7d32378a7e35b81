"""The signature of a solve's values: shapes, dtypes, devices, and which values autograd records."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..arguments import real_array
from ..errors import ArgumentError, kind_of
from .values import Layout, state_tensors


@dataclass(frozen=True)
class Signature:
    """The shapes, dtypes and devices of the values passed to a solve, and which values autograd records.

    Attributes
    ----------
    layout : Layout
        Shapes of the parts of the state, and whether the state is NumPy or torch.
    dtype, device
        Dtype and device of the state.
    parameters : dict of name to shape
        The shapes of the given parameters.
    times : {"shared", "rows", "list"}
        The form of the times: an array (T,), an array (B, T), or a list of B arrays.
    differentiated : frozenset of {"y0", "ts", "parameters"}
        The values that autograd records for a backward pass; empty for a NumPy state.
    tangents : bool
        Whether any of the values carries a forward-mode tangent.
    key : hashable
        Equal for values with the same signature; see `value_key`.
    """

    layout: Layout
    dtype: torch.dtype
    device: torch.device
    parameters: dict[str, tuple[int, ...]]
    times: str
    differentiated: frozenset[str]
    tangents: bool
    key: Hashable

    def state(self) -> str:
        """Return the shape, dtype, and package or device of the state as text, for messages."""
        package = "NumPy" if self.layout.numpy else f"torch on {self.device}"
        return f"{self.layout.describe()} {str(self.dtype).removeprefix('torch.')} ({package})"

    @classmethod
    def of(cls, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Signature:
        """Return the signature of the values of a solve."""
        parts = y0 if isinstance(y0, tuple) else (y0,)
        numpy = not any(isinstance(part, Tensor) for part in parts)
        tensors = state_tensors(y0)
        for name, value in parameters.items():
            if isinstance(value, Tensor) and value.device != tensors[0].device:
                raise ArgumentError(
                    f"{name} is on {value.device} and y0 is on {tensors[0].device}: move one, as in "
                    f"y0.to({str(value.device)!r})."
                )
        given = [value for value in (*parts, ts, *parameters.values()) if isinstance(value, Tensor)]
        recorded = torch.is_grad_enabled() and not numpy
        followed = {
            "y0": any(isinstance(part, Tensor) and part.requires_grad for part in parts),
            "ts": _follows(ts),
            "parameters": any(isinstance(value, Tensor) and value.requires_grad for value in parameters.values()),
        }
        return cls(
            Layout(tuple(part.shape for part in tensors), isinstance(y0, tuple), numpy),
            tensors[0].dtype,
            tensors[0].device,
            {name: tuple(np.shape(value)) for name, value in parameters.items()},
            _form_of_times(ts),
            frozenset(name for name, follows in followed.items() if follows and recorded),
            _has_tangents(given),
            value_key(parameters, y0, ts),
        )


def value_key(parameters: Mapping[str, Any], y0: Any, ts: Any) -> Hashable:
    """Return a key for finding prepared problems, equal for values with the same signature and cheap to compute."""
    if not hasattr(parameters, "items"):
        raise ArgumentError(f"parameters is {kind_of(parameters)}: give a mapping of name to value.")
    return (
        tuple([_kind("y0", part) for part in y0]) if isinstance(y0, tuple) else _kind("y0", y0),
        _kind_of_times(ts),
        tuple([(name, *_kind(name, value)) for name, value in parameters.items()]),
        torch.is_grad_enabled(),
        forward_ad._current_level >= 0
        and _has_tangents([*(y0 if isinstance(y0, tuple) else (y0,)), ts, *parameters.values()]),
    )


def _kind(name: str, value: Any) -> tuple[Hashable, ...]:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device, value.requires_grad
    array = value if isinstance(value, np.ndarray) else real_array(name, value)
    return array.shape, array.dtype


def _kind_of_times(ts: Any) -> Hashable:
    if isinstance(ts, Tensor):
        return ts.ndim, ts.dtype, ts.requires_grad, ts.device
    if isinstance(ts, np.ndarray):
        return ts.ndim, ts.dtype
    return _form_of_times(ts), _follows(ts)


def _form_of_times(ts: Any) -> str:
    if isinstance(ts, (list, tuple)) and any(np.ndim(row) for row in ts):
        return "list"
    return "rows" if np.ndim(ts) == 2 else "shared"


def _follows(ts: Any) -> bool:
    several = ts if isinstance(ts, (list, tuple)) else (ts,)
    return any(isinstance(row, Tensor) and row.requires_grad for row in several)


def _has_tangents(values: list[Any]) -> bool:
    if forward_ad._current_level < 0:
        return False
    tensors = (value for value in values if isinstance(value, Tensor))
    return any(forward_ad.unpack_dual(value).tangent is not None for value in tensors)
