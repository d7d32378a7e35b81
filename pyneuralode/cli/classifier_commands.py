"""The commands `pyneuralode train odenet` and `pyneuralode train anodev2`: their options and output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from .error_reporting import end_with, one_sentence
from .options import ClassifierOptions, DownloadMNIST, Out, replace_given, with_options


@one_sentence()
@with_options
def odenet(
    out: Out,
    kind: Annotated[str, Option(help="odenet, rknet, resnet or cnn.")] = "odenet",
    solver: Annotated[str, Option(help="Solver of the ODE block, by its SciML name.")] = "Euler",
    steps: Annotated[int, Option(help="Steps of the ODE block.")] = 20,
    recipe: Annotated[
        str, Option(help="review (five epochs) or digits (two epochs, a few minutes on two cores).")
    ] = "review",
    download: DownloadMNIST = False,
    *,
    options: ClassifierOptions,
) -> None:
    """Train an ODE-Net, or a network for comparison, on MNIST; Ctrl-C keeps the best model so far.

    On several GPUs: torchrun --nproc-per-node 4 --no-python pyneuralode train odenet ...
    """
    model: dict[str, Any] = {"kind": kind}
    if kind in ("odenet", "rknet"):
        model |= {"solver": solver, "steps": steps}
    _train("odenet", model, recipe, out, download, options)


@one_sentence()
@with_options
def anodev2(
    out: Out,
    net: Annotated[str, Option(help="alexnet, resnet4 or resnet10.")] = "resnet4",
    variant: Annotated[str, Option(help="baseline, neural_ode, anode, anodev2_one or anodev2_two.")] = "anodev2_one",
    steps: Annotated[
        int | None, Option(help="Steps of each ODE block (Nt in the paper).", show_default="the paper's")
    ] = None,
    recipe: Annotated[
        str, Option(help="paper (350 epochs, for a GPU) or short (a few minutes on two cores).")
    ] = "paper",
    reduced: Annotated[
        bool, Option("--reduced", help="Use 10,000 training and 1,000 test images, from train10k.npz and test1k.npz.")
    ] = False,
    download: Annotated[bool, Option("--download", help="Download CIFAR-10 first (170 MB).")] = False,
    *,
    options: ClassifierOptions,
) -> None:
    """Train a network of ANODEV2 on CIFAR-10; Ctrl-C keeps the best model so far.

    On several GPUs: torchrun --nproc-per-node 4 --no-python pyneuralode train anodev2 ...
    """
    from ..errors import ArgumentError

    model: dict[str, Any] = {"net": net, "variant": variant}
    if variant != "baseline":
        model["steps"] = steps if steps is not None else 2 if variant == "anodev2_two" else 5
    elif steps is not None:
        raise ArgumentError(f"steps is {steps}, but the baseline has no ODE blocks: leave steps out.")
    _train("anodev2", model, recipe, out, download, options, reduced)


def _train(
    family: str, model: dict, recipe: str, out: Path, download: bool, options: ClassifierOptions, reduced: bool = False
) -> None:
    """Train one model (jointly with the other processes of torchrun, if any), or one model for each seed."""
    from ..datasets.cifar10 import download_cifar10
    from ..datasets.mnist import download_mnist
    from ..errors import ArgumentError, unknown_name
    from ..images.training.recipes import RECIPES
    from ..images.training.specs import ClassifierSpec, ClassifierTraining
    from ..progress import RichProgress
    from .classifier_runs import ClassifierRun
    from .parse import parse_numbers

    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    chosen = RECIPES[recipe] if options.epochs is None else RECIPES[recipe].for_epochs(options.epochs)
    chosen = replace_given(chosen, batch=options.batch, precision=options.precision)
    spec = ClassifierSpec(family, model)
    spec.build()  # reports mistakes before any data are read
    training = ClassifierTraining(spec, chosen, options.data, reduced, options.images, options.tests)
    seeds = None if options.seeds is None else parse_numbers("seeds", options.seeds, int, "0,1,2,3,4")
    if seeds is not None and (len(set(seeds)) < len(seeds) or min(seeds) < 0):
        raise ArgumentError(f"seeds is {options.seeds!r}: give distinct nonnegative integers, such as 0,1,2,3,4.")
    run = ClassifierRun(out, training, recipe, options.resume, options.device)
    run.check_outputs(seeds)
    with RichProgress() as progress:
        if download:
            fetch = download_mnist if family == "odenet" else download_cifar10
            fetch(training.folder, progress)
        training.sets()  # reports missing files before a process starts
        if seeds is None:
            found = run.train(options.seed, progress)
        else:
            found = run.train_seeds(seeds, options.workers, progress)
    if found is not None:  # None in all but the first process of torchrun
        end_with(found.sentences, found.paths, found.finished, found.interrupted)
