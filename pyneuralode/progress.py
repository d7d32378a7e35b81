"""Progress of long computations: a small protocol, an implementation that shows nothing, and one that draws bars."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class ProgressTask(Protocol):
    """A task in progress."""

    def advance(self, n: float = 1, note: str = "") -> None:
        """Count `n` more units as done, and show `note`, such as the loss, next to the bar."""


class Progress(Protocol):
    """An object that can show the progress of tasks."""

    def task(self, description: str, total: float | None = None) -> ProgressTask:
        """Begin a task of `total` units, or of an unknown number of units if None."""


class SilentProgress:
    """Progress that is not shown."""

    def task(self, description: str, total: float | None = None) -> SilentProgress:
        return self

    def advance(self, n: float = 1, note: str = "") -> None:
        pass


class RichProgress:
    """Progress bars on stderr, so that stdout contains only results; for use in a `with` statement."""

    def __init__(self) -> None:
        from rich import progress as rich
        from rich.console import Console

        self._bars = rich.Progress(
            rich.TextColumn(
                "{task.description}", markup=False
            ),  # no markup, as "[0, 60]" is a time span and not a style
            rich.BarColumn(),
            rich.TextColumn("{task.percentage:>3.0f}%"),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(compact=True),
            rich.TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
        )

    def __enter__(self) -> RichProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        # stop() prints an empty line even if no bar was drawn, and an error message would follow that line.
        if self._bars.live.is_started:
            self._bars.stop()

    def task(self, description: str, total: float | None = None) -> _RichTask:
        self._bars.start()
        return _RichTask(self._bars, self._bars.add_task(description, total=total, note=""))


class _RichTask:
    def __init__(self, bars, key) -> None:
        self._bars, self._key = bars, key

    def advance(self, n: float = 1, note: str = "") -> None:
        fields = {"note": note} if note else {}
        self._bars.update(self._key, advance=n, **fields)


def open_progress(progress: bool | Progress) -> AbstractContextManager[Progress]:
    """Return a context manager that yields the requested progress: True draws bars, False shows nothing."""
    return RichProgress() if progress is True else nullcontext(progress or SilentProgress())
