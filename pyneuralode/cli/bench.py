"""`pyneuralode bench`: the same problems by us and by every peer installed, side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .error_reporting import one_sentence


@one_sentence()
def bench(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Tasks to run.", show_default="all")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the numbers, the table and the figures.")] = Path(
        "pyneuralode-bench"
    ),
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="PEER=PATH", help="Python of a peer that is installed in another environment."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short rounds, to see that everything works.")] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Fit the networks that are timed again, write their weights, and end.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the tasks and end.")] = False,
) -> None:
    """Time us and every peer installed side by side, one process and one thread each."""
    from ..bench.tasks import TASKS, find_task

    if list_:
        width = max(map(len, TASKS))
        for task in TASKS.values():
            typer.echo(f"{task.name:<{width}}  {task.title}")
        return

    from ..progress import RichProgress

    if train:
        from ..bench.weights import FILE, train_all

        with RichProgress() as progress:
            losses = train_all(progress)
        for name, loss in losses.items():
            typer.echo(f"{name}: loss {loss:.4g}")
        typer.echo(FILE)
        return

    from ..bench.libraries import read_pythons
    from ..bench.runner import FILES, run_bench
    from ..bench.tables import tables

    names = [find_task(name).name for name in tasks or ()]
    pythons = read_pythons(python or ())
    with RichProgress() as progress:
        outcome = run_bench(names, out, quick, pythons, _typed(), progress)
    for result in outcome.results:
        for table in tables(result):
            typer.echo(f"{table.text()}\n")
    if outcome.absent:
        typer.echo(f"Not installed: {', '.join(outcome.absent)} (pip install 'pyneuralode[bench]').", err=True)
    for name in FILES:
        if (out / name).is_file():
            typer.echo((out / name).absolute())


def _typed() -> str:
    """Return the command as typed, without this machine's paths."""
    words = [word.partition("=")[0] + "=PYTHON" if "=" in word and "/" in word else word for word in sys.argv[1:]]
    return shlex.join(["pyneuralode", *words])
