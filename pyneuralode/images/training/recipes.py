"""Recipes for training a classifier: published ones, and shorter ones for two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...arguments import real_number, whole_number
from ...errors import ArgumentError, unknown_name
from ...fitting import SGD, Adam
from ...fitting.optimizers import Optimizer
from ...fitting.schedules import OneCycle, StepDecay
from ...fitting.stochastic import Schedule
from .data import Augmentation

PRECISIONS = ("float32", "bfloat16")
SCHEDULES = ("one-cycle", "steps")


@dataclass(frozen=True)
class ClassifierRecipe:
    """All settings of a classifier's training.

    Attributes
    ----------
    epochs, batch : int
        Number of passes over the images, and number of images per update, summed over all processes.
    optimizer : Optimizer
    schedule : {"one-cycle", "steps"}, optional
        Schedule of the learning rate: one cycle up to the optimizer's rate (Smith and Topin 2019), or a tenfold drop
        after each of the epochs in `drops`. By default, the optimizer's own schedule.
    drops : tuple of int
        Epochs after which the learning rate drops.
    augmentation : Augmentation
    precision : {"float32", "bfloat16"}
        Precision of convolutions and matrix products during training (torch.autocast); tests always use float32.
    channels_last : bool
        Store the channels of a pixel next to each other in memory: the same results, often faster.
    smoothing : float
        Fraction of the labels' probability that is spread evenly over all classes.
    about : str
        Purpose of the recipe.
    """

    epochs: int
    batch: int
    optimizer: Optimizer = Adam(1e-3)
    schedule: str | None = None
    drops: tuple[int, ...] = ()
    augmentation: Augmentation = Augmentation()
    precision: str = "float32"
    channels_last: bool = False
    smoothing: float = 0.0
    about: str = ""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        for name in ("epochs", "batch"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if not 0 <= real_number("smoothing", self.smoothing, "give a number >= 0 and < 1") < 1:
            raise ArgumentError(f"smoothing is {self.smoothing}: give a number >= 0 and < 1.")

    def for_epochs(self, epochs: int) -> ClassifierRecipe:
        """Return the recipe for another number of epochs, with `drops` rescaled in proportion."""
        drops = tuple(round(drop * epochs / self.epochs) for drop in self.drops)
        return replace(self, epochs=epochs, drops=drops)

    def rate(self, each_epoch: int) -> Schedule:
        """Return the learning-rate schedule for `each_epoch` updates per epoch; None means the optimizer's own."""
        if self.schedule == "one-cycle":
            return OneCycle(self.optimizer.lr, self.epochs * each_epoch)
        if self.schedule == "steps":
            return StepDecay(self.optimizer.lr, tuple(drop * each_epoch for drop in self.drops))
        return None


RECIPES: dict[str, ClassifierRecipe] = {
    "review": ClassifierRecipe(5, 32, Adam(1e-3), about="the recipe of a literature review for its ODE-Net on MNIST"),
    "digits": ClassifierRecipe(
        2,
        64,
        Adam(2e-3),
        schedule="one-cycle",
        augmentation=Augmentation(crop=2),
        precision="bfloat16",
        channels_last=True,
        about="MNIST in a quarter of an hour on two cores",
    ),
    "paper": ClassifierRecipe(
        350,
        256,
        SGD(0.1, momentum=0.9, weight_decay=5e-4),
        schedule="steps",
        drops=(150, 250),
        augmentation=Augmentation(crop=4, flip=True),
        about="ANODEV2's recipe on CIFAR-10; for a GPU",
    ),
    "short": ClassifierRecipe(
        15,
        64,
        SGD(0.05, momentum=0.9, weight_decay=5e-4),
        schedule="one-cycle",
        augmentation=Augmentation(flip=True),
        precision="bfloat16",
        channels_last=True,
        about="ANODEV2's nets on two cores",
    ),
}
