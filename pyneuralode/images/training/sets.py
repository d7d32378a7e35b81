"""MNIST and CIFAR-10 as `ImageData`, for training and testing, normalized as in the papers."""

from __future__ import annotations

from pathlib import Path

from ...datasets.cifar10 import read_cifar10
from ...datasets.mnist import mnist_images, mnist_labels
from .data import ImageData

MNIST = {"mean": (0.1307,), "deviation": (0.3081,)}
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "deviation": (0.2470, 0.2435, 0.2616)}


def mnist_sets(folder: str | Path | None = None) -> tuple[ImageData, ImageData]:
    """Return MNIST's training and test images; arguments and errors are those of `datasets.mnist_images`."""
    train = ImageData(mnist_images("train", folder), mnist_labels("train", folder), **MNIST)
    return train, train.like(mnist_images("test", folder), mnist_labels("test", folder))


def cifar10_sets(folder: str | Path | None = None, reduced: bool = False) -> tuple[ImageData, ImageData]:
    """Return CIFAR-10's training and test images; arguments and errors are those of `datasets.read_cifar10`."""
    train = ImageData(*read_cifar10("train", folder, reduced), **CIFAR10)
    return train, train.like(*read_cifar10("test", folder, reduced))
