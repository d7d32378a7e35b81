"""The place of compiled solves in autograd."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from ..once_differentiable import once_differentiable


class Call(Protocol):
    """One solve, from a state and from all parameters one after the other."""

    def march(self, state: np.ndarray, theta: np.ndarray, keep: bool) -> np.ndarray:
        """Return the states; with `keep` for `adjoint_sweep`."""

    def adjoint_sweep(self, cotangents: np.ndarray, wants_parameters: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients with respect to the state and, if wanted, to the parameters."""


class CompiledSolve(torch.autograd.Function):
    """What `call.march` returns, for parameters of the state's dtype."""

    @staticmethod
    def forward(ctx, call: Call, state: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        theta = _flatten_dense_tensors(parameters).numpy()
        return torch.from_numpy(call.march(state.contiguous().numpy(), theta, keep=True))

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangents: Tensor):
        parameters = ctx.saved_tensors  # raises where one was changed in place since
        wanted = any(ctx.needs_input_grad[2:])
        state_bar, theta_bar = ctx.call.adjoint_sweep(cotangents.contiguous().numpy(), wanted)
        return None, torch.from_numpy(state_bar), *_unflatten_dense_tensors(torch.from_numpy(theta_bar), parameters)
