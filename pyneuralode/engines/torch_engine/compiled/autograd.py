"""The autograd function of compiled solves."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from ..once_differentiable import once_differentiable


class Call(Protocol):
    """One solve, from a state and a flat array of all parameters."""

    def march(self, state: np.ndarray, theta: np.ndarray, keep: bool) -> np.ndarray:
        """Return the states; with `keep`, store what `adjoint_sweep` needs."""
        ...

    def adjoint_sweep(self, cotangents: np.ndarray, wants_parameters: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients with respect to the state and, if `wants_parameters`, to the parameters."""
        ...


class CompiledSolve(torch.autograd.Function):
    """The result of `call.march`, connected to autograd, for parameters of the state's dtype."""

    @staticmethod
    def forward(ctx, call: Call, state: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*parameters)  # so that autograd notices if they are changed before the backward pass
        theta = _flatten_dense_tensors(parameters).numpy()
        return torch.from_numpy(call.march(state.contiguous().numpy(), theta, keep=True))

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangents: Tensor):
        parameters = ctx.saved_tensors  # raises if one of them has been changed in place
        wanted = any(ctx.needs_input_grad[2:])
        state_bar, theta_bar = ctx.call.adjoint_sweep(cotangents.contiguous().numpy(), wanted)
        return None, torch.from_numpy(state_bar), *_unflatten_dense_tensors(torch.from_numpy(theta_bar), parameters)
