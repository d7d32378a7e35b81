"""Reading and checking the values of a solve: times, parameters, and a state of any shape as one flat tensor."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import real_array
from ..errors import ArgumentError, unknown_name
from ..fields import VectorField


def as_tensor(name: str, value: Any) -> Tensor:
    """Return `value` as a floating-point tensor; lists and integer arrays become float64."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            remedy = "split it into real and imaginary parts" if value.is_complex() else f"write {name}.double()"
            raise ArgumentError(f"{name} has dtype {value.dtype}, which is not a real floating-point type: {remedy}.")
        return value
    return torch.from_numpy(np.array(real_array(name, value)))  # a copy, so that the caller's array is never changed


def all_finite(value: Tensor) -> bool:
    """Return whether all numbers are finite. A finite sum implies this and is faster to test."""
    value = value.detach()
    return math.isfinite(value.sum()) or bool(torch.isfinite(value).all())


def check_finite(name: str, value: Tensor) -> None:
    if not all_finite(value):
        where = int((~torch.isfinite(value.detach().reshape(-1))).nonzero()[0])
        raise ArgumentError(f"{name} contains a non-finite number (flat index {where}): give finite numbers.")


def check_times(ts: Any) -> Tensor:
    """Return the times as a 1-D tensor, checked to be finite and strictly monotone; NumPy times are cached."""
    if type(ts) is np.ndarray and ts.dtype == np.float64 and ts.ndim == 1:
        return _known_times(ts.tobytes())
    return _checked_times(as_tensor("ts", ts))


def check_increasing(ts: Any) -> Tensor:
    """Return the times as `check_times` does; raise unless they increase."""
    times = check_times(ts)
    if times[-1] < times[0]:
        raise ArgumentError(f"ts decreases from {float(times[0]):g} to {float(times[-1]):g}: give increasing times.")
    return times


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # the tensor is reused by later solves, which autograd may record
def _known_times(times: bytes) -> Tensor:
    return _checked_times(as_tensor("ts", np.frombuffer(times)))


def _checked_times(ts: Tensor) -> Tensor:
    if ts.ndim == 2:
        raise ArgumentError(
            f"ts has shape {tuple(ts.shape)}: use shape (T,), or batch='independent' for a row of times for each sample."
        )
    if ts.ndim != 1 or len(ts) < 2:
        raise ArgumentError(f"ts has shape {tuple(ts.shape)}: give at least two times, such as [0.0, 1.0].")
    values = ts.detach().tolist()
    in_order = operator.lt if values[0] < values[-1] else operator.gt
    if all(map(in_order, values, values[1:])) and math.isfinite(values[0]) and math.isfinite(values[-1]):
        return ts
    check_finite("ts", ts)
    steps = ts.detach().diff()
    if bool((steps == 0).any()):
        twice = float(ts[int((steps == 0).nonzero()[0])])
        raise ArgumentError(f"ts contains the time {twice:g} twice: give each time once.")
    turn = int((steps.sign() != steps[0].sign()).nonzero()[0])
    raise ArgumentError(
        f"ts is not sorted: {float(ts[turn]):g} is followed by {float(ts[turn + 1]):g}; sort the times in increasing or "
        "decreasing order."
    )


def times_inside(t: Any, first: float, last: float) -> np.ndarray:
    """Return time(s) `t` as a 1-D array, checked to lie between the first and last times of a solve."""
    if isinstance(t, Tensor) and t.requires_grad:
        raise ArgumentError(
            "t requires a gradient, which dense output does not support: include its times in ts, or use t.detach()."
        )
    times = np.atleast_1d(real_array("t", t).astype(float))
    low, high = sorted((first, last))
    outside = ~((times >= low) & (times <= high))
    if outside.any():
        raise ArgumentError(
            f"t is {times[outside][0]:g}, outside the solved time span, {first:g} to {last:g}: choose a time inside it."
        )
    return times


@dataclass(frozen=True)
class Layout:
    """The form of the user's state, needed to restore it from a vector: shapes of the parts, type and package."""

    shapes: tuple[torch.Size, ...]
    is_tuple: bool
    numpy: bool

    def describe(self) -> str:
        """Return the state's shape, or the shapes of its parts, as text."""
        shapes = [str(tuple(shape)) for shape in self.shapes]
        return f"({', '.join(shapes)})" if self.is_tuple else shapes[0]

    def unpack(self, flat: Tensor) -> Any:
        """Return flat states (..., n) in the user's shape or shapes, with the leading axes kept."""
        lead = flat.shape[:-1]
        if not self.is_tuple:
            return flat.reshape((*lead, *self.shapes[0]))
        parts = flat.split([s.numel() for s in self.shapes], dim=-1)
        return tuple(part.reshape((*lead, *shape)) for part, shape in zip(parts, self.shapes))

    def deliver(self, flat: Tensor) -> Any:
        """Return the result of `unpack` as NumPy arrays or torch tensors, like the initial state."""
        states = self.unpack(flat)
        if not self.numpy:
            return states
        return tuple(s.detach().numpy() for s in states) if self.is_tuple else states.detach().numpy()


def state_tensors(y0: Any) -> list[Tensor]:
    """Return the parts of an initial state as floating-point tensors; raise if the state has no components."""
    parts = y0 if isinstance(y0, tuple) else (y0,)
    if not parts:
        raise ArgumentError("y0 is an empty tuple: give at least one tensor.")
    tensors = [as_tensor("y0", part) for part in parts]
    if not any(part.numel() for part in tensors):
        raise ArgumentError("y0 is empty: give at least one state component.")
    return tensors


def flatten(y0: Any) -> tuple[Tensor, Layout]:
    """Return the initial state as one vector, and the layout that converts it back."""
    parts = y0 if isinstance(y0, tuple) else (y0,)
    numpy = not any(isinstance(part, Tensor) for part in parts)
    tensors = state_tensors(y0)
    for part in tensors[1:]:
        if part.dtype != tensors[0].dtype or part.device != tensors[0].device:
            raise ArgumentError(
                f"y0 mixes {tensors[0].dtype} on {tensors[0].device} with {part.dtype} on {part.device}: give all "
                "parts the same dtype and device."
            )
    flat = torch.cat([part.reshape(-1) for part in tensors])  # a copy, independent of the caller's tensors
    check_finite("y0", flat)
    return flat, Layout(tuple(part.shape for part in tensors), isinstance(y0, tuple), numpy)


def read_parameters(field: Any, given: Mapping[str, Any], y0: Tensor, constant: bool) -> dict[str, Tensor]:
    """Return the parameters in the state's dtype.

    Parameters that are not given come from the module itself and keep their gradients. With `constant`, all
    parameters are detached.
    """
    ours = isinstance(field, (VectorField, nn.Module))
    if isinstance(field, nn.Module):
        own = dict(field.named_parameters())
        for name in given:
            if name not in own:
                raise unknown_name("a parameter", name, own)
        given = own | dict(given)
    parameters = {}
    for name, value in given.items():
        value = as_tensor(name, value)
        if not ours and value.dtype != y0.dtype:
            # The callable refers to the original tensor, so the gradient would not reach it through a converted copy.
            raise ArgumentError(f"{name} is {value.dtype} and y0 is {y0.dtype}: give both the same dtype.")
        parameters[name] = value.detach().to(y0.dtype) if constant and ours else value.to(y0.dtype)
    return parameters
