"""The commands `pyneuralode train odenet` and `train anodev2`: their options, and what they print."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from .error_reporting import one_sentence
from .train_options import Batch, Data, Device, Epochs, Images, Out, Precision, Resume, Seed, Seeds, Tests, Workers


@one_sentence()
def odenet(
    out: Out,
    kind: Annotated[str, typer.Option(help="odenet, rknet, resnet or cnn.")] = "odenet",
    solver: Annotated[str, typer.Option(help="Solver of the ODE block, by its SciML name.")] = "Euler",
    steps: Annotated[int, typer.Option(help="Steps of the ODE block.")] = 20,
    recipe: Annotated[
        str, typer.Option(help="review (five epochs) or digits (two epochs, some minutes on two cores).")
    ] = "review",
    epochs: Epochs = None,
    batch: Batch = None,
    images: Images = None,
    tests: Tests = None,
    precision: Precision = None,
    device: Device = None,
    data: Data = None,
    download: Annotated[bool, typer.Option("--download", help="Download MNIST first (11.6 MB).")] = False,
    resume: Resume = False,
    seed: Seed = 0,
    seeds: Seeds = None,
    workers: Workers = None,
) -> None:
    """Train an ODE-Net, or a network to compare it with, on MNIST; Ctrl-C keeps the best model so far.

    On several GPUs: torchrun --nproc-per-node 4 --no-python pyneuralode train odenet ...
    """
    from ..datasets.mnist import download_mnist

    options: dict[str, Any] = {"kind": kind}
    if kind in ("odenet", "rknet"):
        options |= {"solver": solver, "steps": steps}
    training = _training("odenet", options, recipe, epochs, batch, precision, data, images, tests)
    _run(training, recipe, out, download_mnist if download else None, device, resume, seed, seeds, workers)


@one_sentence()
def anodev2(
    out: Out,
    net: Annotated[str, typer.Option(help="alexnet, resnet4 or resnet10.")] = "resnet4",
    variant: Annotated[
        str, typer.Option(help="baseline, neural_ode, anode, anodev2_one or anodev2_two.")
    ] = "anodev2_one",
    steps: Annotated[
        int | None, typer.Option(help="Steps of each ODE block (Nt in the paper).", show_default="the paper's")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="paper (350 epochs, for a GPU) or short (some minutes on two cores).")
    ] = "paper",
    reduced: Annotated[
        bool,
        typer.Option("--reduced", help="Use 10,000 training and 1,000 test images, from train10k.npz and test1k.npz."),
    ] = False,
    epochs: Epochs = None,
    batch: Batch = None,
    images: Images = None,
    tests: Tests = None,
    precision: Precision = None,
    device: Device = None,
    data: Data = None,
    download: Annotated[bool, typer.Option("--download", help="Download CIFAR-10 first (170 MB).")] = False,
    resume: Resume = False,
    seed: Seed = 0,
    seeds: Seeds = None,
    workers: Workers = None,
) -> None:
    """Train a network of ANODEV2 on CIFAR-10; Ctrl-C keeps the best model so far.

    On several GPUs: torchrun --nproc-per-node 4 --no-python pyneuralode train anodev2 ...
    """
    from ..datasets.cifar10 import download_cifar10
    from ..errors import ArgumentError

    options: dict[str, Any] = {"net": net, "variant": variant}
    if variant != "baseline":
        options["steps"] = steps if steps is not None else 2 if variant == "anodev2_two" else 5
    elif steps is not None:
        raise ArgumentError(f"steps is {steps}, but the baseline takes no steps: leave it out.")
    training = _training("anodev2", options, recipe, epochs, batch, precision, data, images, tests, reduced)
    _run(training, recipe, out, download_cifar10 if download else None, device, resume, seed, seeds, workers)


def _training(family, options, recipe, epochs, batch, precision, data, images, tests, reduced=False):
    """Return the training that the options describe; its model is built once, so that mistakes are found early."""
    from ..errors import unknown_name
    from ..images.training.recipes import RECIPES
    from ..images.training.specs import ClassifierSpec, ClassifierTraining

    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    chosen = RECIPES[recipe] if epochs is None else RECIPES[recipe].for_epochs(epochs)
    changes = {"batch": batch, "precision": precision}
    chosen = dataclasses.replace(chosen, **{k: v for k, v in changes.items() if v is not None})
    spec = ClassifierSpec(family, options)
    spec.build()
    return ClassifierTraining(spec, chosen, data, reduced, images, tests)


def _run(training, recipe, out, download, device, resume, seed, seeds, workers) -> None:
    """Train one model, together with the other processes of torchrun if there are any, or one for each seed."""
    from ..errors import ArgumentError
    from ..progress import RichProgress
    from .classifier_runs import check_outputs, train_into, train_seeds
    from .parse import parse_numbers

    listed = None if seeds is None else parse_numbers("seeds", seeds, int, "0,1,2,3,4")
    if listed is not None and (len(set(listed)) < len(listed) or min(listed) < 0):
        raise ArgumentError(f"seeds is {seeds!r}: give different whole numbers from 0, such as 0,1,2,3,4.")
    check_outputs(out, listed)
    with RichProgress() as progress:
        if download is not None:
            download(training.folder, progress)
        training.sets()  # missing files are reported before a process starts
        if listed is None:
            found = train_into(out, training, recipe, seed, resume, device, progress)
        else:
            found = train_seeds(out, training, recipe, listed, resume, device, workers, progress)
    if found is None:  # not the first process of torchrun
        return
    for sentence in found.sentences:
        typer.echo(sentence)
    for path in found.paths:
        typer.echo(path.absolute())
    if not found.finished:
        raise typer.Exit(130 if found.interrupted else 1)
