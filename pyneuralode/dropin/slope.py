"""The user's function as the solvers call it: with flat states, and a time that always increases.

The user's time is `direction` (1 or -1) times the internal time. Derivatives are taken with respect to the user's
time, so the solvers multiply every step size by `direction`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engines.torch_engine.slopes import evaluated
from ..errors import ArgumentError, kind_of
from .errors import ArgumentTypeError
from .layout import FlatLayout

Time = float | Tensor


class FlatSlope:
    """``slope(t, y)``: dy/dt (n,) at internal time t, a number, or a tensor if autograd records the time.

    `shift` is a tensor of value zero that carries the gradient of the first time; it is added to every time given as a
    number. A `nudge` of -1 or 1 moves the time to the next floating-point number below or above, to one side of a
    discontinuity. With `by_count` the user's function may return any shape with as many numbers as the state, as
    torchdiffeq allows in tuples; otherwise its result, without leading axes of size 1, is broadcast to the state's
    shape.
    """

    active: int | None = None  # number of leading state components that the derivative depends on; None for all

    def __init__(self, func: Callable, layout: FlatLayout, direction: float, like: Tensor, shift: Tensor | None = None):
        self.func, self.layout, self.direction, self.shift = func, layout, direction, shift
        self.by_count = layout.is_tuple
        self.dtype, self.device = like.dtype, like.device
        self.real = like.real.dtype

    def __call__(self, t: Time, y: Tensor, nudge: int = 0) -> Tensor:
        return self.at(self.clock(t, nudge), y)

    def clock(self, t: Time, nudge: int = 0) -> Tensor:
        """Return the user's time as a tensor of shape () in the state's (real) dtype."""
        if type(t) is not float:
            t = t.to(self.real)
            return self.direction * (t + (self._next(float(t), nudge) - float(t)) if nudge else t)
        if nudge:
            t = self._next(t, nudge)
        time = torch.full((), self.direction * t, dtype=self.real, device=self.device)
        return time if self.shift is None else time + self.shift

    def _next(self, t: float, nudge: int) -> float:
        if self.real == torch.float64:
            return math.nextafter(t, nudge * math.inf)
        return float(np.nextafter(np.float32(t), np.float32(nudge * math.inf)))

    def at(self, time: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt (n,) at the user's time."""
        if not self.layout.is_tuple:
            shape = self.layout.shapes[0]
            value = evaluated(self.func, time, y if len(shape) == 1 else y.view(shape), y, "func")
            return (
                self._fit_to_state(value, shape).reshape(-1).clone()
            )  # copied, as func may overwrite it at its next call
        shapes = self.layout.shapes
        pieces = y.split(self.layout.sizes)
        state = tuple(piece.view(shape) for piece, shape in zip(pieces, shapes))
        parts = evaluated(self.func, time, state, y, "func")
        if isinstance(parts, Tensor) or len(parts) != len(shapes):
            found = "a tensor" if isinstance(parts, Tensor) else f"{len(parts)} parts"
            raise ArgumentError(f"func returned {found}: return a tuple of {len(shapes)} tensors, like y0.")
        return torch.cat([self._fit_to_state(part, shape).reshape(-1) for part, shape in zip(parts, shapes)])

    def _fit_to_state(self, part: Any, shape: torch.Size) -> Tensor:
        """Return one part of the derivative in the state's shape and dtype."""
        if not isinstance(part, Tensor):
            raise ArgumentTypeError(f"func returned {kind_of(part)}: return dy/dt as a tensor like y.")
        if part.dtype != self.dtype:
            part = part.to(self.dtype)
        if part.shape != shape:
            try:
                if self.by_count and part.numel() == shape.numel():
                    return part.reshape(shape)
                extra = max(part.ndim - len(shape), 0)
                leading = part.shape[:extra].numel() == 1
                part = (part.reshape(part.shape[extra:]) if leading else part).expand(shape)
            except RuntimeError:
                raise ArgumentError(
                    f"func returned shape {tuple(part.shape)} for a state of shape {tuple(shape)}: return "
                    f"dy/dt in the state's shape."
                ) from None
        return part
