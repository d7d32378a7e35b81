"""Classifiers of handwritten digits: the ODE-Net and RK-Net of a literature review, a ResNet and a plain CNN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..arguments import whole_number
from ..errors import ArgumentError, unknown_name
from ..gradients import Backprop, GradientMethod, find_gradient
from ..tableaus import Tableau
from .blocks import ConvDynamics, ResidualBlock
from .ode_block import ODEBlock

KINDS = ("odenet", "rknet", "resnet", "cnn")
SIZE = 28


class Classifier(nn.Module):
    """A network that maps normalized images (n, 1, 28, 28) of floats to logits (n, classes): a stem, a body and a head.

    The stem returns (n, channels, 6, 6) or (n, channels, 7, 7), and the body keeps that shape; the body of an ODE-Net
    is an `ODEBlock`.
    """

    def __init__(self, stem: nn.Module, body: nn.Module, head: nn.Module):
        super().__init__()
        self.stem, self.body, self.head = stem, body, head

    @property
    def evaluations(self) -> int | None:
        """Number of evaluations of the dynamics in the last forward pass; None for a network without an ODE."""
        return getattr(self.body, "evaluations", None)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or tuple(images.shape[1:]) != (1, SIZE, SIZE):
            raise ArgumentError(f"images have shape {tuple(images.shape)}: use shape (n, 1, {SIZE}, {SIZE}).")
        if not images.is_floating_point():
            raise ArgumentError(f"images are of type {images.dtype}: give normalized floats.")
        return self.head(self.body(self.stem(images)))


def classifier(
    kind: str = "odenet",
    *,
    channels: int = 64,
    classes: int = 10,
    blocks: int = 6,
    time: bool = True,
    parts: int | None = None,
    solver: str | Tableau = "Euler",
    steps: int | None = 20,
    gradient: str | GradientMethod | None = None,
    seed: int = 0,
    **control,
) -> Classifier:
    """Return a classifier of images (n, 1, 28, 28) with initial weights drawn from `seed`.

    Parameters
    ----------
    kind : {"odenet", "rknet", "resnet", "cnn"}
        In this order: the ODE-Net of a literature review; the same net with plain backpropagation through the solver;
        two residual blocks that halve the image, then `blocks` more (Chen et al. 2018); the ODE-Net's dynamics as two
        plain layers.
    channels, classes : int
        64 and 10 give 208,010 parameters ("odenet", "rknet"), 601,482 ("resnet") and 206,858 ("cnn").
    blocks : int
        Number of residual blocks of "resnet".
    time : bool
        Whether the dynamics' convolutions have the time as an additional channel.
    parts : int, optional
        Number of intervals of [0, 1] for which the dynamics' batch norms keep separate running statistics (see
        `TimeBatchNorm2d`): by default one per step, or ten with adaptive steps. 1 is plain batch normalization.
        Training itself does not depend on `parts`.
    solver, steps, gradient, **control
        Passed to the `ODEBlock` on [0, 1]; with ``steps=None`` the solver adapts its steps to `rtol` and `atol`. By
        default the gradient is `Checkpointed` for "odenet" and `Backprop` for "rknet".

    Raises
    ------
    ArgumentError
        For an unknown kind, solver or gradient, a count that is not positive, or ODE settings for a net without an ODE.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode.images import classifier
    >>> model = classifier("odenet", channels=8, steps=4)
    >>> model(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    counts = {"channels": channels, "classes": classes, "blocks": blocks}
    counts |= {name: value for name, value in (("parts", parts), ("steps", steps)) if value is not None}
    for name, value in counts.items():
        whole_number(name, value)
    method = find_gradient(gradient or ("Backprop" if kind == "rknet" else "Checkpointed"))
    if kind == "rknet" and not isinstance(method, Backprop):
        raise ArgumentError(f"gradient is {gradient!r}, but kind='rknet' always uses Backprop: write kind='odenet'.")
    if kind in ("resnet", "cnn") and (gradient is not None or control):
        name = "gradient" if gradient is not None else min(control)
        raise ArgumentError(f"{name} is given, but kind={kind!r} has no ODE: leave it out, or write kind='odenet'.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU's generator too
        if kind == "resnet":
            stem = _halving_blocks(channels)
            body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        elif kind == "cnn":
            stem, body = _stem(channels), nn.Sequential(*_plain_layer(channels), *_plain_layer(channels))
        else:
            dynamics = ConvDynamics(channels, time, parts or steps or 10)
            body = ODEBlock(dynamics, solver=solver, steps=steps, gradient=method, engine="torch", **control)
            stem = _stem(channels)
        return Classifier(stem, body, _head(channels, classes))


def _stem(channels: int) -> nn.Sequential:
    """Return the layers that reduce the side of an image: 28 -> 26 -> 13 -> 6."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 4, stride=2, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 4, stride=2, padding=1),
    )


def _halving_blocks(channels: int) -> nn.Sequential:
    """Return the layers that reduce the side of an image: 28 -> 26 -> 13 -> 7."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), ResidualBlock(channels, stride=2), ResidualBlock(channels, stride=2)
    )


def _plain_layer(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm2d(channels)]


def _head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
