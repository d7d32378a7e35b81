"""How every command answers a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ..errors import PyNeuralODEError


@contextmanager
def one_sentence() -> Iterator[None]:
    """Answer a mistake with its sentence and status 2, and Ctrl-C with a sentence and status 130."""
    try:
        yield
    except PyNeuralODEError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted: what was complete by then is kept, nothing else was written.", err=True)
        raise typer.Exit(130) from None
