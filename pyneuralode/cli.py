"""The command line. Heavy imports wait inside the commands, so that `--help` answers at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .errors import PyNeuralODEError

app = typer.Typer(
    help="Neural differential equations: published experiments computed again, and what is installed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a defect of ours shows Python's plain traceback
)


def main() -> None:
    """Run the command line; the console script `pyneuralode`."""
    app()


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Answer a mistake with its sentence and status 2, and Ctrl-C with a sentence and status 130."""
    try:
        yield
    except PyNeuralODEError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted: what was complete by then is kept, nothing else was written.", err=True)
        raise typer.Exit(130) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"pyneuralode {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end."),
    ] = False,
) -> None:
    pass


@app.command()
@_one_sentence()
def report(
    ids: Annotated[list[str] | None, typer.Argument(metavar="IDS", help="Experiments to compute.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results and the page.")] = Path(
        "pyneuralode-report"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few minutes instead of the full computation.")
    ] = False,
    engine: Annotated[str, typer.Option(help="auto, torch or julia.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of every random number.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes at once.", show_default="one a core")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="End with status 1 where a target is missed.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the experiments and end.")] = False,
) -> None:
    """Compute experiments again and write a page that puts our numbers beside theirs."""
    from .reports.registry import EXPERIMENTS

    if list_ or not ids:
        width = max(map(len, EXPERIMENTS))
        for experiment in EXPERIMENTS.values():
            typer.echo(
                f"{experiment.id:<{width}}  {experiment.title}\n{'':<{width}}  from {experiment.source}"
            )
        return

    from .progress import RichProgress
    from .reports.runner import run_reports

    with RichProgress() as progress:
        outcome = run_reports(ids, out, "quick" if quick else "full", engine, seed, workers, check, progress)
    if not quick:
        for id, (met, judged) in outcome.tally.items():
            typer.echo(f"{id}: {met} of {judged} targets met")
    for sentence in outcome.missed:
        typer.echo(sentence, err=True)
    typer.echo(outcome.page.absolute())
    if outcome.missed:
        raise typer.Exit(1)


@app.command()
@_one_sentence()
def doctor() -> None:
    """Say what this installation runs on, and what to do next. Downloads nothing and starts nothing."""
    import os
    import platform
    import sys
    from importlib.metadata import PackageNotFoundError, version

    from . import __version__
    from .engines.julia_engine.probe import probe

    def line(name: str, value: str) -> None:
        typer.echo(f"{name:<12} {value}")

    line("pyneuralode", __version__)
    line("Python", f"{platform.python_version()} ({sys.executable})")
    line("Platform", f"{platform.platform()}, {os.cpu_count()} cores")
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that is missing or does not fit
        line("torch", f"cannot be loaded: {error}")
        torch = None
    else:
        line("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
            line("CUDA", f"{torch.version.cuda}: {', '.join(names)}")
        elif torch.version.cuda is None:
            line("CUDA", "no: this build of torch is for the CPU")
        else:
            line("CUDA", f"no: torch is built for CUDA {torch.version.cuda}, but sees no device")
    for package in ("numba", "juliacall"):
        try:
            line(package, version(package))
        except PackageNotFoundError:
            line(package, "not installed")
    julia = probe()
    if julia.found:
        line("Julia", f"{julia.version} ({julia.executable}), project {julia.project}, through {julia.how}")
    else:
        line("Julia", f"not ready: {julia.reason}")

    typer.echo("")
    if torch is None:
        typer.echo(
            "Next: install torch anew, for nothing runs without it: "
            "`python -m pip install --force-reinstall torch`."
        )
        raise typer.Exit(1)
    typer.echo("Everything in this version runs on the torch engine, which is ready.")
    typer.echo("Next: `pyneuralode report --list`.")
