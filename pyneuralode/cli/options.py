"""Options that several commands share, and a decorator for commands that receive their options as one dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from typer import Option

Out = Annotated[Path, Option(help="Folder for the model, the figures and the numbers.")]
Images = Annotated[int | None, Option(help="Number of training images to use.", show_default="all")]
Device = Annotated[str | None, Option(help="cpu, cuda or cuda:1.", show_default="the GPU if there is one")]
DownloadMNIST = Annotated[bool, Option("--download", help="Download MNIST first (11.6 MB).")]
Resume = Annotated[bool, Option("--resume", help="Continue from the checkpoint in OUT.")]
Seed = Annotated[int, Option(help="Seed of every random number.")]


@dataclass(frozen=True)
class FitOptions:
    """Options of `pyneuralode fit`: the network, the solver and the plan."""

    hidden: Annotated[str, Option(help="Widths of the hidden layers of the network.")] = "32,32"
    activation: Annotated[str, Option(help="Activation function of the hidden layers.")] = "tanh"
    augment: Annotated[int, Option(help="Extra state components, added to the columns.")] = 0
    solver: Annotated[str, Option(help="Solver, by its SciML name.")] = "Tsit5"
    gradient: Annotated[str, Option(help="Gradient method, such as Checkpointed.")] = "Backprop"
    rtol: Annotated[float, Option(help="Relative tolerance of the solves.")] = 1e-6
    atol: Annotated[float, Option(help="Absolute tolerance, in standard deviations of a column.")] = 1e-6
    spans: Annotated[str, Option(metavar="10,20,30", help="End times of the growing spans; auto chooses five.")] = (
        "auto"
    )
    optimizer: Annotated[str, Option(help="adam, adamw, rmsprop, sgd or lbfgs.")] = "adam"
    lr: Annotated[float | None, Option(help="Learning rate.", show_default="the optimizer's")] = None
    iterations: Annotated[int, Option(help="Iterations per span.")] = 300
    finish: Annotated[int, Option(help="L-BFGS iterations after the last span.")] = 200
    seed: Annotated[int, Option(help="Seed of the initial parameters.")] = 0


@dataclass(frozen=True)
class ClassifierOptions:
    """Options of `pyneuralode train odenet` and `train anodev2`."""

    epochs: Annotated[int | None, Option(help="Passes over the images.", show_default="the recipe's")] = None
    batch: Annotated[
        int | None, Option(help="Images per update, summed over all processes.", show_default="the recipe's")
    ] = None
    images: Images = None
    tests: Annotated[int | None, Option(help="Number of test images to use.", show_default="all")] = None
    precision: Annotated[
        str | None, Option(help="Training precision: float32 or bfloat16.", show_default="the recipe's")
    ] = None
    device: Device = None
    data: Annotated[
        Path | None, Option(help="Folder of the images.", show_default="the one in $PYNEURALODE_DATA, then the cache")
    ] = None
    resume: Resume = False
    seed: Seed = 0
    seeds: Annotated[
        str | None, Option(metavar="0,1,2", help="Train once per seed, each time in a separate folder in OUT.")
    ] = None
    workers: Annotated[int | None, Option(help="Number of seeds trained in parallel.", show_default="one per core")] = (
        None
    )


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `options`, a dataclass, with one typer option for each field."""
    parameters = dict(inspect.signature(command, eval_str=True).parameters)
    kind = parameters.pop("options").annotation
    hints = get_type_hints(kind, include_extras=True)
    named = inspect.Parameter.KEYWORD_ONLY
    options = {
        f.name: inspect.Parameter(f.name, named, default=f.default, annotation=hints[f.name]) for f in fields(kind)
    }

    @wraps(command)
    def expanded(**given: Any) -> None:
        command(options=kind(**{name: given.pop(name) for name in options}), **given)

    expanded.__signature__ = inspect.Signature([*(parameters | options).values()])  # pyright: ignore[reportAttributeAccessIssue]
    return expanded


def replace_given(settings: Any, **changes: Any) -> Any:
    """Return a copy of a dataclass with the given changes; a change of None is ignored."""
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})
