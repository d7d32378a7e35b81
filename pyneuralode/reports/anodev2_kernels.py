"""Report `anodev2-kernels`: how convolution kernels evolve over the depth of a network, synthetic and trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..images.anodev2 import image_model
from ..images.coupled import CoupledODE
from ..images.evolution import ReactionDiffusionAdvection
from ..images.training import RECIPES, ClassifierRecipe, train_classifier
from ..plotting.anodev2 import coupling, kernels_in_time
from .anodev2_cells import NETS, Plan, cifar10_at_hand
from .base import Context, Findings, Row, Table
from .parallel import Job, OneBar, completed

EPOCHS = {"resnet4": 4, "resnet10": 2, "alexnet": 2}
WEIGHT_STEPS = 5
SHOWN = 4
GRID, TIMES = 21, (0.0, 0.25, 0.5, 0.75, 1.0)
# The terms that act on the synthetic kernel, with coefficients in units of pixels and time.
SYNTHETIC = {
    "reaction\n$\\rho = -1$": {"rho": -1.0},
    "diffusion\n$\\tau = 4$": {"tau": 4.0},
    "advection\n$\\upsilon = (-4, -4)$": {"upsilon": -4.0},
    "all three": {"rho": -1.0, "tau": 4.0, "upsilon": -4.0},
}


@dataclass(frozen=True)
class EvolvedKernels:
    """Kernels (T, out, in, height, width) of one convolution of a net, and the coefficients of their evolution."""

    layer: str
    path: np.ndarray
    coefficients: dict[str, np.ndarray]

    @property
    def change(self) -> np.ndarray:
        """The change of each kernel (out, in) from t = 0 to t = 1, relative to the kernel's norm at t = 0."""
        kernels = self.path.reshape(*self.path.shape[:3], -1)
        return np.linalg.norm(kernels[-1] - kernels[0], axis=-1) / np.linalg.norm(kernels[0], axis=-1)


@dataclass(frozen=True)
class TrainedNet:
    """The test accuracy and the evolving kernels of a trained net."""

    accuracy: float
    evolved: list[EvolvedKernels]


def run(context: Context) -> Findings:
    """Compute the report. Quick scale: 256 images, one epoch. Full scale: the whole reduced set, two to four epochs."""
    short = RECIPES["short"]
    plans = {
        net: Plan(1, short.for_epochs(1), 256) if context.quick else Plan(1, short.for_epochs(epochs))
        for net, epochs in EPOCHS.items()
    }
    jobs = {}
    for net, plan in plans.items():
        arguments = (net, plan.recipe, plan.images, context.seed)
        jobs[net] = Job(f"{NETS[net]}, configuration one", train, arguments, plan.updates)
    trained = context.run_jobs(jobs)
    configurations = [
        ("Configuration one: the same steps for weights and activations", 5, 5),
        ("Configuration two: ten steps of the weights, two of the activations", 10, 2),
    ]
    figures = {
        "coupling": coupling(configurations),
        "synthetic": kernels_in_time(TIMES, [(words, synthetic(**terms)) for words, terms in SYNTHETIC.items()]),
    }
    times = np.linspace(0, 1, WEIGHT_STEPS + 1)
    lengths = ", ".join(
        f"{plan.recipe.epochs} epochs of {plan.images:,} images for {NETS[net]}" for net, plan in plans.items()
    )
    for net, found in trained.items():
        figures[net] = kernels_in_time(times, _panels(found), side=1.1, change=True)
    return Findings(
        rows=_rows(trained),
        figures=figures,
        tables=[_table(trained)],
        captions={
            "coupling": "The weights that act on each step of the activations (V Fig. 1), with Euler's method.",
            "synthetic": "A Gaussian kernel evolved by each term of q separately and by all terms together, in closed "
            f"form on a periodic grid of {GRID} x {GRID}.",
            "resnet4": "The kernels that change most in ResNet-4's block, shown over the depth of the block.",
            "resnet10": "The kernels that change most in ResNet-10's two blocks with evolving weights.",
            "alexnet": "AlexNet's 5x5 convolution with evolving weights: its first kernel, and the kernels that "
            "change most.",
        },
        notes=[
            "q is the paper's map with six coefficients per output channel (three for diffusion, two for advection, "
            "one for reaction) and tanh, in configuration one with five steps. The coefficients start at 0, so all of "
            "the evolution shown was learned.",
            f"The training runs are short: {lengths}. The paper's runs took 350 epochs of 50,000 images. The kernels "
            "show that weights evolve, and how, but not what full training would give.",
            "A batch norm follows each convolution and undoes any scaling of its output, so the reaction term does not "
            "change what the network computes, and rho stays near 0.",
            "Each row has a separate color scale, white at zero; the change from t = 0 to 1 has its own scale. o and i "
            "are the kernel's output and input channels. Figs. 3 to 6 of the paper are similar.",
        ],
    )


def synthetic(**coefficients: float) -> np.ndarray:
    """Return a Gaussian kernel at `TIMES` under the given coefficients, (T, GRID, GRID)."""
    q = ReactionDiffusionAdvection((1, 1, GRID, GRID), **coefficients)
    x = torch.arange(GRID) - GRID // 2
    wave = torch.exp(-0.5 * (x / 2.0) ** 2)
    with torch.no_grad():
        path = q.trajectory((wave[:, None] * wave)[None, None], TIMES)
    return torch.stack(path)[:, 0, 0].numpy()


def train(net: str, recipe: ClassifierRecipe, images: int, seed: int, advance: Callable[..., None]) -> TrainedNet:
    """Train a net in configuration one; `advance(n, note)` is called after each update."""
    model = image_model(net, "anodev2_one", seed=seed)
    train_set, tests = cifar10_at_hand()
    found = train_classifier(model, train_set.take(images), tests, recipe, seed=seed, progress=OneBar(advance))
    completed(found.fit)
    return TrainedNet(found.accuracy, evolved(model))


def evolved(model: nn.Module) -> list[EvolvedKernels]:
    """Return the kernels of every convolution with evolving weights in a network."""
    found = []
    blocks = [module for module in model.modules() if isinstance(module, CoupledODE)]
    for number, block in enumerate(blocks, 1):
        for (name, path), q in zip(block.trajectory().items(), block.evolutions):
            layer = int(name.split(".")[1]) + 1
            coefficients = {key: value.detach().numpy().copy() for key, value in q.named_parameters()}
            kernels = torch.stack(path).detach().numpy()
            found.append(EvolvedKernels(f"block {number}, layer {layer}", kernels, coefficients))
    return found


def _panels(net: TrainedNet) -> list[tuple[str, np.ndarray]]:
    """Return rows for `kernels_in_time`: the kernels that change most.

    If only one layer evolves, its first kernel is included too.
    """
    each = max(1, SHOWN // len(net.evolved))
    rows = []
    for one in net.evolved:
        # Output channels, sorted by their largest change.
        outputs = [int(out) for out in np.argsort(-one.change.max(axis=1))]
        places = [(out, int(one.change[out].argmax())) for out in outputs]
        if len(net.evolved) == 1:
            places.insert(0, (0, 0))
        for out, channel in places[:each]:
            rows.append((f"{one.layer}\no {out + 1}, i {channel + 1}", one.path[:, out, channel]))
    return rows


def _rows(trained: dict[str, TrainedNet]) -> list[Row]:
    rows = []
    for net, found in trained.items():
        change = float(np.median(np.concatenate([one.change.ravel() for one in found.evolved])))
        rows.append(Row(f"{NETS[net]}: median change of the kernels over the depth", change, better="higher"))
        rows.append(Row(f"{NETS[net]}: test accuracy", 100 * found.accuracy, unit="%", better="higher"))
    return rows


def _table(trained: dict[str, TrainedNet]) -> Table:
    names, rows = ("tau", "upsilon", "rho"), []
    for net, found in trained.items():
        for one in found.evolved:
            largest = [float(np.abs(one.coefficients[name]).max()) for name in names]
            rows.append([NETS[net], one.layer, *largest, float(np.median(one.change)), float(one.change.max())])
    return Table(
        "Learned coefficients (largest values), and change of the kernels relative to their norm",
        ["net", "convolution", *names, "median change", "largest change"],
        rows,
    )
