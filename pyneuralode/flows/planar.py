"""Planar flows (Rezende and Mohamed 2015), the discrete counterpart of continuous flows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..arguments import real_tensor, whole_number
from ..errors import ArgumentError
from ..fitting.optimizers import Adam, Optimizer
from ..model_files import arrays_of, load_arrays, write_model_file
from .training import BatchLoss, FlowFit, train

_BISECTIONS = {torch.float32: 32, torch.float64: 64}


class PlanarFlow(nn.Module):
    """A planar flow: `depth` layers ``z + u tanh(w . z + b)``, from a standard normal base to the data.

    Each u is corrected along w so that ``w . u >= -1``, which makes the layer invertible (Rezende and Mohamed 2015,
    appendix A.1). The inverse has no closed form: samples and their log densities need one pass, while `inverse` and
    `log_prob` bisect a monotone function of one variable in each layer.

    Parameters
    ----------
    dim : int
        Dimension of the points.
    depth : int
        Number of layers.
    seed : int
        Seed of the initial parameters: w ~ N(0, 1/dim), u ~ N(0, 0.01), b = 0.
    dtype : torch.dtype
        torch.float32 or torch.float64.

    Raises
    ------
    ArgumentError
        If `dim` or `depth` is not positive, or for an unsupported dtype, or points of a different dimension.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode import PlanarFlow
    >>> flow = PlanarFlow(2, depth=4)
    >>> x, log_prob = flow.sample_and_log_prob(5)
    >>> x.shape, torch.allclose(flow.log_prob(x), log_prob, atol=1e-4)
    (torch.Size([5, 2]), True)
    """

    def __init__(self, dim: int, depth: int, *, seed: int = 0, dtype: torch.dtype = torch.float32):
        super().__init__()
        dim, depth = whole_number("dim", dim), whole_number("depth", depth)
        if dtype not in _BISECTIONS:
            raise ArgumentError(f"dtype is {dtype}: give torch.float32 or torch.float64.")
        self.dim, self.depth, self.dtype = dim, depth, dtype
        rng = np.random.default_rng(seed)
        w = rng.normal(size=(depth, dim)) / math.sqrt(dim)
        u = 0.1 * rng.normal(size=(depth, dim))
        self.w, self.u, self.b = (nn.Parameter(torch.tensor(v, dtype=dtype)) for v in (w, u, np.zeros(depth)))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, depth={self.depth}"

    def corrected(self) -> Tensor:
        """Return the vectors u (depth, dim) of all layers, corrected along w so that w . u > -1."""
        product = (self.w * self.u).sum(-1, keepdim=True)
        length = self.w.square().sum(-1, keepdim=True).clamp_min(torch.finfo(self.dtype).tiny)
        return self.u + (softplus(product) - 1 - product) * self.w / length

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images (n, dim) of points `z` (n, dim), and the log of the Jacobian's determinant (n,)."""
        u = self.corrected()
        products = (self.w * u).sum(-1)
        total = torch.zeros(z.shape[:-1], dtype=z.dtype)
        for k in range(self.depth):
            h = torch.tanh(z @ self.w[k] + self.b[k])
            total = total + torch.log1p(products[k] * (1 - h * h))
            z = z + h[..., None] * u[k]
        return z, total

    def transform(self, z: Tensor) -> Tensor:
        """Return the images (n, dim) of points `z` (n, dim) of the base."""
        return self.push(self._points("z", z))[0]

    @torch.no_grad()
    def inverse(self, x: Tensor) -> Tensor:
        """Return the points (n, dim) of the base whose images are `x` (n, dim), without gradients."""
        x = self._points("x", x)
        u = self.corrected()
        for k in reversed(range(self.depth)):
            w, b, product = self.w[k], self.b[k], self.w[k] @ u[k]
            goal = x @ w
            # a + (w . u) tanh(a + b) increases with a, and equals `goal` for an a within |w . u| of `goal`.
            low, high = goal - product.abs(), goal + product.abs()
            for _ in range(_BISECTIONS[self.dtype]):
                middle = 0.5 * (low + high)
                above = middle + product * torch.tanh(middle + b) > goal
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            x = x - torch.tanh(0.5 * (low + high) + b)[..., None] * u[k]
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density (n,) in nats at `x` (n, dim), differentiable in the parameters but not in `x`."""
        z = self.inverse(x)
        return _log_normal(z) - self.push(z)[1]

    def sample_and_log_prob(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return `n` samples (n, dim) and their log densities (n,), differentiable in the parameters."""
        n = whole_number("n", n)
        generator = torch.Generator().manual_seed(whole_number("seed", seed, 0))
        z = torch.randn(n, self.dim, dtype=self.dtype, generator=generator)
        x, total = self.push(z)
        return x, _log_normal(z) - total

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Return `n` samples (n, dim), without gradients."""
        return self.sample_and_log_prob(n, seed)[0]

    def fit(
        self,
        *,
        log_density: Callable[[Tensor], Tensor],
        updates: int = 1000,
        batch: int = 512,
        optimizer: Optimizer = Adam(1e-3),
        seed: int = 0,
        **options: Any,
    ) -> FlowFit:
        """Minimize the reverse Kullback-Leibler divergence E_q[log q - log p] to a given log density.

        `log_density` maps points (n, dim) to (n,) and need not be normalized; the loss is the divergence minus
        the logarithm of the density's normalizing constant. The other arguments are as in `ContinuousFlow.fit`.
        """
        batch = whole_number("batch", batch)

        def compute(update: int) -> BatchLoss:
            x, log_q = self.sample_and_log_prob(batch, int(np.random.SeedSequence((seed, update)).generate_state(1)[0]))
            loss = (log_q - log_density(x)).mean()
            return BatchLoss(loss, loss)

        identity = {"flow": repr(self), "batch": str(batch), "seed": str(seed)}
        return train(self, compute, updates=updates, optimizer=optimizer, identity=identity, **options)

    def save(self, path: str | Path) -> None:
        """Write the flow to one safetensors file, which `pyneuralode.load` reads."""
        write_model_file(path, "PlanarFlow", {"dim": self.dim, "depth": self.depth}, arrays_of(self))

    @classmethod
    def from_saved(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PlanarFlow:
        """Return the flow stored in a file that `save` wrote; see `pyneuralode.load`."""
        flow = cls(**description, dtype=torch.as_tensor(arrays["w"]).dtype)
        load_arrays(flow, arrays)
        return flow

    def _points(self, name: str, x: Tensor) -> Tensor:
        x = real_tensor(name, x, dtype=self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ArgumentError(f"{name} has shape {tuple(x.shape)}: give points of shape (n, {self.dim}).")
        return x


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
