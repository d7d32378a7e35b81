"""Data sets: small tables that the package carries, MNIST from its original files, and densities in the plane."""

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
    "download_mnist",
    "flag",
    "mnist_images",
    "mnist_labels",
    "moons",
    "read_image",
    "sweden",
    "two_spirals",
]
