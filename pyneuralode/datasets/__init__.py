"""Data sets: small tables included in the package, MNIST and CIFAR-10 from their original files, and densities."""

from .cifar10 import download_cifar10, read_cifar10
from .densities import (
    DENSITIES,
    Checkerboard,
    CurveDensity,
    Density,
    ImageDensity,
    Pinwheel,
    circles,
    flag,
    moons,
    read_image,
    two_spirals,
)
from .mnist import download_mnist, mnist_images, mnist_labels
from .sweden import sweden

__all__ = [
    "DENSITIES",
    "Checkerboard",
    "CurveDensity",
    "Density",
    "ImageDensity",
    "Pinwheel",
    "circles",
    "download_cifar10",
    "download_mnist",
    "flag",
    "mnist_images",
    "mnist_labels",
    "moons",
    "read_cifar10",
    "read_image",
    "sweden",
    "two_spirals",
]
