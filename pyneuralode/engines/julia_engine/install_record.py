"""The record of what `pyneuralode setup-julia` installed: a small JSON file that the probe reads later.

It is stored next to the project that was set up and in the user's data folder, where the probe looks by default. Each
installation of pyneuralode has its own record, since a Julia project refers to the sources of one installation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ...errors import EngineError
from . import sources

FILE = "pyneuralode-julia.json"


@dataclass(frozen=True)
class Record:
    """A Julia installation and a project that were set up together.

    Attributes
    ----------
    executable, project : str
        The Julia executable, and the folder of the project.
    version : str
        Julia's version.
    sysimage, digest : str or None
        The system image, if one was built, and the digest of the Julia sources that went into it.
    """

    executable: str
    project: str
    version: str
    sysimage: str | None = None
    digest: str | None = None


def data_folder() -> Path:
    """Return the user's data folder for pyneuralode; $XDG_DATA_HOME sets its location where this variable is in use."""
    return platformdirs.user_data_path("pyneuralode", appauthor=False)


def default_project() -> Path:
    """Return the folder where `setup-julia` puts the project of this installation of pyneuralode."""
    key = hashlib.sha256(str(sources.folder()).encode()).hexdigest()[:8]
    return data_folder() / f"project-{key}"


def read_record(folder: Path) -> Record | None:
    """Return the record in `folder`, or None if there is no readable record."""
    try:
        return Record(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(record: Record, folder: Path) -> None:
    """Write `record` into `folder`."""
    make_folder(folder)
    text = json.dumps(dataclasses.asdict(record), indent=4)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Create `folder` if it is missing; raise EngineError if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"the folder {folder} cannot be created ({error.strerror}): choose another project."
        ) from error
    if not os.access(folder, os.W_OK):
        raise EngineError(f"the folder {folder} is not writable: choose another project.")
