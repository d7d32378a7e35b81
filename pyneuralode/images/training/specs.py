"""Descriptions of classifiers and of their training: plain values that can be saved and sent to other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ...errors import unknown_name
from ...model_files import arrays_of, load_arrays, write_model_file
from ..anodev2 import image_model
from ..odenet import classifier
from .data import ImageData
from .loop import train_classifier
from .recipes import ClassifierRecipe
from .result import ClassifierFit
from .sets import cifar10_sets, mnist_sets

FAMILIES = {"odenet": classifier, "anodev2": image_model}


@dataclass(frozen=True)
class ClassifierSpec:
    """Description of a classifier, from which it can be built.

    Attributes
    ----------
    family : {"odenet", "anodev2"}
    options : mapping
        Arguments of `images.odenet.classifier` or of `images.anodev2.image_model`, except the seed.
    """

    family: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise unknown_name("family", self.family, FAMILIES)

    def build(self, seed: int = 0) -> nn.Module:
        """Return a new classifier, with initial parameters drawn from the seed."""
        return FAMILIES[self.family](**self.options, seed=seed)

    def sets(self, folder: str | Path | None = None, reduced: bool = False) -> tuple[ImageData, ImageData]:
        """Return the training and test images: MNIST or CIFAR-10."""
        return mnist_sets(folder) if self.family == "odenet" else cifar10_sets(folder, reduced)

    def save(self, model: nn.Module, path: str | Path) -> None:
        """Write a model built from this description to one safetensors file, which `pyneuralode.load` reads."""
        write_model_file(
            path, "image classifier", {"family": self.family, "options": dict(self.options)}, arrays_of(model)
        )

    @classmethod
    def from_saved(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> nn.Module:
        """Return the classifier stored in a file that `save` wrote; see `pyneuralode.load`."""
        model = cls(**description).build()
        load_arrays(model, arrays)
        return model


@dataclass(frozen=True)
class ClassifierTraining:
    """Description of a training run, which can be sent to other processes: ``executor.map(training.run, seeds)``.

    Attributes
    ----------
    spec : ClassifierSpec
    recipe : ClassifierRecipe
    folder : path, optional
        Folder of the images; see `mnist_sets` and `cifar10_sets`.
    reduced : bool
        Whether to use a subset of CIFAR-10 with 10,000 training and 1,000 test images.
    images, tests : int, optional
        Number of training and of test images; by default all.
    """

    spec: ClassifierSpec
    recipe: ClassifierRecipe
    folder: Path | None = None
    reduced: bool = False
    images: int | None = None
    tests: int | None = None

    def sets(self) -> tuple[ImageData, ImageData]:
        """Return the training and test images."""
        train, test = self.spec.sets(self.folder, self.reduced)
        return train.take(self.images), test.take(self.tests)

    @property
    def updates(self) -> int:
        """Total number of updates: the recipe's epochs times the updates per epoch of these images."""
        return self.recipe.epochs * (len(self.sets()[0]) // self.recipe.batch)

    def run(self, seed: int = 0, **options: Any) -> ClassifierFit:
        """Train a new model, with all randomness drawn from the seed; the options are those of `train_classifier`."""
        return train_classifier(self.spec.build(seed), *self.sets(), self.recipe, seed=seed, **options)
