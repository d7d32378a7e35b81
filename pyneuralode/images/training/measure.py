"""Evaluation of a classifier on images, in one process or several."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...processes import Place
from .data import ImageData


@torch.no_grad()
def measure(model: nn.Module, data: ImageData, *, batch: int = 500, at: Place | None = None) -> Tensor:
    """Return the logits (n, classes) of all images, on their device and in the dtype of the model's parameters.

    The model is evaluated in evaluation mode. Several processes share the work, and each returns the whole result.
    """
    training = model.training
    model.eval()
    rank, world = (at.rank, at.world) if at is not None else (0, 1)
    if world > 1:
        for buffer in model.buffers():  # running means differ between processes
            torch.distributed.broadcast(buffer, 0)
    dtype = dtype_of(model)
    logits = torch.zeros(len(data), data.classes, device=data.images.device, dtype=dtype)
    for start in range(rank * batch, len(data), world * batch):
        rows = slice(start, start + batch)
        logits[rows] = model(data.normalized(data.images[rows]).to(dtype))
    if world > 1:
        torch.distributed.all_reduce(logits)
    model.train(training)
    return logits


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of the model's first floating-point parameter, or float32 if it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose largest logit is that of their label."""
    return float((logits.argmax(1) == labels).double().mean())
