"""Training runs for ANODEV2's tables; a run used by several tables is computed only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import DataError
from ..images.training.data import ImageData
from ..images.training.loop import train_classifier
from ..images.training.recipes import RECIPES, ClassifierRecipe
from ..images.training.sets import cifar10_sets
from ..images.training.specs import ClassifierSpec
from .base import Context
from .parallel import Job, OneBar, completed

NETS = {"alexnet": "AlexNet", "resnet4": "ResNet-4", "resnet10": "ResNet-10"}
IMAGES, TESTS = 10_000, 1_000


@dataclass(frozen=True)
class Cell:
    """A variant of a net; `steps` is the number of steps of its ODEs (Nt in the paper), None for the baseline."""

    net: str
    variant: str
    steps: int | None = None

    @property
    def spec(self) -> ClassifierSpec:
        options = {"net": self.net, "variant": self.variant}
        return ClassifierSpec("anodev2", options | ({} if self.steps is None else {"steps": self.steps}))


@dataclass(frozen=True)
class Plan:
    """Settings for training the cells of a net: number of seeds, recipe, and numbers of training and test images."""

    seeds: int
    recipe: ClassifierRecipe
    images: int = IMAGES
    tests: int = TESTS

    @property
    def updates(self) -> int:
        return self.recipe.epochs * (self.images // self.recipe.batch)


@dataclass(frozen=True)
class TrainedCell:
    """The results of training a cell with one seed.

    Attributes
    ----------
    accuracy : float
        Fraction of the test images that are classified correctly after training.
    curve, training : tuple of float
        Test accuracy after each epoch, and accuracy on the training images during each epoch.
    seconds : float
    failure : str
        Why training stopped early (the accuracy is then that of the best parameters so far), or "" if it did not.
    """

    accuracy: float
    curve: tuple[float, ...]
    training: tuple[float, ...]
    seconds: float
    failure: str = ""


# Cells that this process has already trained; the tables computed in one run share them.
_TRAINED: dict[tuple[Cell, Plan, int], TrainedCell] = {}


def plans(context: Context) -> dict[str, Plan]:
    """Return the plan of each net that is trained at the context's scale."""
    short = RECIPES["short"]
    if context.quick:
        return {"resnet4": Plan(1, short.for_epochs(2), 2_000, 500)}
    once = Plan(1, short.for_epochs(3))
    return {"resnet4": Plan(3, short), "resnet10": once, "alexnet": once}


def train_cells(context: Context, cells: Sequence[Cell]) -> dict[Cell, list[TrainedCell]]:
    """Train every seed of each cell that this process has not trained yet; return the results by cell."""
    wanted = []
    for cell in cells:
        plan = plans(context)[cell.net]
        wanted += [(cell, plan, context.seed + k) for k in range(plan.seeds)]
    jobs = {}
    for cell, plan, seed in wanted:
        if (cell, plan, seed) not in _TRAINED:
            name, updates = f"{cell.net}, {cell.variant}, seed {seed}", plan.updates
            jobs[cell, plan, seed] = Job(name, train_cell, (cell, plan, seed), updates, _cost(cell, plan))
    _TRAINED.update(context.run_jobs(jobs))
    return {cell: [_TRAINED[key] for key in wanted if key[0] == cell] for cell in cells}


def train_cell(cell: Cell, plan: Plan, seed: int, advance: Callable[..., None]) -> TrainedCell:
    """Train one seed of a cell; `advance(n, note)` is called after each update."""
    train, tests = cifar10_at_hand()
    model, sets = cell.spec.build(seed), (train.take(plan.images), tests.take(plan.tests))
    found = train_classifier(model, *sets, plan.recipe, seed=seed, progress=OneBar(advance))
    fit, curves = completed(found.fit), found.curves
    failure = "" if fit.finished else fit.message
    return TrainedCell(found.accuracy, tuple(curves.test_accuracy), tuple(curves.train_accuracy), fit.seconds, failure)


def cifar10_at_hand() -> tuple[ImageData, ImageData]:
    """Return CIFAR-10's training and test images: the reduced set, or the full set if the reduced one is missing.

    Callers use only the first images of the training set and of the test set.
    """
    try:
        return cifar10_sets(reduced=True)
    except DataError:
        return cifar10_sets()


def _cost(cell: Cell, plan: Plan) -> float:
    widths = {"resnet4": 1.0, "resnet10": 2.0, "alexnet": 2.0}
    return widths[cell.net] * (1 + (cell.steps or 0)) * plan.recipe.epochs
