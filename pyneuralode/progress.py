"""How a long computation shows its progress: a small protocol, a silent form of it and one drawn with rich."""

from __future__ import annotations

from typing import Protocol


class Task(Protocol):
    """One piece of work that is under way."""

    def advance(self, n: float = 1, note: str = "") -> None:
        """Count `n` more units as done; `note`, such as the loss, is shown beside the bar."""


class Progress(Protocol):
    """Whatever shows progress."""

    def task(self, description: str, total: float | None = None) -> Task:
        """Begin a piece of work of `total` units; None where the number is not known."""


class SilentProgress:
    """Progress that nobody watches."""

    def task(self, description: str, total: float | None = None) -> SilentProgress:
        return self

    def advance(self, n: float = 1, note: str = "") -> None:
        pass


class RichProgress:
    """Progress bars on stderr, so that stdout holds results alone; use it as a context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),  # "[0, 60]" is a time span here, not a style
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
        )

    def __enter__(self) -> RichProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        # rich ends with an empty line even where it drew nothing, which would go before an error's sentence.
        if self._bars.live.is_started:
            self._bars.stop()

    def task(self, description: str, total: float | None = None) -> Task:
        self._bars.start()
        return _Bar(self._bars, self._bars.add_task(description, total=total, note=""))


class _Bar:
    def __init__(self, bars, key) -> None:
        self._bars = bars
        self._key = key

    def advance(self, n: float = 1, note: str = "") -> None:
        fields = {"note": note} if note else {}
        self._bars.update(self._key, advance=n, **fields)
