"""The networks of the report `odenet`: their training, and the memory used by a gradient of their bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..images.blocks import ConvDynamics, ResidualBlock
from ..images.ode_block import ODEBlock
from ..images.training import train_classifier
from ..images.training.specs import ClassifierTraining
from ..progress import Progress
from .gradient_memory import Peaks, memory_growth, peak_memory
from .parallel import OneBar

CHANNELS, SIDE, BATCH = 64, 6, 16
MISREAD = 40


@dataclass(frozen=True)
class DigitNet:
    """A network to train: arguments of `classifier`, (images, epochs) at each scale, and changes to the recipe."""

    name: str
    options: Mapping[str, Any]
    full: tuple[int, int] = (60_000, 2)
    quick: tuple[int, int] = (4_000, 1)
    gradient: str = "Backprop"
    changes: Mapping[str, Any] = field(default_factory=dict)


MAIN = "ODE-Net, Euler"
ADAPTIVE = "ODE-Net, adaptive"
_ADAPTIVE = {
    "kind": "odenet",
    "solver": "DP5",
    "steps": None,
    "gradient": "BacksolveAdjoint",
    "rtol": 1e-3,
    "atol": 1e-3,
}
# The step size control would mistake rounding to bfloat16 for a discretization error.
_SINGLE = {"precision": "float32"}
NETS = (
    DigitNet(MAIN, {"kind": "odenet"}, gradient="Checkpointed"),
    DigitNet(ADAPTIVE, _ADAPTIVE, full=(30_000, 1), quick=(1_500, 1), gradient="BacksolveAdjoint", changes=_SINGLE),
    DigitNet("RK-Net, RK4", {"kind": "rknet", "solver": "RK4", "steps": 5}),
    DigitNet("ResNet, 6 blocks", {"kind": "resnet"}),
    DigitNet("plain CNN", {"kind": "cnn"}),
)


@dataclass
class TrainedDigitNet:
    """Results of training one network; `misread` contains indices of test images, `answers` their predicted labels."""

    error: float
    parameters: int
    losses: np.ndarray
    evaluations: np.ndarray
    images: int
    epochs: int
    batch: int
    seconds: float
    misread: np.ndarray
    answers: np.ndarray


def train(training: ClassifierTraining, seed: int, advance: Callable[..., None]) -> TrainedDigitNet:
    """Train one network; `advance(n, note)` is called after each update."""
    images, tests = training.sets()
    model, recipe = training.spec.build(seed), training.recipe
    fit = train_classifier(model, images, tests, recipe, seed=seed, progress=OneBar(advance))
    if fit.accuracy is None:
        raise KeyboardInterrupt
    wrong = fit.misread(tests.labels)[:MISREAD].numpy()
    return TrainedDigitNet(
        error=100 * (1 - fit.accuracy),
        parameters=sum(p.numel() for p in fit.model.parameters()),
        losses=fit.fit.losses,
        evaluations=fit.fit.evaluations,
        images=len(images),
        epochs=recipe.epochs,
        batch=recipe.batch,
        seconds=fit.fit.seconds,
        misread=wrong,
        answers=fit.logits.argmax(1).numpy()[wrong],
    )


def memory(depths: list[int], progress: Progress) -> Peaks:
    """Return the peak memory (bytes) of one gradient of the body at each depth, by network."""

    def pass_through(body: Callable[[int], nn.Module], depth: int) -> Callable[[], Tensor]:
        x = torch.ones(BATCH, CHANNELS, SIDE, SIDE, requires_grad=True)
        return lambda: body(depth)(x)

    def ode(gradient: str, steps: int) -> nn.Module:
        return ODEBlock(ConvDynamics(CHANNELS), solver="Euler", steps=steps, gradient=gradient, engine="torch")

    bodies = {
        "ODE-Net, BacksolveAdjoint": partial(ode, "BacksolveAdjoint"),
        "ODE-Net, Checkpointed": partial(ode, "Checkpointed"),
        "RK-Net, Backprop": partial(ode, "Backprop"),
        "ResNet": lambda blocks: nn.Sequential(*(ResidualBlock(CHANNELS) for _ in range(blocks))),
    }
    task = progress.task("memory against depth", len(bodies) * len(depths))
    return peak_memory({name: partial(pass_through, body) for name, body in bodies.items()}, depths, task)


def growth(depths: list[int], peaks: Peaks) -> dict[str, float]:
    """Return the increase in memory per additional step or block, in units of one state of the batch, by network."""
    return memory_growth(depths, peaks, state=4 * BATCH * CHANNELS * SIDE * SIDE)
