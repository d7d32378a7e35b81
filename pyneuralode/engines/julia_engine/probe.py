"""Look for a Julia that holds our Julia package; nothing is installed, downloaded or imported.

juliacall is not imported here, because its import starts Julia and, where none fits, reaches for the network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

OLDEST = (1, 10)
BELOW = (2, 0)
_NEEDED = ("PyNeuralODE", "PythonCall")
_LAUNCHER_FOLDERS = {"juliaup", ".juliaup", "WindowsApps"}
_SETUP = "installing it for you with `pyneuralode setup-julia` is not in this version"


@dataclass(frozen=True)
class JuliaProbe:
    """What was found.

    Attributes
    ----------
    found : bool
        True where there is a Julia in range and a project that holds PyNeuralODE and PythonCall.
    executable, project : pathlib.Path or None
        The Julia to start, and the folder of the project to start it in.
    version : str or None
        Julia's version, such as "1.11.2"; only "1.11" where the files beside it say no more.
    how : str
        Where the executable was named: an environment variable, or "PATH"; empty where none was named.
    reason : str
        One sentence that says what is missing and what to do; empty where `found`.
    """

    found: bool
    executable: Path | None = None
    project: Path | None = None
    version: str | None = None
    how: str = ""
    reason: str = ""


def probe() -> JuliaProbe:
    """Look for Julia: our own variables first, then juliacall's, then `julia` on PATH.

    `PYNEURALODE_JULIA` names the executable and `PYNEURALODE_JULIA_PROJECT` the project; either may stand
    alone. `PYTHON_JULIACALL_EXE` and `PYTHON_JULIACALL_PROJECT` count together. A variable that is set
    decides: where what it names does not fit, that is the answer, and the search does not go on behind
    the user's back.
    """
    executable, project = _setting("PYNEURALODE_JULIA"), _setting("PYNEURALODE_JULIA_PROJECT")
    if executable:
        return _examine(executable, project, how="PYNEURALODE_JULIA")
    if project:
        return _on_path(project)

    executable, project = _setting("PYTHON_JULIACALL_EXE"), _setting("PYTHON_JULIACALL_PROJECT")
    if executable and project:
        return _examine(executable, project, how="PYTHON_JULIACALL_EXE")
    if executable or project:
        present, absent = "PYTHON_JULIACALL_EXE", "PYTHON_JULIACALL_PROJECT"
        if project:
            present, absent = absent, present
        return JuliaProbe(False, reason=f"{present} is set without {absent}: set both or neither.")
    return _on_path(None)


def _setting(name: str) -> Path | None:
    value = os.environ.get(name, "").strip()
    return Path(value).expanduser() if value else None


def _on_path(project: Path | None) -> JuliaProbe:
    executable = shutil.which("julia")
    if executable is None:
        return JuliaProbe(
            False,
            reason="there is no julia on PATH: install Julia 1.10 or newer, or set PYNEURALODE_JULIA; "
            f"{_SETUP}.",
        )
    return _examine(Path(executable), project, how="PATH")


def _examine(named: Path, project: Path | None, how: str) -> JuliaProbe:
    if not (named.is_file() and os.access(named, os.X_OK)):
        return JuliaProbe(
            False, how=how, reason=f"{how} is {named}, which is no executable file: give the path of julia."
        )
    executable = _behind_juliaup(named.resolve())
    if executable is None:
        return JuliaProbe(
            False,
            how=how,
            reason=f"{named} is juliaup's launcher, and its settings name no installed Julia: "
            "run `juliaup add release`, or set PYNEURALODE_JULIA to the julia itself.",
        )
    version = _version(executable)
    if version is None:
        return JuliaProbe(
            False,
            executable,
            how=how,
            reason=f"{executable} does not tell its version: set PYNEURALODE_JULIA to the path of julia.",
        )
    if not OLDEST <= _pair(version) < BELOW:
        return JuliaProbe(
            False,
            executable,
            version=version,
            how=how,
            reason=f"{executable} is Julia {version}, but 1.10 or newer and below 2 is needed: "
            "set PYNEURALODE_JULIA to such a one.",
        )
    if project is not None:
        missing = _missing(project, version)
        reason = f"the Julia project {project} lacks {' and '.join(missing)}: add what is missing there."
        return JuliaProbe(not missing, executable, project, version, how, reason if missing else "")
    for candidate in _environments(version):
        if not _missing(candidate, version):
            return JuliaProbe(True, executable, candidate, version, how)
    return JuliaProbe(
        False,
        executable,
        version=version,
        how=how,
        reason=f"Julia {version} is there, but its environments do not hold {' and '.join(_NEEDED)}: "
        f"set PYNEURALODE_JULIA_PROJECT to a project that does; {_SETUP}.",
    )


def _behind_juliaup(executable: Path) -> Path | None:
    """Return the julia that juliaup's launcher would start, and any other executable as it is.

    The launcher may install a Julia or update itself whenever it runs, be it only for `--version`; so its
    settings file is read instead and the launcher is left alone.
    """
    root = executable.parent.parent
    if (root / "share" / "julia").is_dir() or (root / "include" / "julia").is_dir():
        return executable
    launcher = (
        "launcher" in executable.stem
        or not _LAUNCHER_FOLDERS.isdisjoint(executable.parts)
        or executable.with_stem("juliaup").exists()
    )
    if not launcher:
        return executable
    home = _setting("JULIAUP_DEPOT_PATH") or Path.home() / ".julia"
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
    """Read the version from the files beside the executable; ask it only where they do not say."""
    root = executable.parent.parent
    header = root / "include" / "julia" / "julia_version.h"
    if header.is_file():
        match = re.search(r'JULIA_VERSION_STRING\s+"([^"]+)"', header.read_text(encoding="utf-8"))
        if match:
            return match[1]
    folders = [path.name[1:] for path in (root / "share" / "julia" / "stdlib").glob("v*.*")]
    if len(folders) == 1 and re.fullmatch(r"\d+\.\d+", folders[0]):
        return folders[0]
    # A wrapper script, say of a cluster's modules. `--version` ends before Julia's runtime starts.
    try:
        answer = subprocess.run(
            [executable, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"julia version (\d+\.\d+\S*)", answer.stdout)
    return match[1] if match else None


def _pair(version: str) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def _environments(version: str) -> list[Path]:
    """Return where this Julia looks for packages when told nothing: JULIA_PROJECT, then the depots."""
    depots = [Path(entry) for entry in os.environ.get("JULIA_DEPOT_PATH", "").split(os.pathsep) if entry]
    depots = depots or [Path.home() / ".julia"]
    named = os.environ.get("JULIA_PROJECT", "")
    folders = []
    if named.startswith("@") and named not in ("@", "@."):
        folders += [depot / "environments" / named[1:] for depot in depots]
    elif named and not named.startswith("@"):
        folders.append(Path(named))
    major, minor = _pair(version)
    return folders + [depot / "environments" / f"v{major}.{minor}" for depot in depots]


def _missing(project: Path, version: str) -> list[str]:
    """Return the needed packages that the project's manifest (or the project itself) does not hold."""
    folder = project.parent if project.suffix == ".toml" else project
    major, minor = _pair(version)
    own = _first_text(folder, ("JuliaProject.toml", "Project.toml"))
    manifests = (f"JuliaManifest-v{major}.{minor}.toml", f"Manifest-v{major}.{minor}.toml")
    manifest = _first_text(folder, (*manifests, "JuliaManifest.toml", "Manifest.toml"))
    # Read by pattern: Python 3.10 has no TOML reader, and these headings are all that is wanted.
    present = set(re.findall(r"^\[\[(?:deps\.)?(\w+)\]\]", manifest, re.MULTILINE))
    present.update(re.findall(r'^name\s*=\s*"(\w+)"', own, re.MULTILINE))
    return [name for name in _NEEDED if name not in present]


def _first_text(folder: Path, names: tuple[str, ...]) -> str:
    for name in names:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    return ""
