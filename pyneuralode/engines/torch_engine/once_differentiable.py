"""A decorator for backward passes that cannot be differentiated again."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch

from ...errors import ArgumentError

BACKPROP = "solve with gradient='Backprop', compiled=False and an explicit solver such as Tsit5"


def once_differentiable(backward: Callable, remedy: str = BACKPROP) -> Callable:
    """Decorate a backward method so that differentiating it again raises an ArgumentError.

    Unlike torch's decorator, this one also raises if the cotangents are constants.
    """

    @wraps(backward)
    def checked(ctx, *cotangents):
        if torch.is_grad_enabled():  # true here if create_graph is True
            raise ArgumentError(f"create_graph is True, but this gradient cannot be differentiated again: {remedy}.")
        return backward(ctx, *cotangents)

    return checked
