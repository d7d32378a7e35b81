"""`FlatProblem`: the arguments of `odeint`, checked and converted to one flat state and increasing times."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..engines.torch_engine.march import Norm, largest_rms
from ..engines.torch_engine.tangents import carries_derivatives
from ..errors import ArgumentError, kind_of, unknown_name
from .errors import ArgumentTypeError, InvalidArgumentError
from .event import EventFunction, combine_components
from .layout import FlatLayout
from .slope import FlatSlope
from .tableaus import ADAPTIVE, FIXED

ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")
METHODS = (*ADAPTIVE, *FIXED, *ADAMS, "scipy_solver")
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")

Callback = Callable[[Tensor, Tensor, Tensor], None]


@dataclass
class FlatProblem:
    """An initial-value problem on a flat state.

    slope : dy/dt (n,) as a function of internal time; see `FlatSlope`.
    y0 : initial state (n,).
    times : (T,), increasing; connected to autograd if the user's times are.
    rtol, atol : numbers or tensors (n,).
    norm : norm of a flat error; `has_user_norm` says whether the user provided it.
    event : the event function, or None.
    callbacks : functions of internal time, flat state and step size, by their names in torchdiffeq.
    """

    slope: FlatSlope
    y0: Tensor
    times: Tensor
    rtol: float | Tensor
    atol: float | Tensor
    method: str
    options: dict[str, Any]
    norm: Norm
    has_user_norm: bool
    layout: FlatLayout
    event: EventFunction | None
    callbacks: dict[str, Callback]

    @property
    def time_dtype(self) -> torch.dtype:
        """The dtype of the times and step sizes of an adaptive method, and of the time passed to the event function."""
        if self.method not in ADAPTIVE:
            return self.slope.real
        return torch.promote_types(self.options.get("dtype", torch.float64), self.slope.real)

    @property
    def records_times(self) -> bool:
        """Whether autograd records operations on the times."""
        return carries_derivatives(self.times)


def prepare(
    func: Callable,
    y0: Any,
    t: Tensor,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: dict | None,
    event_fn: Callable | None,
) -> FlatProblem:
    """Check the arguments of `odeint` and return them as a `FlatProblem`."""
    if not callable(func):
        raise ArgumentTypeError(f"func is {kind_of(func)}: give a function func(t, y).")
    flat, layout = flatten(y0)
    check_times(t)
    if event_fn is not None and len(t) != 2:
        raise ArgumentError(f"t contains {len(t)} times: give two with event_fn; the second only sets the direction.")
    name = "dopri5" if method is None else method
    if name not in METHODS:
        raise unknown_name("method", method, METHODS)
    if t.device != flat.device:
        warnings.warn(f"t is on {t.device} and y0 is on {flat.device}: t is moved to the device of y0.", stacklevel=3)
        t = t.to(flat.device)
    options = {} if options is None else dict(options)
    direction = -1.0 if len(t) > 1 and bool(t[0] > t[1]) else 1.0
    shift = (t[0] - t[0].detach()).to(flat.real.dtype) if carries_derivatives(t) else None
    slope = FlatSlope(func, layout, direction, flat, shift)
    norm, has_user_norm = error_norm(options.get("norm"), layout)
    problem = FlatProblem(
        slope=slope,
        y0=flat,
        times=direction * t,
        rtol=tolerance("rtol", rtol, layout, flat),
        atol=tolerance("atol", atol, layout, flat),
        method=name,
        options=options,
        norm=norm,
        has_user_norm=has_user_norm,
        layout=layout,
        event=None,
        callbacks=callbacks_of(func, slope, name, layout),
    )
    if event_fn is not None:
        problem.event = EventFunction(combine_components(event_fn, t[0], y0), slope, problem.time_dtype)
    return problem


def flatten(y0: Any) -> tuple[Tensor, FlatLayout]:
    """Return the initial state as one vector, and its layout."""
    parts = (y0,) if isinstance(y0, Tensor) else y0
    if not isinstance(parts, tuple) or not parts or not all(isinstance(part, Tensor) for part in parts):
        raise InvalidArgumentError(f"y0 is {kind_of(y0)}: give a tensor or a tuple of tensors.")
    flat = y0.reshape(-1) if parts[0] is y0 else torch.cat([part.reshape(-1) for part in parts])
    if not (flat.is_floating_point() or flat.is_complex()):
        raise ArgumentTypeError(f"y0 has dtype {flat.dtype}: give floating-point numbers, such as y0.double().")
    return flat, FlatLayout(tuple(part.shape for part in parts), parts[0] is not y0)


def check_times(t: Any) -> None:
    if not isinstance(t, Tensor):
        raise InvalidArgumentError(f"t is {kind_of(t)}: give a tensor of times.")
    if not t.is_floating_point():
        raise ArgumentTypeError(f"t has dtype {t.dtype}: give floating-point times, such as t.double().")
    if t.ndim != 1 or len(t) == 0:
        raise InvalidArgumentError(
            f"t has shape {tuple(t.shape)}: give a one-dimensional tensor with at least one time."
        )
    steps = t.detach().diff().sign()
    if not bool((steps == 1).all() | (steps == -1).all()):
        i = int((steps != (steps[0] if steps[0] != 0 else 1)).nonzero()[0])
        raise InvalidArgumentError(
            f"t contains {float(t[i]):g} and then {float(t[i + 1]):g}: give strictly increasing or decreasing times."
        )


def tolerance(name: str, value: Any, layout: FlatLayout, flat: Tensor) -> float | Tensor:
    """Return a tolerance as a number or, if it differs between components, as a tensor (n,)."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise InvalidArgumentError(f"{name} requires a gradient: use {name}.detach().")
    if isinstance(value, (int, float)):
        smallest = value
    else:
        value = _expanded_tolerance(name, value, layout, flat)
        smallest = float(value.min())
        value = value if value.ndim else float(value)
    if not smallest >= 0:
        raise ArgumentError(f"{name} is {smallest:g}: give a positive number, such as 1e-6.")
    return value


def _expanded_tolerance(name: str, value: Any, layout: FlatLayout, flat: Tensor) -> Tensor:
    """Return a tolerance, given as a tensor or as one value per part, as a tensor of shape () or (n,)."""
    like = {"dtype": flat.real.dtype, "device": flat.device}
    per_part = layout.is_tuple and not (isinstance(value, Tensor) and value.ndim == 0)
    if per_part and hasattr(value, "__len__") and len(value) != len(layout.shapes):
        raise InvalidArgumentError(
            f"{name} has {len(value)} parts: give one number, or {len(layout.shapes)} parts, like y0."
        )
    try:
        if per_part:
            parts = zip(value, layout.sizes, strict=True)
            return torch.cat([torch.as_tensor(part, **like).reshape(-1).expand(size) for part, size in parts])
        if torch.as_tensor(value).ndim == 0:
            return torch.as_tensor(value, dtype=torch.float64)
        return torch.as_tensor(value, **like).expand(layout.shapes[0]).reshape(-1)
    except (RuntimeError, TypeError, ValueError):
        raise ArgumentError(f"{name} is {value!r}: give a positive number, or one per component.") from None


def error_norm(given: Callable | None, layout: FlatLayout) -> tuple[Norm, bool]:
    """Return the norm of a flat error, and whether the user provided it."""
    if given is None:
        return largest_rms(layout.sizes), False
    if not callable(given):
        raise ArgumentTypeError(f"options['norm'] is {given!r}: give a function of the state.")
    return lambda flat: given(layout.unpack(flat)), True


def callbacks_of(
    func: Callable, slope: FlatSlope, method: str, layout: FlatLayout, suffix: str = ""
) -> dict[str, Callback]:
    """Return the callbacks of `func` (with names ending in `suffix`) that `method` calls; warn about the others."""
    supported = CALLBACKS if method in ADAPTIVE else () if method == "scipy_solver" else CALLBACKS[:1]
    given = {name: getattr(func, name + suffix) for name in CALLBACKS if hasattr(func, name + suffix)}
    others = [name for name in given if name not in supported]
    if others:
        warnings.warn(f"func has {', '.join(others)}, which {method} does not call.", stacklevel=4)
    return {name: _on_flat_step(given[name], slope.direction, layout) for name in given if name in supported}


def _on_flat_step(callback: Callable, direction: float, layout: FlatLayout) -> Callback:
    def call(t: Tensor, y: Tensor, h: Tensor) -> None:
        callback(direction * t.to(y.device), layout.unpack(y), h.to(y.device))

    return call
