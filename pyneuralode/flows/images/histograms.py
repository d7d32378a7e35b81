"""Histograms of independent pixels: a baseline for image models, and a map from pixels to normal variables."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import DataError
from .transforms import LEVELS

_MARGIN = 1e-12  # distance from 0 and 1, where the normal quantile is infinite


class PixelHistograms(nn.Module):
    """A histogram of 256 bins for each pixel, with add-one smoothing: P(pixel = k) = (count + 1) / (images + 256).

    As a density, a histogram is constant inside each bin. As a map, it sends each pixel x in [0, 1) of dequantized
    images to z = quantile(cdf(x)), with the quantile function of the standard normal: a standard normal prior of z then
    gives exactly the histograms' bits per dim (a Gaussianization layer as in Meng et al. 2020, but counted instead of
    learned).
    """

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("counts", torch.zeros(math.prod(shape), LEVELS, dtype=torch.int64))

    def count(self, pixels: np.ndarray) -> PixelHistograms:
        """Count the pixels of uint8 images (n, *shape), and return self."""
        if len(pixels) == 0:
            raise DataError("pixels is empty: give at least one image.")
        columns = np.asarray(pixels).reshape(len(pixels), -1)
        counts = [np.bincount(column, minlength=LEVELS) for column in columns.T]
        self.counts.copy_(torch.as_tensor(np.stack(counts)))
        return self

    @property
    def probabilities(self) -> Tensor:
        """Probabilities P(pixel = k), (pixels, 256), in double precision."""
        counts = self.counts.to(torch.float64) + 1
        return counts / counts.sum(1, keepdim=True)

    def bits_per_dim(self, pixels: np.ndarray) -> float:
        """Return the mean bits per pixel of uint8 images (n, *shape)."""
        columns = torch.as_tensor(np.asarray(pixels), device=self.counts.device).reshape(len(pixels), -1).long()
        bits = -torch.log2(self.probabilities)
        return float(torch.gather(bits, 1, columns.t()).mean())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (n, *shape) in [0, 1) to z, and return z and the log-determinant (n,)."""
        place = x.flatten(1).t().double() * LEVELS
        level = place.floor().clamp(0, LEVELS - 1).long()
        weights = self.probabilities
        below, weight = self._below(weights).gather(1, level), weights.gather(1, level)
        z = torch.special.ndtri((below + weight * (place - level)).clamp(_MARGIN, 1 - _MARGIN))
        gain = weight.log() + math.log(LEVELS) + 0.5 * (z.square() + math.log(2 * math.pi))
        return z.t().reshape(x.shape), gain.sum(0)

    def inverse(self, z: Tensor) -> Tensor:
        """Map z to x (n, *shape) in [0, 1), the inverse of `forward`."""
        height = torch.special.ndtr(z.flatten(1).t().double())
        weights = self.probabilities
        below = self._below(weights)
        level = (torch.searchsorted(below, height.contiguous(), right=True) - 1).clamp(0, LEVELS - 1)
        part = (height - below.gather(1, level)) / weights.gather(1, level)
        return ((level + part.clamp(0, 1 - 1e-9)) / LEVELS).t().reshape(z.shape)

    @staticmethod
    def _below(weights: Tensor) -> Tensor:
        return weights.cumsum(1) - weights
