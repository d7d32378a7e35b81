"""Single steps of the torch engine's explicit Runge-Kutta methods, for states that are tensors of any shape.

When activations and weights evolve together, the right-hand side changes from one step to the next. Such solves
therefore loop over single steps instead of using the engine's time stepping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..engines.torch_engine.slopes import evaluated
from ..engines.torch_engine.stiff import as_method
from ..errors import ArgumentError, kind_of
from ..solvers import find_solver
from ..tableaus import TABLEAUS, Tableau


def explicit_tableau(solver: str | Tableau) -> Tableau:
    """Return the tableau of an explicit method in the catalog; a `Tableau` is returned unchanged."""
    if isinstance(solver, Tableau):
        return solver
    name = find_solver(solver).name
    if name not in TABLEAUS:
        raise ArgumentError(f"solver is {solver!r}: use an explicit method, one of {', '.join(TABLEAUS)}.")
    return TABLEAUS[name]


class MemoryOrder(NamedTuple):
    """Conversion of a tensor to the engine's flat state and back, without a copy if its memory has no gaps.

    Images whose channels come last in memory (`torch.channels_last`) keep that layout.
    """

    shape: tuple[int, ...]  # shape of the tensor with its axes in memory order
    order: list[int]
    inverse: list[int]

    @classmethod
    def of(cls, y: Tensor) -> MemoryOrder:
        order = sorted(range(y.ndim), key=y.stride, reverse=True)
        return cls(tuple(y.permute(order).shape), order, sorted(range(y.ndim), key=order.__getitem__))

    def flatten(self, y: Tensor) -> Tensor:
        return y.permute(self.order).reshape(-1)

    def unflatten(self, flat: Tensor) -> Tensor:
        return flat.view(self.shape).permute(self.inverse)


def take_step(
    tableau: Tableau, f: Callable[[float, Tensor], Tensor], t: float, t_end: float, y: Tensor, name: str
) -> Tensor:
    """Return the state at `t_end`, given `y` at `t`, for y' = f(t, y); `t_end` may be before `t`.

    Under autocast, f computes in the lower precision and the state keeps its dtype. Error messages refer to f as
    `name`.
    """
    order, ambient = MemoryOrder.of(y), autocast_settings(y.device.type)

    def slope(time: float, flat: Tensor) -> Tensor:
        state = order.unflatten(flat)
        with torch.autocast(**ambient):
            value = check_like(evaluated(f, time, state, flat, name), state, name)
        return order.flatten(value.to(y.dtype)).clone()  # f may reuse this memory in its next call

    with torch.autocast(y.device.type, enabled=False):
        return order.unflatten(as_method(tableau, y.dtype, y.device).step(slope, t, t_end, order.flatten(y)).end)


def autocast_settings(device: str) -> dict[str, Any]:
    """Return the arguments with which `torch.autocast` restores its current state for a type of device."""
    if not torch.is_autocast_enabled(device):
        return {"device_type": device, "enabled": False}
    return {"device_type": device, "enabled": True, "dtype": torch.get_autocast_dtype(device)}


def check_input(name: str, value: Any) -> Tensor:
    """Return a layer's initial state; under autocast, convert a bfloat16 or float16 state to float32."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(f"{name} is of type {kind}: give a tensor of floating-point numbers.")
    if torch.is_autocast_enabled(value.device.type) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()  # small steps would be lost in a state of eight or eleven significant bits
    return value


def time_tensor(t: float, like: Tensor) -> Tensor:
    """Return the time as a tensor of shape (), with the dtype and device of `like`."""
    return torch.full((), t, dtype=like.dtype, device=like.device)


def check_like(value: Any, state: Tensor, name: str) -> Tensor:
    """Check that a function's value is a tensor with the shape of the state, and return it."""
    if isinstance(value, Tensor) and value.shape == state.shape:
        return value
    found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{kind_of(value)}"
    raise ArgumentError(
        f"{name} returned {found} for a state of shape {tuple(state.shape)}: return a tensor of the same shape."
    )


def name_of(function: Any) -> str:
    """Return the name of a module or function for error messages."""
    return type(function).__name__ if isinstance(function, nn.Module) else getattr(function, "__name__", "the function")
