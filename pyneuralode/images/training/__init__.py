"""Training of image classifiers: data, recipes and the training loop."""

from .data import Augmentation, ImageData
from .loop import train_classifier
from .measure import measure
from .recipes import RECIPES, ClassifierRecipe
from .result import ClassifierFit, Curves
from .sets import cifar10_sets, mnist_sets

__all__ = [
    "RECIPES",
    "Augmentation",
    "ClassifierFit",
    "ClassifierRecipe",
    "Curves",
    "ImageData",
    "cifar10_sets",
    "measure",
    "mnist_sets",
    "train_classifier",
]
