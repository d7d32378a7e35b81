"""Setup of Julia: the steps of `pyneuralode setup-julia`, the only code of the Julia engine that may use the network.

Tested: the download of Julia, from a local server; the choice, installation and compilation of packages, offline, with a
Julia and packages that were already there. Not tested yet: the downloads that Julia's package manager makes,
PackageCompiler's system image, and diffeqpy's Julia packages.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import EngineError
from ...progress import Progress
from . import sources
from .executables import SETTINGS, Julia, JuliaMissing, examine
from .failure_causes import find_cause
from .install_record import Record, data_folder, default_project, make_folder, write_record
from .julia_download import downloaded_julia, parse_version
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

# Seconds without a line of output after which a step is ended. The packages are compiled in silence, ours longest.
_SILENCE = 30 * 60.0
_COMPILING_SILENCE = 4 * 3600.0


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
        """Resolve the versions of all packages and download those that are missing.

        If this fails, the project is left as it was.
        """
        wanted = requirements("pyneuralode") | requirements("juliacall")
        if with_diffeqpy:
            wanted |= requirements("diffeqpy")
        make_folder(self.project)
        (self.project / LOG).unlink(missing_ok=True)
        with _restored_on_failure(self.project / "Project.toml", self.project / "Manifest.toml"):
            self._step(progress, "Choosing Julia packages", _RESOLVE, *_arguments(wanted))
            openssl = _openssl()[0]
            if "[[deps.OpenSSL_jll]]" in self._manifest() and "OpenSSL_jll" not in wanted:
                wanted["OpenSSL_jll"] = ("458c3c95-2e84-50aa-8efc-19380b2a3a95", openssl)
                self._step(progress, "Matching Python's OpenSSL", _RESOLVE, *_arguments(wanted))

    def precompile(self, progress: Progress) -> None:
        """Precompile the packages for this machine; this is the longest step."""
        total = max(1, self._manifest().count("[[deps."))
        self._step(progress, "Compiling Julia packages", _PRECOMPILE, total=total, silence=_COMPILING_SILENCE)

    def build_image(self, progress: Progress) -> Path:
        """Build a system image of PyNeuralODE with PackageCompiler, in a separate environment, and return its path."""
        suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
        image, unfinished = (self.project / f"{stem}{suffix}" for stem in ("pyneuralode", "unfinished"))
        self._step(
            progress,
            "Building the system image",
            _BUILD_IMAGE,
            str(self.project),
            str(unfinished),
            project=self.project / "image-builder",
            silence=_COMPILING_SILENCE,
        )
        unfinished.replace(image)
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
        silence: float | None = None,
    ) -> None:
        julia = [str(self.julia.executable), "--startup-file=no", f"--project={project or self.project}"]
        environment = _for_child() | {"JULIA_PKG_PRECOMPILE_AUTO": "0"}
        self._run(progress, description, [*julia, "-e", code, *arguments], environment, total, silence)

    def _run(
        self,
        progress: Progress,
        description: str,
        command: list[str],
        environment: dict[str, str],
        total: int = 1,
        silence: float | None = None,
    ) -> None:
        """Run a command, show its output and the compiled packages as progress, and write all output to the log.

        A command that writes nothing for `silence` seconds, 30 minutes by default, is ended.
        """
        silence = _SILENCE if silence is None else silence
        task, left = progress.task(description, total=total), total
        last: deque[str] = deque(maxlen=200)
        process = self._start(command, environment)
        with (self.project / LOG).open("a", encoding="utf-8") as log:
            try:
                for line in _lines(process, silence):
                    log.write(line)
                    last.append(line)
                    compiled = int("✓" in line and left > 1)
                    left -= compiled
                    task.advance(compiled, note=" ".join(line.split())[:40])
                process.wait()
            except TimeoutError:
                raise self._failure(
                    f"{description!r} wrote nothing for {silence / 60:g} minutes and was ended: check the network, "
                    "then run `pyneuralode setup-julia` again"
                ) from None
            except OSError as error:  # the log cannot be written
                raise self._failure(find_cause(str(error))) from error
            finally:
                process.kill()  # after Ctrl-C too; nothing happens if it has ended
        if process.returncode:
            raise self._failure(_ending(process.returncode) or find_cause("".join(last)))
        task.advance(left, note="done")

    def _start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise self._failure(
                f"{command[0]} cannot be started ({error.strerror}): set PYNEURALODE_JULIA to another Julia, or remove "
                "this one"
            ) from error

    def _failure(self, cause: str) -> EngineError:
        return EngineError(f"setting up Julia failed: {cause} (see {self.project / LOG}).")


@contextmanager
def only_setup() -> Iterator[None]:
    """Keep other set-ups of the same user from running at the same time; raise EngineError if one is running."""
    from filelock import FileLock, Timeout

    make_folder(data_folder())
    lock = data_folder() / "setup.lock"
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise EngineError(
            f"another `pyneuralode setup-julia` is running (it holds {lock}): wait until it has ended, then run the "
            "command again."
        ) from error


def find_julia() -> Julia | None:
    """Return the Julia set by PYNEURALODE_JULIA, or else a suitable one on PATH, or else one that was downloaded before.

    Returns None if there is none. Raises EngineError if PYNEURALODE_JULIA names an unsuitable Julia.
    """
    named, allowed = named_julia(), allowed_versions()
    if named is not None:
        try:
            julia = examine(*named)
        except JuliaMissing:
            if named[1] != "PATH":
                raise
        else:
            if named[1] != "PATH" or parse_version(julia.version) in allowed:
                return julia
    return downloaded_julia(allowed)


def allowed_versions():
    """Return the Julia versions that pyneuralode, juliacall and Python's OpenSSL allow, in juliapkg's notation."""
    from juliapkg.compat import Compat

    ours, theirs = (Compat.parse(_juliapkg(name)["julia"]) for name in ("pyneuralode", "juliacall"))
    openssl = _openssl()[1]
    return ours & theirs if openssl is None else ours & theirs & Compat.parse(openssl)


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


def openssl_ceiling() -> str | None:
    """Return the newest series of Julia, such as "1.11", that can share a process with Python's OpenSSL.

    Returns None if there is no such limit, or if juliapkg, which knows it, is not installed.
    """
    if find_spec("juliapkg") is None:
        return None
    allowed = _openssl()[1]
    return None if allowed is None else allowed.rpartition("-")[2].strip()


def _openssl() -> tuple[str, str | None]:
    """Return the version ranges of OpenSSL_jll and of Julia that can share a process with Python's OpenSSL."""
    from juliapkg.deps import openssl_compat

    return openssl_compat()


def _for_child() -> dict[str, str]:
    """Return the environment for a child process, without this process's juliacall settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON_JULIACALL_")}
    return environment | SETTINGS


def _lines(process: subprocess.Popen[str], silence: float) -> Iterator[str]:
    """Yield the lines that a process writes; raise TimeoutError if it writes none for `silence` seconds."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (line := lines.get(timeout=silence)) is not None:
            yield line
    except queue.Empty:
        raise TimeoutError from None


def _ending(returncode: int) -> str:
    """Return the cause of the failure if a signal ended the process, as when memory runs out; empty otherwise."""
    if returncode >= 0:
        return ""
    name = signal.Signals(-returncode).name
    remedy = "free some memory" if name == "SIGKILL" else "remove this Julia, or set PYNEURALODE_JULIA to another one"
    return f"the process was ended by {name}: {remedy}, then run `pyneuralode setup-julia` again"


@contextmanager
def _restored_on_failure(*files: Path) -> Iterator[None]:
    """Put back the files as they were, or remove those that did not exist, if the body fails or is interrupted.

    Copies are made first and moved back, so that nothing is lost on a full disk.
    """
    copies = {file: file.with_name(f"{file.name}.before") for file in files}
    for file, copy in copies.items():
        copy.unlink(missing_ok=True)
        try:
            if file.exists():
                shutil.copy2(file, copy)
        except OSError as error:
            raise EngineError(f"setting up Julia failed: {find_cause(str(error))}.") from error
    try:
        yield
    except BaseException:
        for file, copy in copies.items():
            if copy.exists():
                copy.replace(file)
            else:
                file.unlink(missing_ok=True)
        raise
    for copy in copies.values():
        copy.unlink(missing_ok=True)
