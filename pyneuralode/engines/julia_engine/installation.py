"""Setup of Julia: the steps of `pyneuralode setup-julia`, the only code of the Julia engine that may use the network.

Every step except the downloads has been tested, offline, with a Julia and packages that were already installed. Not
tested yet: the downloads of Julia, registries and packages, PackageCompiler's system image, and diffeqpy's Julia
packages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import EngineError
from ...progress import Progress
from . import sources
from .executables import Julia, JuliaMissing, examine
from .install_record import Record, data_folder, default_project, make_folder, write_record
from .probe import clear_cache, named_julia

LOG = "setup.log"

# As in juliapkg, the requirements are written to Project.toml, so that later updates respect them.
_RESOLVE = """
using Pkg, TOML
file = Base.active_project()
project = isfile(file) ? TOML.parsefile(file) : Dict{String,Any}()
for requirement in ARGS[2:end]
    name, uuid, range = split(requirement, '|')
    get!(project, "deps", Dict{String,Any}())[name] = uuid
    get!(project, "compat", Dict{String,Any}())[name] = range
end
mkpath(dirname(file))
open(io -> TOML.print(io, project; sorted=true), file, "w")
Pkg.develop(path=ARGS[1])
Pkg.resolve()
Pkg.instantiate()
"""

_PRECOMPILE = "using Pkg; Pkg.precompile()"

_BUILD_IMAGE = """
using Pkg
Pkg.add("PackageCompiler")
using PackageCompiler
create_sysimage(["PyNeuralODE", "PythonCall", "SciMLSensitivity"]; project=ARGS[1], sysimage_path=ARGS[2])
"""

_VERIFY = """
import math
import numpy as np
import pyneuralode as pn
solution = pn.solve(pn.Linear(((-1.0,),)), np.array([1.0]), np.array([0.0, 1.0]), engine="julia")
error = abs(float(solution.ys[-1, 0]) - math.exp(-1))
if not error < 1e-5:
    raise SystemExit(f"the solution of dy/dt = -y has an error of {error:g} at t = 1")
"""

# Patterns in the output of a failed step, and the cause to report to the user.
_CAUSES = (
    (
        r"no space left on device|ENOSPC|not enough (disk )?space",
        "the disk is full: free some space (the setup needs 6 GB)",
    ),
    (
        (
            r"could(n't| not) (resolve|connect)|connection (refused|reset|timed out)|timed out|name resolution"
            r"|urlopen error|failed to (download|clone|fetch)|RequestError|network is unreachable"
        ),
        "the network cannot be reached: connect to it, or set the environment variable https_proxy to your proxy",
    ),
    (
        r"permission denied|EACCES|read-only file system",
        "a folder is not writable: choose another folder with --project",
    ),
    (r"unsatisfiable requirements", "the versions of the Julia packages are incompatible: choose a new --project"),
    (
        r"expected package .* to be registered|no registries have been installed",
        "a package is missing from Julia's registry: run `julia -e 'using Pkg; Pkg.Registry.update()'` with network access",
    ),
)


@dataclass(frozen=True)
class Installation:
    """A Julia installation, and the folder of the project to set up for it.

    Attributes
    ----------
    julia : Julia
        The Julia to use.
    project : pathlib.Path
        The folder of the project; created if it is missing.
    """

    julia: Julia
    project: Path

    def resolve(self, progress: Progress, with_diffeqpy: bool = False) -> None:
        """Resolve the versions of all packages and download those that are missing."""
        wanted = requirements("pyneuralode") | requirements("juliacall")
        if with_diffeqpy:
            wanted |= requirements("diffeqpy")
        make_folder(self.project)
        (self.project / LOG).unlink(missing_ok=True)
        self._step(progress, "Choosing Julia packages", _RESOLVE, *_arguments(wanted))
        openssl = _openssl()[0]
        if "[[deps.OpenSSL_jll]]" in self._manifest() and "OpenSSL_jll" not in wanted:
            wanted["OpenSSL_jll"] = ("458c3c95-2e84-50aa-8efc-19380b2a3a95", openssl)
            self._step(progress, "Matching Python's OpenSSL", _RESOLVE, *_arguments(wanted))

    def precompile(self, progress: Progress) -> None:
        """Precompile the packages for this machine; this is the longest step."""
        total = max(1, self._manifest().count("[[deps."))
        self._step(progress, "Compiling Julia packages", _PRECOMPILE, total=total)

    def build_image(self, progress: Progress) -> Path:
        """Build a system image of PyNeuralODE with PackageCompiler, in a separate environment, and return its path."""
        suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
        image = self.project / f"pyneuralode{suffix}"
        builder = self.project / "image-builder"
        self._step(progress, "Building the system image", _BUILD_IMAGE, str(self.project), str(image), project=builder)
        return image

    def verify(self, progress: Progress, image: Path | None = None) -> None:
        """Solve one problem with the Julia engine, in a new Python process."""
        environment = _for_child() | {
            "PYNEURALODE_JULIA": str(self.julia.executable),
            "PYNEURALODE_JULIA_PROJECT": str(self.project),
        }
        if image is not None:
            environment["PYTHON_JULIACALL_SYSIMAGE"] = str(image)
        self._run(progress, "Solving a first problem", [sys.executable, "-c", _VERIFY], environment)

    def write_records(self, image: Path | None = None) -> None:
        """Write the record of this setup, next to the project and where the probe looks by default."""
        record = Record(
            str(self.julia.executable),
            str(self.project),
            self.julia.version,
            sysimage=None if image is None else str(image),
            digest=None if image is None else sources.digest(sources.folder()),
        )
        for folder in {self.project, default_project()}:
            write_record(record, folder)
        clear_cache()

    def _manifest(self) -> str:
        manifest = self.project / "Manifest.toml"
        return manifest.read_text(encoding="utf-8") if manifest.is_file() else ""

    def _step(
        self,
        progress: Progress,
        description: str,
        code: str,
        *arguments: str,
        total: int = 1,
        project: Path | None = None,
    ) -> None:
        julia = [str(self.julia.executable), "--startup-file=no", f"--project={project or self.project}"]
        environment = _for_child() | {"JULIA_PKG_PRECOMPILE_AUTO": "0"}
        self._run(progress, description, [*julia, "-e", code, *arguments], environment, total)

    def _run(
        self,
        progress: Progress,
        description: str,
        command: list[str],
        environment: dict[str, str],
        total: int = 1,
    ) -> None:
        """Run a command, show its output and the compiled packages as progress, and write all output to the log."""
        task, left = progress.task(description, total=total), total
        last: deque[str] = deque(maxlen=200)
        with (
            (self.project / LOG).open("a", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            ) as process,
        ):
            for line in process.stdout:
                log.write(line)
                last.append(line)
                compiled = int("✓" in line and left > 1)
                left -= compiled
                task.advance(compiled, note=" ".join(line.split())[:40])
        if process.returncode:
            raise EngineError(f"setting up Julia failed: {_cause(''.join(last))} (see {self.project / LOG}).")
        task.advance(left, note="done")


def find_julia() -> Julia | None:
    """Return the Julia set by PYNEURALODE_JULIA, or else a suitable one on PATH; None if there is none.

    Raises EngineError if PYNEURALODE_JULIA names an unsuitable Julia.
    """
    named = named_julia()
    if named is None:
        return None
    try:
        julia = examine(*named)
    except JuliaMissing:
        if named[1] == "PATH":
            return None
        raise
    return julia if named[1] != "PATH" or _suits(julia.version) else None


def download_julia() -> Julia:
    """Download a Julia through juliapkg (or through juliaup, if that is installed), for this and later setups.

    This has not been tested so far, because the machines used in development have no network access.
    """
    from juliapkg.find_julia import find_julia as find_or_install

    prefix = data_folder() / "julia"
    try:
        executable, _ = find_or_install(_compat(), prefix=str(prefix), install=True)
    except Exception as error:  # juliapkg raises bare exceptions
        raise EngineError(
            f"Julia could not be installed: {_cause(str(error))}, or install it yourself and put it on PATH."
        ) from error
    return examine(Path(executable), "download")


def requirements(distribution: str) -> dict[str, tuple[str, str]]:
    """Return the Julia packages, with UUID and version range, that an installed Python package requires."""
    # "<=python" is juliapkg's notation for the versions that Python's own OpenSSL allows; see `Installation.resolve`.
    # PyNeuralODE comes from its folder, without a version.
    return {
        name: (package["uuid"], package["version"])
        for name, package in _juliapkg(distribution)["packages"].items()
        if package.get("version", "<=python") != "<=python"
    }


def _juliapkg(distribution: str) -> dict[str, Any]:
    """Return the juliapkg.json of a Python package without importing it: importing juliacall starts Julia."""
    spec = find_spec(distribution)
    if spec is None:
        raise EngineError(f"{distribution} is not installed: run `python -m pip install {distribution}`.")
    return json.loads((Path(spec.origin).parent / "juliapkg.json").read_text(encoding="utf-8"))


def _arguments(wanted: dict[str, tuple[str, str]]) -> list[str]:
    return [str(sources.folder()), *("|".join((name, *rest)) for name, rest in wanted.items())]


def _compat():
    """Return the Julia versions that pyneuralode, juliacall and Python's OpenSSL allow, in juliapkg's notation."""
    from juliapkg.compat import Compat

    ours, theirs = (Compat.parse(_juliapkg(name)["julia"]) for name in ("pyneuralode", "juliacall"))
    openssl = _openssl()[1]
    return ours & theirs if openssl is None else ours & theirs & Compat.parse(openssl)


def _openssl() -> tuple[str, str | None]:
    """Return the version ranges of OpenSSL_jll and of Julia that can share a process with Python's OpenSSL."""
    from juliapkg.deps import openssl_compat

    return openssl_compat()


def _suits(version: str) -> bool:
    from juliapkg.compat import Version

    return Version.parse(version if version.count(".") > 1 else f"{version}.99") in _compat()


def _for_child() -> dict[str, str]:
    """Return the environment for a child process, without this process's juliacall settings.

    PYTHONUNBUFFERED, which containers often set, makes Julia's precompilation of PythonCall's extensions fail: Python
    then writes the lines that PythonCall reads one by one.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON_JULIACALL_")}
    return environment | {"JULIA_CONDAPKG_BACKEND": "Null", "PYTHONUNBUFFERED": ""}


def _cause(output: str) -> str:
    for pattern, sentence in _CAUSES:
        if re.search(pattern, output, re.IGNORECASE):
            return sentence
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error", line, re.IGNORECASE)]
    return (errors or lines or ["there was no output"])[-1].rstrip(".")
