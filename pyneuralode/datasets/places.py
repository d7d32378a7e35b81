"""Where the files of a data set are: in a given folder, in that of $PYNEURALODE_DATA, or in the cache of downloads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from ..errors import DataError


def cache_folder(name: str) -> Path:
    """Return the folder in the user's cache that downloads of a data set go to."""
    return platformdirs.user_cache_path("pyneuralode") / name


def find_file(names: Sequence[str], data_set: str, folder: str | Path | None, what: str, remedy: str) -> Path:
    """Return the path of the first of these files in the first folder that has one.

    The folders are `folder`, if it is given; else the one named after the data set in $PYNEURALODE_DATA, if that is set,
    and then the cache. Raises DataError, which names `what` is missing and the `remedy`.
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
