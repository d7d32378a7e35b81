"""The last output of every command: its results and the paths of its files, or one error message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from ..errors import PyNeuralODEError


@contextmanager
def one_sentence() -> Iterator[None]:
    """Print one message and exit, with status 2 if a PyNeuralODEError is raised, or with status 130 after Ctrl-C."""
    try:
        yield
    except PyNeuralODEError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted: completed results are kept; nothing else was written.", err=True)
        raise typer.Exit(130) from None


def end_with(sentences: Iterable[str], paths: Iterable[Path], finished: bool, interrupted: bool) -> None:
    """Print a fit's results and file paths; exit with status 130 if Ctrl-C stopped the fit, 1 if an error did."""
    for line in (*sentences, *(path.absolute() for path in paths)):
        typer.echo(line)
    if not finished:
        raise typer.Exit(130 if interrupted else 1)
