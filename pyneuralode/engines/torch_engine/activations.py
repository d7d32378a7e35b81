"""The activations and input maps available to a `VectorField`, and the activations' first and second derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "swish": nn.functional.silu,
    "softplus": nn.functional.softplus,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
}
INPUT_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "square": torch.square,
    "cube": lambda x: x * x * x,
}


def _swish(x: Tensor, y: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s + y * (1 - s)


def _gelu(x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


# The derivative of each activation as a function of its argument x and its value y.
DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda x, y: torch.ones_like(x),
    "tanh": lambda x, y: 1 - y * y,
    "relu": lambda x, y: (x > 0).to(x.dtype),
    "swish": _swish,
    "softplus": lambda x, y: torch.sigmoid(x),
    "elu": lambda x, y: torch.where(x > 0, 1.0, y + 1),
    "gelu": _gelu,
    "sigmoid": lambda x, y: y * (1 - y),
    "sin": lambda x, y: torch.cos(x),
}

# The second derivative as a function of x, y and the first derivative g; None if it is zero everywhere.
SECOND_DERIVATIVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor] | None] = {
    "identity": None,
    "tanh": lambda x, y, g: -2 * y * g,
    "relu": None,
    "swish": lambda x, y, g: (s := torch.sigmoid(x)) * (1 - s) * (2 + x * (1 - 2 * s)),
    "softplus": lambda x, y, g: g * (1 - g),
    "elu": lambda x, y, g: torch.where(x > 0, 0.0, g),
    "gelu": lambda x, y, g: (2 - x * x) * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi),
    "sigmoid": lambda x, y, g: g * (1 - 2 * y),
    "sin": lambda x, y, g: -y,
}


def fast_tanh(x: Tensor) -> Tensor:
    """Return tanh(x), computed by torch's sigmoid, which is several times faster on CPUs; autograd is not supported."""
    return torch.sigmoid(2 * x).mul_(2).sub_(1)
