"""Training in one or several processes: the device of each process, and values that the processes share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import ArgumentError


@dataclass(frozen=True)
class Place:
    """The device of this process, its rank, and the number of processes that train together."""

    device: torch.device
    rank: int = 0
    world: int = 1


@contextmanager
def place(device: str | None = None) -> Iterator[Place]:
    """Yield the `Place` of this process: one of several if torchrun started it, otherwise the only one.

    By default the device is the GPU if there is one, and under torchrun the GPU of the local rank.
    """
    chosen = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if "LOCAL_RANK" not in os.environ:
        yield Place(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Place(chosen, torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def own_checkpoint(path: Path | None, resume: bool, at: Place) -> Iterator[Path | None]:
    """Yield the path of this process's checkpoint; every process except the first uses a copy."""
    if path is None or at.rank == 0:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        if resume and path.exists():
            shutil.copyfile(path, copy)
        yield copy


def shared_mean(value: Tensor, at: Place) -> Tensor:
    """Return the mean over all processes, with this process's gradient, so that all of them make the same decisions."""
    if at.world == 1:
        return value
    mean = value.detach().clone()
    torch.distributed.all_reduce(mean)
    return value + (mean / at.world - value.detach())


def _device(name: str) -> torch.device:
    """Return the device with this name; raise ArgumentError if torch does not find it."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ArgumentError(f"device is {name!r}: give cpu, cuda or cuda:1.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ArgumentError(f"device is {name!r}, but torch finds only {count} GPUs: give cpu, or a GPU that exists.")
    return device
