"""Training of image flows in one or several processes: setups, updates, and bits per dim from adaptive solves.

All randomness follows from the seed and the index of the update. A resumed run therefore gives the same result as an
uninterrupted one, and the images and their dequantization do not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...arguments import whole_number
from ...errors import ArgumentError, DataError, unknown_name
from ...fitting import Adam
from ...fitting.batches import ShuffledBatches
from ...fitting.optimizers import Optimizer
from ...processes import Place, own_checkpoint, shared_mean
from ...progress import Progress, SilentProgress
from ..training import BatchLoss, FlowFit, train
from .histograms import PixelHistograms
from .multiscale import ImageFlow, ImageTerms
from .transforms import bits_per_dim, dequantize

PRECISIONS = ("float32", "bfloat16")
_TIGHT = {"rtol": 1e-5, "atol": 1e-5}
_MULTISCALE = ("cnf", "cnf", "squeeze", "cnf", "cnf", "split", "squeeze", "cnf", "cnf")


@dataclass(frozen=True)
class Setup:
    """An image flow and all settings of its training.

    Attributes
    ----------
    flow : mapping
        Arguments of `ImageFlow`.
    updates, batch : int
        Number of updates, and of images per update.
    optimizer : Optimizer
    solver, control : str, mapping
        Solver for training, and its settings; tests use DP5 at tolerance 1e-5.
    kinetic, jacobian : float
        Weights of the penalties of `ImageTerms`, added to the bits per dim (Finlay et al. 2020).
    images : int, optional
        Number of training images to use; by default all.
    precision : {"float32", "bfloat16"}
        Precision of convolutions during training (torch.autocast); states, integrals and tests stay in float32.
    about : str
        Purpose of the setup.
    """

    flow: Mapping[str, Any]
    updates: int
    batch: int = 200
    optimizer: Optimizer = Adam(1e-3)
    solver: str = "DP5"
    control: Mapping[str, Any] = field(default_factory=lambda: dict(_TIGHT))
    kinetic: float = 0.0
    jacobian: float = 0.0
    images: int | None = None
    precision: str = "float32"
    about: str = ""

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        for name in ("updates", "batch", "images"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name)))

    def with_channels(self, channels: int | None) -> Setup:
        """Return the setup with the given number of hidden channels, or unchanged if `channels` is None."""
        if channels is None:
            return self
        channels = whole_number("channels", channels, 1, 64)
        return replace(self, flow={**self.flow, "hidden": (channels,) * len(self.flow["hidden"])})


# For two cores: half the time is spent on the first CNF, which processes every pixel.
_SMALL = {"hidden": (16, 16, 16), "activation": "swish", "entry": "histograms", "start": 0.1, "learned_prior": True}
_QUICK = {
    "updates": 700,
    "batch": 100,
    "optimizer": Adam(5e-3, schedule="cosine", clip=10.0),
    "solver": "RK4",
    "control": {"step_size": 0.5},
    "kinetic": 0.01,
    "jacobian": 0.02,
    "precision": "bfloat16",
}

SETUPS: dict[str, Setup] = {
    "small": Setup(
        {**_SMALL, "steps": ("cnf", "squeeze", "cnf", "split", "squeeze", "cnf")},
        **_QUICK,
        about="a multi-scale flow for two cores and 15 minutes",
    ),
    "small-single": Setup({**_SMALL, "steps": ("cnf",)}, **_QUICK, about="a single flow for two cores and 15 minutes"),
    "report": Setup(
        {"steps": ("cnf",), "hidden": (64, 64, 64), "entry": "none", "gradient": "BacksolveAdjoint"},
        updates=3_000,
        about="the single flow of a project report, with dequantization: adjoint method, DP5 at tolerance 1e-5, "
        "ten epochs; for a GPU",
    ),
    "multiscale": Setup(
        {"steps": _MULTISCALE, "hidden": (64, 64, 64), "entry": "logit", "gradient": "BacksolveAdjoint"},
        updates=30_000,
        about="FFJORD's multi-scale flow, with the adjoint method and DP5 at tolerance 1e-5; for a GPU",
    ),
    "fast": Setup(
        {"steps": _MULTISCALE, "hidden": (64, 64, 64), "entry": "logit"},
        updates=30_000,
        solver="RK4",
        control={"step_size": 0.25},
        kinetic=0.01,
        jacobian=0.01,
        about="the multi-scale flow with penalties and four fixed steps per CNF; for a GPU",
    ),
}


@dataclass(frozen=True)
class Measurement:
    """Mean bits per dim of images, its standard error, and the mean number of field evaluations per batch."""

    bits: float
    error: float
    evaluations: float


@dataclass(frozen=True)
class ImageFit:
    """A trained flow and its measurements.

    Attributes
    ----------
    flow : ImageFlow
    fit : FlowFit
        The history of the training; its losses are the bits per dim of the batches, without penalties.
    test : Measurement or None
        Measurement of the test images, by adaptive solves; None if the training was interrupted.
    baseline : float
        Bits per dim of the test images under per-pixel histograms of the same training images.
    processes : int
    """

    flow: ImageFlow
    fit: FlowFit
    test: Measurement | None
    baseline: float
    processes: int = 1


def train_image_flow(
    setup: Setup,
    train_pixels: np.ndarray,
    test_pixels: np.ndarray,
    *,
    seed: int = 0,
    at: Place | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
    progress: Progress | None = None,
) -> ImageFit:
    """Train a flow on images, then measure it on test images.

    Parameters
    ----------
    setup : Setup
        One of `SETUPS`, or your own; its ``flow["shape"]`` is replaced by the shape of the images.
    train_pixels, test_pixels : uint8 arrays (n, height, width) or (n, channels, height, width)
    seed : int
        Seed of parameters, batches, dequantization and Hutchinson's noise.
    at : Place, optional
        Where to train; see `processes.place`. Several processes share each batch, and average their gradients.
    checkpoint, checkpoint_every, resume
        As in `ContinuousFlow.fit`.
    progress : Progress, optional

    Returns
    -------
    ImageFit
        Also returned after Ctrl-C or a non-finite loss, with the best flow so far.

    Raises
    ------
    ArgumentError
        If the batch cannot be divided equally among the processes.
    DataError
        If the pixels do not have the type and shape above, or there are fewer images than in a batch.
    """
    at = at or Place(torch.device("cpu"))
    if setup.batch % at.world:
        raise ArgumentError(
            f"batch is {setup.batch}, but there are {at.world} processes: give a multiple of {at.world}."
        )
    images = check_pixels("train_pixels", train_pixels)[: setup.images]
    tests = check_pixels("test_pixels", test_pixels)
    if len(images) < setup.batch:
        raise DataError(
            f"train_pixels contains {len(images)} images, fewer than a batch of {setup.batch}: give more images."
        )
    progress = progress if progress is not None and at.rank == 0 else SilentProgress()
    histograms = PixelHistograms(images.shape[1:]).count(images)
    flow = ImageFlow(**{**setup.flow, "shape": images.shape[1:], "seed": seed})
    if flow.histograms is not None:
        flow.histograms.count(images)
    flow.to(at.device)
    flow.set_solver(setup.solver, **setup.control)
    with own_checkpoint(checkpoint, resume, at) as store:
        fit = train(
            flow,
            _FlowUpdates(flow, setup, images, seed, at),
            updates=setup.updates,
            optimizer=setup.optimizer,
            progress=progress,
            checkpoint=store,
            checkpoint_every=checkpoint_every,
            resume=resume,
            identity={
                "flow": repr(setup.flow),
                "solver": f"{setup.solver} {setup.control}",
                "precision": setup.precision,
                "penalties": repr((setup.kinetic, setup.jacobian)),
                "batch": str(setup.batch),
                "images": hashlib.sha256(images).hexdigest(),
                "seed": str(seed),
            },
        )
    flow.set_solver("DP5", **_TIGHT)
    measured = None if fit.interrupted else measure(flow, tests, seed=seed, at=at, progress=progress)
    return ImageFit(flow, fit, measured, histograms.bits_per_dim(tests), at.world)


def measure(
    flow: ImageFlow,
    pixels: np.ndarray,
    *,
    seed: int = 0,
    batch: int = 200,
    at: Place | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Return the bits per dim of images, computed with the flow's solver.

    One draw of dequantization noise and of Hutchinson's noise per image gives an unbiased estimate of the bound on its
    bits per dim.
    """
    images = check_pixels("pixels", pixels)
    at = at or Place(flow.prior_mean.device)
    starts = range(0, len(images), batch)
    task = (progress or SilentProgress()).task("bits per dim of the test images", len(starts))
    bits, evaluations = np.zeros(len(images)), np.zeros(len(starts))
    for k in range(at.rank, len(starts), at.world):
        rows = slice(starts[k], starts[k] + batch)
        with torch.no_grad():
            x = dequantize(torch.as_tensor(images[rows]).to(at.device), _seed(seed, 1, k))
            terms = flow(x, _seed(seed, 2, k))
        bits[rows] = bits_per_dim(terms.log_density, flow.dim).double().cpu().numpy()
        evaluations[k] = terms.evaluations
        task.advance(1)
    if at.world > 1:
        both = torch.as_tensor(np.concatenate([bits, evaluations])).to(at.device)
        torch.distributed.all_reduce(both)
        bits, evaluations = np.split(both.cpu().numpy(), [len(bits)])
    return Measurement(float(bits.mean()), float(bits.std() / np.sqrt(len(bits))), float(evaluations.mean()))


def check_pixels(name: str, pixels: Any) -> np.ndarray:
    """Return images as uint8 (n, channels, height, width), or raise a DataError."""
    images = np.ascontiguousarray(pixels)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or len(images) == 0:
        raise DataError(
            f"{name} has shape {images.shape}: use shape (n, height, width) or (n, channels, height, width)."
        )
    if images.dtype != np.uint8:
        raise DataError(f"{name} has dtype {images.dtype}: give integers from 0 to 255 as uint8.")
    if images.min() == images.max():
        raise DataError(f"{name} has no contrast (every pixel is {images.min()}): give images with contrast.")
    return images


class _FlowUpdates:
    """The computation of each update: bits per dim of this process's part of a batch, and the penalties."""

    def __init__(self, flow: ImageFlow, setup: Setup, images: np.ndarray, seed: int, at: Place):
        self.setup, self.images, self.seed, self.at = setup, images, seed, at
        self.dim, self.low = flow.dim, setup.precision == "bfloat16"
        self.model = nn.parallel.DistributedDataParallel(flow) if at.world > 1 else flow
        self.rows = ShuffledBatches(len(images), setup.batch, seed)

    def __call__(self, update: int) -> BatchLoss:
        setup, at = self.setup, self.at
        pixels = torch.as_tensor(self.images[self.rows(update)])
        x = dequantize(pixels, _seed(self.seed, 3, update))[at.rank :: at.world].to(at.device)
        with torch.autocast(at.device.type, torch.bfloat16, enabled=self.low):
            terms: ImageTerms = self.model(
                x, _seed(self.seed, 4, update, at.rank), kinetic=setup.kinetic > 0, jacobian=setup.jacobian > 0
            )
        loss = bits_per_dim(terms.log_density, self.dim).mean()
        objective = loss + setup.kinetic * terms.kinetic.mean() + setup.jacobian * terms.jacobian.mean()
        return BatchLoss(shared_mean(loss, at), shared_mean(objective, at), terms.evaluations)


def _seed(*numbers: int) -> int:
    """Return a seed derived from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
