"""The Jacobian of any field, computed by autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class AutogradJacobian:
    """The value and the Jacobian J of any ``f(t, z)`` that treats the samples of z (n, d) separately.

    The interface is the same as that of `LayeredNet`, except that `jacobian` returns J by rows, not by columns.
    """

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor]):
        self.f = f

    def trace(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(t, z), of shape (n, d), and the trace (n,) of the Jacobian."""
        slope, jacobian = self.jacobian(t, z)
        return slope, jacobian.diagonal(dim1=0, dim2=2).sum(-1)

    def jacobian(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(t, z), of shape (n, d), and the Jacobian's rows (d, n, d): [i, s, j] is df_i/dz_j of sample s."""
        n, d = z.shape
        units = torch.eye(d, dtype=z.dtype, device=z.device)[:, None].expand(d, n, d)
        return self._vjp(t, z, units, batched=True)

    def vjp(self, t: Tensor, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(t, z) and the vector-Jacobian products e^T J, both of shape (n, d), for e (n, d)."""
        return self._vjp(t, z, e, batched=False)

    def _vjp(self, t: Tensor, z: Tensor, cotangents: Tensor, batched: bool) -> tuple[Tensor, Tensor]:
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            at = z if z.requires_grad and recording else z.detach().requires_grad_()
            slope = self.f(t, at)
            rows = None
            if slope.requires_grad:
                (rows,) = torch.autograd.grad(
                    slope, (at,), cotangents, create_graph=recording, is_grads_batched=batched, allow_unused=True
                )
        if rows is None:  # f does not depend on the state
            rows = torch.zeros_like(cotangents)
        return (slope, rows) if recording else (slope.detach(), rows)
