"""Fetching files by pooch, from the first mirror that has them, with checksums and a progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError


def fetch(md5: Mapping[str, str], mirrors: Sequence[str], folder: Path, progress: Any = None) -> Path:
    """Download files (name -> md5) to a folder and return it; those that are there and right stay.

    Raises DataError where no mirror gives one of them. With a `progress.Progress` each file has a bar.
    """
    import pooch

    for name, checksum in md5.items():
        complaint = None
        bar = False if progress is None else _DownloadBar(progress, name)
        for mirror in mirrors:
            try:
                pooch.retrieve(mirror + name, f"md5:{checksum}", fname=name, path=folder, progressbar=bar)
                break
            except (OSError, ValueError) as error:  # no connection, or another checksum
                complaint = error
        else:
            raise DataError(
                f"{name} could not be downloaded ({str(complaint).splitlines()[0]}): "
                f"fetch it elsewhere and put it in {folder}."
            ) from complaint
    return folder


class _DownloadBar:
    """What pooch wants of a progress bar, for one of ours."""

    def __init__(self, progress: Any, name: str):
        self._progress, self._name, self._task, self._done = progress, name, None, 0
        self.total = 0  # pooch writes the number of bytes here

    def update(self, n: int) -> None:
        """Count `n` more bytes."""
        if self._task is None:
            self._task = self._progress.task(f"download of {self._name}", self.total or None)
        self._done += n
        self._task.advance(n)

    def reset(self) -> None:
        """Begin to count anew."""
        self.update(-self._done)

    def close(self) -> None:
        """End; a bar of ours needs nothing for it."""
