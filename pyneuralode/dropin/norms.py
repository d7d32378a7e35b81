"""Norms that weigh an error, as functions of the flat state: torchdiffeq's defaults and the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Norm = Callable[[Tensor], Tensor | float]


def largest_rms(sizes: Sequence[int]) -> Norm:
    """Return the norm that is the largest root mean square of consecutive parts of these sizes."""
    if len(sizes) == 1:
        root = math.sqrt(sizes[0])
        return lambda x: torch.linalg.vector_norm(x) / root
    roots = torch.tensor([math.sqrt(size) for size in sizes if size], dtype=torch.float64)

    def norm(x: Tensor) -> Tensor:
        parts = [torch.linalg.vector_norm(part) for part in x.split(sizes) if part.numel()]
        return (torch.stack(parts) / roots.to(x.real)).max()

    return norm
