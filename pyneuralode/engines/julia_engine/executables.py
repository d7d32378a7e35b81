"""Identification of a Julia executable and its version, if possible without starting it."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ...errors import EngineError

OLDEST = (1, 10)
BELOW = (2, 0)
# The environment of every Julia that starts Python or runs inside it. PythonCall must not install a Python of its own,
# and with PYTHONUNBUFFERED set, as in many containers, it cannot read the answers of the Python that it starts while
# packages are compiled.
SETTINGS = {"JULIA_CONDAPKG_BACKEND": "Null", "PYTHONUNBUFFERED": ""}
_LAUNCHER_FOLDERS = {"juliaup", ".juliaup", "WindowsApps"}
_TIMEOUT = 120.0  # seconds; guards against a wrapper script that never exits
_PLACES = r"print(Base.active_project()); foreach(depot -> print('\n', depot), DEPOT_PATH)"


@dataclass(frozen=True)
class Julia:
    """A Julia installation of a supported version: its executable, its version, and where the executable was found."""

    executable: Path
    version: str
    how: str

    @property
    def wrapper(self) -> bool:
        """Whether this is a script that starts Julia with its own settings, as in a cluster's module system."""
        return not _has_julia_around(self.executable)


class JuliaMissing(EngineError):
    """No usable Julia was found; `executable` and `version` describe the Julia that was examined, if any."""

    def __init__(self, reason: str, executable: Path | None = None, version: str | None = None):
        super().__init__(reason)
        self.executable = executable
        self.version = version


def setting(name: str) -> Path | None:
    """Return the path in the environment variable `name`, or None if it is not set."""
    value = os.environ.get(name, "").strip()
    return Path(value).expanduser() if value else None


def examine(named: Path, how: str) -> Julia:
    """Return the Julia at `named`; raise JuliaMissing unless it is a Julia of a supported version."""
    if not (named.is_file() and os.access(named, os.X_OK)):
        raise JuliaMissing(f"{how} is {named}, which is not an executable file: give the path of the Julia executable.")
    executable = _behind_juliaup(named.resolve())
    if executable is None:
        raise JuliaMissing(
            f"{named} is juliaup's launcher, but its settings do not name an installed Julia: "
            "run `juliaup add release`, or set PYNEURALODE_JULIA to the path of the Julia executable itself."
        )
    version = _version(executable)
    if version is None:
        raise JuliaMissing(
            f"{executable} does not report its version: set PYNEURALODE_JULIA to the path of the Julia executable.",
            executable,
        )
    if not OLDEST <= pair(version) < BELOW:
        raise JuliaMissing(
            f"{executable} is Julia {version}, but a version >= 1.10 and < 2.0 is required: "
            "set PYNEURALODE_JULIA to the path of such a Julia, or run `pyneuralode setup-julia`.",
            executable,
            version,
        )
    return Julia(executable, version, how)


def pair(version: str) -> tuple[int, int]:
    """Return the major and minor version numbers of a version such as "1.11.2"."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


@functools.lru_cache
def own_places(executable: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Return the project and the depots that a wrapper script sets for its Julia.

    Julia is started once to find them, without the user's startup file.
    """
    answer = _ask(executable, "--startup-file=no", "-e", _PLACES).splitlines()
    if not answer:
        return None, ()
    project = Path(answer[0])
    return (project.parent if project.is_file() else None), tuple(answer[1:])


def _has_julia_around(executable: Path) -> bool:
    root = executable.parent.parent
    return (root / "share" / "julia").is_dir() or (root / "include" / "julia").is_dir()


def _behind_juliaup(executable: Path) -> Path | None:
    """Return the Julia executable that juliaup's launcher would start; any other executable is returned unchanged.

    The launcher may install a Julia or update itself whenever it runs, even for `--version`, so this
    function reads its settings file instead of running it.
    """
    if _has_julia_around(executable):
        return executable
    launcher = (
        "launcher" in executable.stem
        or not _LAUNCHER_FOLDERS.isdisjoint(executable.parts)
        or executable.with_stem("juliaup").exists()
    )
    if not launcher:
        return executable
    home = setting("JULIAUP_DEPOT_PATH") or Path.home() / ".julia"
    try:
        settings = json.loads((home / "juliaup" / "juliaup.json").read_text(encoding="utf-8"))
        channel = settings["InstalledChannels"][os.environ.get("JULIAUP_CHANNEL") or settings["Default"]]
        if "Command" in channel:
            julia = Path(channel["Command"])
        else:
            folder = channel.get("Path") or settings["InstalledVersions"][channel["Version"]]["Path"]
            julia = home / "juliaup" / folder / "bin" / executable.with_stem("julia").name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return julia.resolve() if julia.is_file() else None


def _version(executable: Path) -> str | None:
    """Return the version from the files next to the executable, or else from the executable itself."""
    root = executable.parent.parent
    header = root / "include" / "julia" / "julia_version.h"
    if header.is_file():
        match = re.search(r'JULIA_VERSION_STRING\s+"([^"]+)"', header.read_text(encoding="utf-8"))
        if match:
            return match[1]
    folders = [path.name[1:] for path in (root / "share" / "julia" / "stdlib").glob("v*.*")]
    if len(folders) == 1 and re.fullmatch(r"\d+\.\d+", folders[0]):
        return folders[0]
    # The executable is a wrapper script; `--version` exits before Julia's runtime starts.
    match = re.search(r"julia version (\d+\.\d+\S*)", _ask(executable, "--version"))
    return match[1] if match else None


def _ask(executable: Path, *arguments: str) -> str:
    # The output goes to a file: reading a pipe would block for as long as a grandchild of a wrapper keeps it open.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as answer:
        try:
            subprocess.run(
                [executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        answer.seek(0)
        return answer.read()
