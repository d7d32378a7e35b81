"""How every command reports an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
