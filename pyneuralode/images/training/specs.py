"""Classifiers by description: how one is built, saved and read again, and a whole training that can be sent away."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ...errors import ModelFileError, unknown_name
from ...models import FORMAT, read_model_file
from .data import ImageData
from .loop import train_classifier
from .recipes import Recipe
from .result import ClassifierFit
from .sets import cifar10_sets, mnist_sets

FAMILIES = ("odenet", "anodev2")
_KIND = "classifier"


@dataclass(frozen=True)
class ModelSpec:
    """A classifier by description.

    Attributes
    ----------
    family : {"odenet", "anodev2"}
    options : mapping
        Arguments of `images.odenet.classifier` or of `images.anodev2.image_model`, all but the seed.
    """

    family: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise unknown_name("family", self.family, FAMILIES)

    def build(self, seed: int = 0) -> nn.Module:
        """Return the classifier with initial parameters that follow from the seed."""
        if self.family == "odenet":
            from ..odenet import classifier

            return classifier(**self.options, seed=seed)
        from ..anodev2 import image_model

        return image_model(**self.options, seed=seed)

    def sets(self, folder: str | Path | None = None, reduced: bool = False) -> tuple[ImageData, ImageData]:
        """Return the images to train on and to test: MNIST, or CIFAR-10."""
        return mnist_sets(folder) if self.family == "odenet" else cifar10_sets(folder, reduced)

    def save(self, model: nn.Module, path: str | Path) -> None:
        """Write a model of this description to one safetensors file, with the description in its header."""
        header = {"format": FORMAT, "model": _KIND, "family": self.family, "options": dict(self.options)}
        arrays = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(arrays, str(path), {"pyneuralode": json.dumps(header)})


def load_classifier(path: str | Path) -> nn.Module:
    """Read a classifier that `ModelSpec.save` wrote, such as that of `pyneuralode train odenet`.

    Raises ModelFileError where the file is absent, damaged, of a newer version, or no classifier.
    """
    path = Path(path)
    arrays, header = read_model_file(path)
    if header.get("model") != _KIND:
        raise ModelFileError(f"{path} holds no classifier: give a model that `pyneuralode train` wrote.")
    try:
        model = ModelSpec(header["family"], header["options"]).build()
        model.load_state_dict({name: torch.as_tensor(value) for name, value in arrays.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path} has a damaged description ({error}): train the model again.") from None
    return model


@dataclass(frozen=True)
class Training:
    """A whole training by description, small enough to be sent to another process: ``executor.map(run, seeds)``.

    Attributes
    ----------
    spec : ModelSpec
    recipe : Recipe
    folder : path, optional
        Of the images; see `mnist_sets` and `cifar10_sets`.
    reduced : bool
        Whether CIFAR-10 is the set of 10,000 and 1,000 images.
    images, tests : int, optional
        How many images are trained on and tested; all unless given.
    """

    spec: ModelSpec
    recipe: Recipe
    folder: Path | None = None
    reduced: bool = False
    images: int | None = None
    tests: int | None = None

    def sets(self) -> tuple[ImageData, ImageData]:
        """Return the images to train on and to test."""
        train, test = self.spec.sets(self.folder, self.reduced)
        return train.take(self.images), test.take(self.tests)

    @property
    def updates(self) -> int:
        """How many updates the recipe takes on these images."""
        return self.recipe.epochs * (len(self.sets()[0]) // self.recipe.batch)

    def run(self, seed: int = 0, **options: Any) -> ClassifierFit:
        """Train a new model, whose parameters and batches follow from the seed; options as `train_classifier`."""
        return train_classifier(self.spec.build(seed), *self.sets(), self.recipe, seed=seed, **options)
