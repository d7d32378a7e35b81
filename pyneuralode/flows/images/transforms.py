"""Maps of images with known log-determinants: dequantization, logit, squeeze and split.

Images are tensors (n, channels, height, width). A map returns its result and the log absolute determinant (n,) of its
Jacobian; the log determinant of a map that returns only the result is zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import ArgumentError

LEVELS = 256


def dequantize(pixels: Tensor, seed: int = 0) -> Tensor:
    """Return (pixels + u) / 256 in [0, 1), in double precision, with u uniform on [0, 1) (Theis et al. 2016).

    `pixels` (n, channels, height, width) are integers from 0 to 255. The expected log density of the
    result, minus D log 256 for D pixels, is a lower bound of the log probability of the pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(pixels.shape, generator=generator, dtype=torch.float64)
    return (pixels + noise.to(pixels.device)) / LEVELS


def quantize(x: Tensor) -> Tensor:
    """Return the pixels (uint8) whose intervals contain `x`; values outside [0, 1) go to the nearest interval."""
    return torch.clamp(torch.floor(x * LEVELS), 0, LEVELS - 1).to(torch.uint8)


def bits_per_dim(log_density: Tensor, dim: int) -> Tensor:
    """Return the bits per pixel of images of `dim` pixels, from the log density (nats) of the dequantized images."""
    return -log_density / (dim * math.log(2)) + math.log2(LEVELS)


class Logit:
    """The map z = (logit(alpha + (1 - 2 alpha) x) - center) / scale from [0, 1] to the real line (Dinh et al. 2017).

    A small `alpha` spreads pixels near 0 and 1 over a logarithmic scale. `center` and `scale` are not trained.
    """

    def __init__(self, alpha: float, center: float = 0.0, scale: float = 1.0):
        if not 0 < alpha < 0.5:
            raise ArgumentError(f"alpha is {alpha}: give a number between 0 and 0.5, such as 1e-6.")
        if not scale > 0:
            raise ArgumentError(f"scale is {scale}: give a positive number, such as 1.0.")
        self.alpha, self.center, self.scale = float(alpha), float(center), float(scale)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inside = self.alpha + (1 - 2 * self.alpha) * x
        low, high = torch.log(inside), torch.log1p(-inside)
        gain = math.log1p(-2 * self.alpha) - math.log(self.scale) - low - high
        return (low - high - self.center) / self.scale, gain.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Map z to x, which is outside [0, 1] where the logit is below logit(alpha) or above logit(1 - alpha)."""
        return (torch.sigmoid(z * self.scale + self.center) - self.alpha) / (1 - 2 * self.alpha)


def squeeze(x: Tensor) -> Tensor:
    """Turn squares of 2 x 2 pixels into channels: (n, c, h, w) -> (n, 4 c, h/2, w/2) (Dinh et al. 2017)."""
    return functional.pixel_unshuffle(x, 2)


def unsqueeze(x: Tensor) -> Tensor:
    """Invert `squeeze`: (n, 4 c, h/2, w/2) -> (n, c, h, w)."""
    return functional.pixel_shuffle(x, 2)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the channels that continue, and the half that goes directly to the prior (Dinh et al. 2017)."""
    kept = x.shape[1] - x.shape[1] // 2
    return x[:, :kept], x[:, kept:]


def unsplit(kept: Tensor, left: Tensor) -> Tensor:
    """Invert `split`: join the two groups of channels."""
    return torch.cat([kept, left], dim=1)
