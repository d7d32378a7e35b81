"""How every command ends: with what it found and where that is, or with one sentence about an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from ..errors import PyNeuralODEError


@contextmanager
def one_sentence() -> Iterator[None]:
    """Print one sentence for an error, with status 2, and for Ctrl-C, with status 130."""
    try:
        yield
    except PyNeuralODEError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted: completed results are kept; nothing else was written.", err=True)
        raise typer.Exit(130) from None


def end_with(sentences: Iterable[str], paths: Iterable[Path], finished: bool, interrupted: bool) -> None:
    """Print the results and the files of a fit; exit with status 130 if Ctrl-C stopped it, 1 if something else did."""
    for line in (*sentences, *(path.absolute() for path in paths)):
        typer.echo(line)
    if not finished:
        raise typer.Exit(130 if interrupted else 1)
