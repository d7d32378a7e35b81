"""Options shared by the commands of `pyneuralode train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Folder for the model, the figures and the numbers.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the images.", show_default="the recipe's")]
Batch = Annotated[
    int | None, typer.Option(help="Images per update, over all processes together.", show_default="the recipe's")
]
Images = Annotated[int | None, typer.Option(help="Number of training images to use.", show_default="all")]
Tests = Annotated[int | None, typer.Option(help="Number of test images to use.", show_default="all")]
Precision = Annotated[
    str | None, typer.Option(help="Training precision: float32 or bfloat16.", show_default="the recipe's")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1.", show_default="the GPU if there is one")]
Data = Annotated[
    Path | None, typer.Option(help="Folder of the images.", show_default="that of $PYNEURALODE_DATA, then the cache")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in OUT.")]
Seed = Annotated[int, typer.Option(help="Seed of every random number.")]
Seeds = Annotated[str | None, typer.Option(metavar="0,1,2", help="Train once per seed, each in its own folder in OUT.")]
Workers = Annotated[int | None, typer.Option(help="Number of seeds trained in parallel.", show_default="one per core")]
