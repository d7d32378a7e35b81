"""What both engines check and convert before they solve: parameters, tolerances, and the shapes of a described field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ArgumentError, unknown_name
from ..fields import VectorField
from ..problem import Control
from .state import Layout, as_tensor


def read_parameters(dynamics: Any, given: dict[str, Any], y0: Tensor, constant: bool) -> dict[str, Tensor]:
    """Return the parameters in the state's dtype; another device is the caller's mistake."""
    ours = isinstance(dynamics, (VectorField, nn.Module))
    if isinstance(dynamics, nn.Module):
        own = dict(dynamics.named_parameters())
        for name in given:
            if name not in own:
                raise unknown_name("a parameter", name, own)
        given = own | given  # those not named keep their values and their gradients
    parameters = {}
    for name, value in given.items():
        value = as_tensor(name, value)
        if value.device != y0.device:
            raise ArgumentError(
                f"{name} is on {value.device} and y0 on {y0.device}: move one, such as y0.to({str(value.device)!r})."
            )
        if not ours and value.dtype != y0.dtype:
            # A callable holds its own reference: a converted copy would get the gradient in its place.
            raise ArgumentError(f"{name} is {value.dtype} and y0 {y0.dtype}: give both one dtype.")
        parameters[name] = value.detach().to(y0.dtype) if constant and ours else value.to(y0.dtype)
    return parameters


def flat_control(control: Control, y0: Tensor, layout: Layout, adaptive: bool) -> Control:
    """Return the controls with tolerances as numbers or flat arrays; adaptive ones are checked against the dtype."""
    changes = {}
    for name in ("rtol", "atol"):
        value = getattr(control, name)
        if isinstance(value, (int, float)) or np.ndim(value) == 0:
            continue
        shape = y0.shape if layout.is_tuple else layout.shapes[0]
        try:
            changes[name] = np.broadcast_to(np.asarray(value, dtype=float), shape).reshape(-1).copy()
        except ValueError:
            raise ArgumentError(
                f"{name} has shape {np.shape(value)} and the state {tuple(shape)}: give a number or one per component."
            ) from None
    control = replace(control, **changes) if changes else control
    if adaptive:
        check_tolerances(control, y0)
    return control


def check_tolerances(control: Control, y0: Tensor) -> None:
    """Raise if the tolerances do not suit the state's dtype."""
    eps = torch.finfo(y0.dtype).eps
    if not control.suits_any_state(eps):
        control.check_against(y0.detach().cpu().double().numpy(), str(y0.dtype).removeprefix("torch."), eps)


def check_described(field: VectorField, parameters: dict[str, Tensor], layout: Layout) -> None:
    """Raise unless state and parameters have the shapes that a described field wants."""
    shape = layout.shapes[0]
    if layout.is_tuple or not shape or shape[-1] != field.dim:
        got = "a tuple" if layout.is_tuple else f"shape {tuple(shape)}"
        raise ArgumentError(
            f"y0 has {got} and {type(field).__name__} a state of {field.dim}: give y0 of shape (..., {field.dim})."
        )
    for name, expected in field.shapes().items():
        if name not in parameters:
            raise ArgumentError(f"parameters lacks {name!r}: give {', '.join(field.shapes())}.")
        if tuple(parameters[name].shape) != expected:
            raise ArgumentError(f"{name} has shape {tuple(parameters[name].shape)}: give {expected}.")
