"""The trainings behind ANODEV2's tables: nets, variants and seeds, each trained once however many tables show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import DataError
from ..images.training.loop import train_classifier
from ..images.training.recipes import RECIPES, ClassifierRecipe
from ..images.training.sets import cifar10_sets
from ..images.training.specs import ClassifierSpec
from .base import Context
from .parallel import Job, OneBar, side_by_side

IMAGES, TESTS = 10_000, 1_000


@dataclass(frozen=True)
class Cell:
    """A net in a variant with Nt steps; the baseline has none."""

    net: str
    variant: str
    steps: int | None = None

    @property
    def spec(self) -> ClassifierSpec:
        options = {"net": self.net, "variant": self.variant}
        return ClassifierSpec("anodev2", options | ({} if self.steps is None else {"steps": self.steps}))


@dataclass(frozen=True)
class Plan:
    """How the cells of a net are trained: with how many seeds, by which recipe, on how many images."""

    seeds: int
    recipe: ClassifierRecipe
    images: int = IMAGES
    tests: int = TESTS


@dataclass(frozen=True)
class Trained:
    """One seed of a cell.

    Attributes
    ----------
    accuracy : float
        Part of the test images that are read right in the end.
    curve, training : tuple of float
        The same after each epoch; and of the images trained on, while it lasted.
    seconds : float
    failure : str
        Why a training stopped early; its accuracy is then that of the best parameters so far.
    """

    accuracy: float
    curve: tuple[float, ...]
    training: tuple[float, ...]
    seconds: float
    failure: str = ""


# What this process has trained, for the tables that it is asked for together.
_TRAINED: dict[tuple[Cell, Plan, int], Trained] = {}


def plans(context: Context) -> dict[str, Plan]:
    """Return the plan of each net that is trained at the context's scale."""
    if context.quick:
        return {"resnet4": Plan(1, RECIPES["short"].for_epochs(2), 2_000, 500)}
    short = RECIPES["short"]
    return {
        "resnet4": Plan(3, short),
        "resnet10": Plan(1, short.for_epochs(3)),
        "alexnet": Plan(1, short.for_epochs(3)),
    }


def train_cells(context: Context, cells: Sequence[Cell]) -> dict[Cell, list[Trained]]:
    """Return what each seed of each cell came to, side by side in processes or on the context's executor."""
    wanted = []
    for cell in cells:
        plan = plans(context)[cell.net]
        wanted += [(cell, plan, context.seed + k) for k in range(plan.seeds)]
    # The longest first, so that no worker is left alone with one at the end.
    missing = sorted((key for key in wanted if key not in _TRAINED), key=_cost, reverse=True)
    jobs = [
        Job(
            f"{cell.net}, {cell.variant}, seed {seed}",
            train_cell,
            (cell, plan, seed),
            plan.recipe.epochs * (plan.images // plan.recipe.batch),
        )
        for cell, plan, seed in missing
    ]
    if jobs:
        found = side_by_side(jobs, context.workers, context.progress, context.executor)
        _TRAINED.update(zip(missing, found))
    return {cell: [_TRAINED[key] for key in wanted if key[0] == cell] for cell in cells}


def train_cell(cell: Cell, plan: Plan, seed: int, advance: Callable[..., None]) -> Trained:
    """Train one seed of a cell; `advance(n, note)` is told of every update."""
    train, tests = _sets()
    found = train_classifier(
        cell.spec.build(seed),
        train.take(plan.images),
        tests.take(plan.tests),
        plan.recipe,
        seed=seed,
        progress=OneBar(advance),
    )
    if found.fit.interrupted:
        raise KeyboardInterrupt
    return Trained(
        found.accuracy,
        tuple(found.curves.test_accuracy),
        tuple(found.curves.train_accuracy),
        found.fit.seconds,
        "" if found.fit.finished else found.fit.message,
    )


def _sets():
    """Return the reduced set; where it is not at hand, the whole one, whose first images are taken."""
    try:
        return cifar10_sets(reduced=True)
    except DataError:
        return cifar10_sets()


def _cost(key: tuple[Cell, Plan, int]) -> float:
    cell, plan, _ = key
    widths = {"resnet4": 1.0, "resnet10": 2.0, "alexnet": 2.0}
    return widths[cell.net] * (1 + (cell.steps or 0)) * plan.recipe.epochs
