"""The location of a data set's files: a given folder, a folder in $PYNEURALODE_DATA, or the cache of downloads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from ..errors import DataError


def cache_folder(name: str) -> Path:
    """Return the folder in the user's cache to which a data set is downloaded."""
    return platformdirs.user_cache_path("pyneuralode") / name


def find_file(names: Sequence[str], data_set: str, folder: str | Path | None, what: str, remedy: str) -> Path:
    """Return the path of the first of the files `names` in the first folder that contains any of them.

    Only `folder` is searched if it is given. Otherwise, the folder named after the data set in $PYNEURALODE_DATA, if
    that is set, and then the cache are searched. If no file is found, raises DataError with `what` (the name of the
    missing file) and `remedy`.
    """
    if folder is not None:
        folders = [Path(folder)]
    else:
        own = os.environ.get("PYNEURALODE_DATA")
        folders = [*([Path(own) / data_set] if own else []), cache_folder(data_set)]
    for place in folders:
        for name in names:
            if (place / name).is_file():
                return place / name
    raise DataError(f"{what} is not in {' or '.join(map(str, folders))}: {remedy}.")
