"""Recorded runs: results of training runs that take too long on most machines; reports label them as recorded.

``reports/recorded/ID.json`` contains a list of recorded runs. Each is the `metrics.json` that a `pyneuralode train`
command wrote, with its commit, seed, machine, seconds, recipe, numbers and curves. `keep` writes this file; nothing is
written by hand.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import whole_files

FOLDER = Path(__file__).parent / "recorded"
_NEEDED = ("commit", "machine", "seed", "seconds", "recipe", "finished")


def provenance(commit: str | None = None) -> dict[str, str | None]:
    """Return the commit of this package and a description of the machine, as recorded by a run.

    The commit includes a note if there are uncommitted changes. It is None if `commit` is not given and the package is
    not in a git checkout.
    """
    return {"commit": commit or os.environ.get("PYNEURALODE_COMMIT") or _commit(), "machine": _machine()}


def keep(id: str, runs: Sequence[Path], folder: Path = FOLDER) -> Path:
    """Write the recorded runs of a report, given the `metrics.json` of each run; return the path of the new file.

    Raises DataError if a run is unfinished or has no commit.
    """
    contents = []
    for path in runs:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({error}): give the metrics.json of a `pyneuralode train` run."
            ) from None
        absent = [name for name in _NEEDED if not isinstance(content, dict) or content.get(name) is None]
        if absent or not content["finished"]:
            raise DataError(
                f"{path} is not the metrics.json of a finished run, with {', '.join(_NEEDED)}: use the file of a "
                "finished run."
            )
        contents.append(content)
    final = folder / f"{id}.json"
    with whole_files(final) as (partial,):
        partial.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    return final


def recorded(id: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return the recorded runs of a report; an empty list if there are none."""
    path = folder / f"{id}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=, with changes"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _machine() -> str:
    import torch

    words = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} CPU cores"]
    if torch.cuda.is_available():
        words.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return ", ".join([*words, f"torch {torch.__version__}"])
