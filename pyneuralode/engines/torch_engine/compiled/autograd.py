"""The autograd function for compiled solves."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from ..once_differentiable import once_differentiable


class Call(Protocol):
    """One compiled solve, from an initial state and a flat array of all parameters; `march` sets `counts`."""

    counts: tuple[int, int, int]

    def march(self, state: np.ndarray, theta: np.ndarray, keep: bool) -> np.ndarray:
        """Return the states; if `keep`, also store the data that `adjoint_sweep` needs."""
        ...

    def adjoint_sweep(
        self, cotangents: np.ndarray, wants_state: bool, wants_parameters: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients with respect to the initial state and parameters; unwanted gradients are arbitrary."""
        ...


class CompiledSolve(torch.autograd.Function):
    """The result of `call.march`, connected to autograd; all parameters must have the same dtype."""

    @staticmethod
    def forward(ctx, call: Call, state: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*parameters)  # so that autograd detects in-place changes before the backward pass
        theta = _flatten_dense_tensors(parameters).numpy() if parameters else np.empty(0)
        if len(parameters) == 1:
            theta = theta.copy()  # one parameter is flattened without a copy
        return torch.from_numpy(call.march(state.contiguous().numpy(), theta, keep=True))

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangents: Tensor):
        parameters = ctx.saved_tensors  # raises an error if a parameter was changed in place
        _, wants_state, *wants = ctx.needs_input_grad
        state_bar, theta_bar = ctx.call.adjoint_sweep(cotangents.contiguous().numpy(), wants_state, any(wants))
        bars = _unflatten_dense_tensors(torch.from_numpy(theta_bar), parameters) if any(wants) else [None] * len(wants)
        return None, torch.from_numpy(state_bar) if wants_state else None, *bars
