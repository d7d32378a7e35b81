"""Download files with pooch from the first mirror that has them, and check their checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError


def fetch(md5: Mapping[str, str], mirrors: Sequence[str], folder: Path, progress: Any = None) -> Path:
    """Download files (name -> md5) to a folder and return the folder; files that are already there are kept.

    Raises DataError if a file is on none of the mirrors. With a `progress.Progress`, a progress bar is shown per file.
    """
    import pooch

    for name, checksum in md5.items():
        failure = None
        bar = False if progress is None else _DownloadBar(progress, name)
        for mirror in mirrors:
            try:
                pooch.retrieve(mirror + name, f"md5:{checksum}", fname=name, path=folder, progressbar=bar)
                break
            except (OSError, ValueError) as error:  # no connection, or a wrong checksum
                failure = error
        else:
            raise DataError(
                f"{name} could not be downloaded ({str(failure).splitlines()[0]}): "
                f"obtain it elsewhere and put it in {folder}."
            ) from failure
    return folder


def read_original(path: Path, md5: str | None, data_set: str) -> bytes:
    """Return the content of a file; raise DataError if its checksum is not the original's, `md5` (None if unknown)."""
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 not in (None, found):
        raise DataError(f"{path} has the checksum {found}, but {data_set}'s file has {md5}: download the file again.")
    return content


class _DownloadBar:
    """Forwards the progress that pooch reports to a task of a `progress.Progress`."""

    def __init__(self, progress: Any, name: str):
        self._progress, self._name, self._task, self._done = progress, name, None, 0
        self.total = 0  # pooch sets this to the number of bytes

    def update(self, n: int) -> None:
        """Count `n` more bytes."""
        if self._task is None:
            self._task = self._progress.task(f"download of {self._name}", self.total or None)
        self._done += n
        self._task.advance(n)

    def reset(self) -> None:
        """Set the count back to zero."""
        self.update(-self._done)

    def close(self) -> None:
        """Do nothing: tasks do not need to be closed."""
