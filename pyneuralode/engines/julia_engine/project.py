"""Inspection of the files of a Julia project, to determine whether the Julia engine can run in it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

from . import sources
from .executables import pair

NEEDED = (sources.NAME, "PythonCall")


@dataclass(frozen=True)
class JuliaProject:
    """The entries of a project's manifest for the packages that pyneuralode needs.

    Attributes
    ----------
    folder : pathlib.Path
        The folder of the project.
    missing : list of str
        The required packages that the project does not contain.
    pythoncall : str or None
        PythonCall's version.
    package : pathlib.Path or None
        The folder of PyNeuralODE, if the manifest names one.
    dependencies : set of str or None
        The dependencies of PyNeuralODE in the manifest, if it lists them.
    """

    folder: Path
    missing: list[str]
    pythoncall: str | None = None
    package: Path | None = None
    dependencies: set[str] | None = None

    def fault(self) -> str:
        """Return a message that says why the Julia engine cannot run in this project; empty if it can."""
        if self.missing:
            return (
                f"the Julia project {self.folder} does not contain {' and '.join(self.missing)}: add the missing packages, "
                "or run `pyneuralode setup-julia`."
            )
        if self.package is not None and not (self.package / "Project.toml").is_file():
            return (
                f"the Julia project {self.folder} loads PyNeuralODE from {self.package}, which does not exist: "
                "run `pyneuralode setup-julia`."
            )
        juliacall = juliacall_version()
        if juliacall is None:
            return "juliacall is not installed: run `python -m pip install 'juliacall" + (
                f"=={self.pythoncall}'`." if self.pythoncall else "'`."
            )
        if self.pythoncall not in (None, juliacall):
            return (
                f"PythonCall is {self.pythoncall} in the Julia project {self.folder} and juliacall is {juliacall}, "
                "but the versions must be equal: run `pyneuralode setup-julia`, or "
                f"`python -m pip install 'juliacall=={self.pythoncall}'`."
            )
        return ""

    def warning(self) -> str:
        """Return a message if the project's PyNeuralODE is not the one from this Python package; empty otherwise."""
        ours = sources.folder()
        if self.package is None:
            return ""
        if self.package.resolve() != ours and sources.digest(self.package) != sources.digest(ours):
            return (
                f"the Julia project {self.folder} loads PyNeuralODE from {self.package}, whose sources differ from "
                f"those of this installation in {ours}: run `pyneuralode setup-julia`."
            )
        lacking = sources.dependencies(self.package) - (self.dependencies or set())
        if self.dependencies is not None and lacking:
            return (
                f"the manifest of the Julia project {self.folder} lacks these dependencies of PyNeuralODE: "
                f"{', '.join(sorted(lacking))}: run `pyneuralode setup-julia`."
            )
        return ""


def read_project(project: Path, version: str) -> JuliaProject:
    """Read the files of `project` (a folder or its Project.toml) that Julia `version` would use."""
    folder = project.parent if project.suffix == ".toml" else project
    major, minor = pair(version)
    own = _first(folder, "JuliaProject.toml", "Project.toml")
    manifests = (f"JuliaManifest-v{major}.{minor}.toml", f"Manifest-v{major}.{minor}.toml")
    # Read with regular expressions: Python 3.10 has no TOML reader, and only these few entries are needed.
    manifest = _first(folder, *manifests, "JuliaManifest.toml", "Manifest.toml")
    entry_pattern = r"^\[\[(?:deps\.)?(\w+)\]\]\s*?\n(.*?)(?=^\[\[|\Z)"
    entries = dict(re.findall(entry_pattern, manifest, re.MULTILINE | re.DOTALL))

    itself = _text(own.split("\n[", 1)[0], "name") == sources.NAME
    present = {*entries, sources.NAME} if itself else set(entries)
    entry = entries.get(sources.NAME, "")
    path = _text(entry, "path")
    listed = re.search(r"^deps\s*=\s*\[(.*?)\]", entry, re.MULTILINE | re.DOTALL)
    return JuliaProject(
        folder,
        [name for name in NEEDED if name not in present],
        pythoncall=_text(entries.get("PythonCall", ""), "version"),
        package=folder if itself else (folder / path if path else None),
        dependencies=set(re.findall(r'"(\w+)"', listed[1])) if listed else None,
    )


def juliacall_version() -> str | None:
    """Return the version of the installed juliacall, without importing juliacall, which would start Julia."""
    try:
        return installed_version("juliacall")
    except PackageNotFoundError:
        return None


def _text(entry: str, key: str) -> str | None:
    match = re.search(rf'^{key}\s*=\s*("(?:[^"\\]|\\.)*")', entry, re.MULTILINE)
    return json.loads(match[1]) if match else None  # TOML's basic strings have the syntax of JSON's


def _first(folder: Path, *names: str) -> str:
    files = (folder / name for name in names)
    return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), "")
