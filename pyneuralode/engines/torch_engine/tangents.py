"""Tangents of torch's forward-mode differentiation (dual numbers, `torch.func.jvp`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ...errors import ArgumentError


def in_forward_mode() -> bool:
    """Return whether torch's forward-mode differentiation is active."""
    return forward_ad._current_level >= 0


def has_tangent(*tensors: Tensor) -> bool:
    return in_forward_mode() and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def carries_derivatives(x: Tensor) -> bool:
    """Return whether autograd records operations on `x`, in reverse or forward mode."""
    return (x.requires_grad and torch.is_grad_enabled()) or has_tangent(x)


def refuse_tangents(where: str, remedy: str, *tensors: Tensor) -> None:
    """Raise if a tangent would be lost: an incomplete derivative is worse than none."""
    if has_tangent(*tensors):
        raise ArgumentError(
            f"a tangent of forward-mode differentiation does not pass through {where}: {remedy}, or differentiate with backward()."
        )
