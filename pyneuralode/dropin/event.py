"""The user's event function, the time at which it crosses zero, and the gradient of that time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import SolveFailedError
from .slope import FlatSlope


def combine_components(event_fn: Callable, t0: Tensor, y0: object) -> Callable:
    """Return a scalar event function, positive at the start, that crosses zero as soon as a component of event_fn does."""
    with torch.no_grad():
        signs = torch.sign(event_fn(t0, y0))
    if bool(signs.isnan().any()):
        raise _undefined_event_error(float(t0))
    return lambda t, y: (event_fn(t, y) * signs).min()


@dataclass(frozen=True)
class EventFunction:
    """The value of a combined event function at an internal time and a flat state.

    combined : function of the user's time and state; see `combine_components`.
    dtype : dtype of the time passed to `combined`.
    """

    combined: Callable
    slope: FlatSlope
    dtype: torch.dtype

    @torch.no_grad()
    def __call__(self, t: float, y: Tensor) -> float:
        time = torch.full((), self.slope.direction * t, dtype=self.dtype, device=self.slope.device)
        value = float(self.combined(time, self.slope.layout.unpack(y)))
        if math.isnan(value):
            raise _undefined_event_error(float(time))
        return value


def _undefined_event_error(t: float) -> SolveFailedError:
    """Return the error for an event function that is NaN, which torchdiffeq treats as a crossing."""
    return SolveFailedError(f"event_fn is NaN at t = {t:g}: return a number for every time and state of the solve.", t)


def attach_event_time(combined: Callable, slope: FlatSlope, when: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return the time `when` of an event (the user's time), connected to autograd, and dy/dt (n,) at that time.

    `end` (n,) is the state at that time, differentiable as if the time were fixed. The time's derivative is such that
    the event function stays zero (implicit function theorem).
    """
    with torch.no_grad():
        speed = slope.at(when.to(slope.real), end)
    value = combined(when, slope.layout.unpack(end))
    if not value.requires_grad:
        return when, speed
    time, state = when.clone().requires_grad_(), end.detach().requires_grad_()
    by_time, by_state = torch.autograd.grad(
        combined(time, slope.layout.unpack(state)), (time, state), allow_unused=True, materialize_grads=True
    )
    rate = by_time + torch.vdot(by_state, speed).real + 1e-12  # as in torchdiffeq, for crossings with zero rate
    return when - ((value - value.detach()) / rate).to(when.dtype), speed


@torch.no_grad()
def locate_event(
    event: Callable[[float, Tensor], float],
    state: Callable[[float], Tensor],
    start: float,
    t: float,
    t_end: float,
    atol: float | Tensor,
) -> float:
    """Return the time in [t, t_end] at which the sign of `event` changes from that of `start`, to within `atol`."""
    width = float(atol.min()) if isinstance(atol, Tensor) else atol
    while t_end - t > width:
        middle = (t + t_end) / 2
        if not t < middle < t_end:
            break
        if event(middle, state(middle)) * start > 0:
            t = middle
        else:
            t_end = middle
    return (t + t_end) / 2
