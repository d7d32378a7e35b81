"""The command ``python -m benchmarks``."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pyneuralode.cli.error_reporting import one_sentence

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@one_sentence()
def main(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Tasks to run.", show_default="all")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the numbers, the tables and the figures.")] = Path(
        "pyneuralode-bench"
    ),
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIBRARY=PATH", help="Python executable for a library that is installed in another environment."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short rounds, to check that everything works.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKOUT",
            help="Compare the times of this checkout with those of another one, without other libraries.",
            show_default=False,
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Retrain the networks that are timed, write their weights, and exit.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the tasks and exit.")] = False,
) -> None:
    """Time pyneuralode and every other installed library on the same problems, each in one process with one thread."""
    from .tasks import TASKS, find_task

    if list_:
        width = max(map(len, TASKS))
        for task in TASKS.values():
            typer.echo(f"{task.name:<{width}}  {task.title}")
    elif train:
        _train()
    else:
        names = [find_task(name).name for name in tasks or ()]
        if against is not None:
            _compare(against, names, quick)
        else:
            _measure(names, out, python or [], quick)


def _train() -> None:
    from pyneuralode.progress import RichProgress

    from .weights import FILE, train_all

    with RichProgress() as progress:
        losses = train_all(progress)
    for name, loss in losses.items():
        typer.echo(f"{name}: loss {loss:.4g}")
    typer.echo(FILE)


def _measure(names: list[str], out: Path, python: list[str], quick: bool) -> None:
    from pyneuralode.progress import RichProgress

    from .libraries import read_pythons
    from .runner import FILES, run_benchmarks
    from .tables import tables

    pythons = read_pythons(python)
    with RichProgress() as progress:
        outcome = run_benchmarks(names, out, quick, pythons, _command(), progress)
    for result in outcome.results:
        for table in tables(result):
            typer.echo(f"{table.text()}\n")
    if outcome.absent:
        typer.echo(f"Not installed: {', '.join(outcome.absent)} (pip install '.[bench]').", err=True)
    for name in FILES:
        if (out / name).is_file():
            typer.echo((out / name).absolute())


def _compare(checkout: Path, names: list[str], quick: bool) -> None:
    """Print a table for each task, and exit with status 1 if a row does not pass."""
    from pyneuralode.errors import ArgumentError
    from pyneuralode.progress import RichProgress

    from .against import LIMIT, compare_task, find_script, table
    from .measures import QUICK, Effort
    from .processes import Workspace
    from .tasks import TASKS

    find_script(checkout)  # reports a mistake before anything runs
    timed = [name for name, task in TASKS.items() if task.measure == "time"]
    if untimed := [name for name in names if name not in timed]:
        raise ArgumentError(f"the task is {untimed[0]!r}, which is not timed: against supports {', '.join(timed)}.")
    rows = []
    with tempfile.TemporaryDirectory(prefix="pyneuralode-bench-") as folder:
        for name in dict.fromkeys(names or timed):
            with RichProgress() as progress:
                found = compare_task(
                    Workspace(Path(folder), {}), checkout, TASKS[name], QUICK if quick else Effort(), progress
                )
            typer.echo(f"{table(TASKS[name], found).text()}\n")
            rows += found
    slow = sum(not row.passes for row in rows)
    typer.echo(f"{slow} of {len(rows)} rows failed or have an upper bound of {LIMIT} or more.")
    if slow:
        raise typer.Exit(1)


def _command() -> str:
    """Return the command line as typed, with the paths of Python executables replaced by PYTHON."""
    words = [word.partition("=")[0] + "=PYTHON" if "=" in word and "/" in word else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", "benchmarks", *words])


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
