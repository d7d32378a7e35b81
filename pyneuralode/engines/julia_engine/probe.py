"""The search for a Julia whose project contains PyNeuralODE; nothing is installed, downloaded or imported.

juliacall is not imported here, because importing it starts Julia and, if no suitable Julia is found, uses the network.
"""

from __future__ import annotations

import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import sources
from .executables import Julia, JuliaMissing, examine, own_places, pair, setting
from .install_record import default_project, read_record
from .project import NEEDED, JuliaProject, read_project


@dataclass(frozen=True)
class JuliaProbe:
    """The result of a probe.

    Attributes
    ----------
    found : bool
        True if there is a Julia of a supported version and a project in which the Julia engine can run.
    executable, project : pathlib.Path or None
        The Julia executable, and the folder of the project in which to start Julia.
    version : str or None
        Julia's version, such as "1.11.2"; only "1.11" if the files next to the executable lack the full version.
    how : str
        Where the executable was found: an environment variable, "setup-julia" or "PATH"; empty if there is none.
    reason : str
        One sentence that says what is missing and what to do; empty if `found`.
    warning : str
        One sentence that says which part of the installation is out of date; empty if none is.
    package : pathlib.Path or None
        The folder of PyNeuralODE that the project uses.
    pythoncall : str or None
        The version of PythonCall in the project.
    sysimage : pathlib.Path or None
        The system image that `setup-julia --sysimage` built for this Julia and project, if it is current.
    depot : str or None
        The value of JULIA_DEPOT_PATH to set before Julia starts inside Python, if a wrapper script sets it for the
        Julia that it starts.
    """

    found: bool
    executable: Path | None = None
    project: Path | None = None
    version: str | None = None
    how: str = ""
    reason: str = ""
    warning: str = ""
    package: Path | None = None
    pythoncall: str | None = None
    sysimage: Path | None = None
    depot: str | None = None


def probe() -> JuliaProbe:
    """Look for Julia in pyneuralode's environment variables, juliacall's, the record of `setup-julia`, and PATH.

    `PYNEURALODE_JULIA` names the executable and `PYNEURALODE_JULIA_PROJECT` the project; either may be set without the
    other. `PYTHON_JULIACALL_EXE` and `PYTHON_JULIACALL_PROJECT` must be set together. A variable that is set takes
    precedence: if it names something unsuitable, the probe reports this instead of searching elsewhere without the
    user's knowledge. The result is cached until the environment variables change.
    """
    return _probe(frozenset(os.environ.items()))


def clear_cache() -> None:
    """Clear the cached result, so that the next probe searches again; for use after an installation."""
    _probe.cache_clear()


def named_julia() -> tuple[Path, str] | None:
    """Return the Julia executable set by PYNEURALODE_JULIA, or else the one on PATH, with the source of the setting."""
    executable = setting("PYNEURALODE_JULIA")
    if executable:
        return executable, "PYNEURALODE_JULIA"
    on_path = shutil.which("julia")
    return (Path(on_path), "PATH") if on_path else None


@functools.lru_cache(maxsize=8)
def _probe(environment: frozenset[tuple[str, str]]) -> JuliaProbe:
    named, how = None, ""
    try:
        named, how, project = _named()
        return _answer(examine(named, how), project)
    except JuliaMissing as missing:
        reason = str(missing)
        if how == "setup-julia":
            reason = f"the Julia that `pyneuralode setup-julia` installed or found, {named}, is missing: run the command again."
        return JuliaProbe(False, missing.executable, version=missing.version, how=how, reason=reason)


def _named() -> tuple[Path, str, Path | None]:
    """Return the executable, the setting that names it, and the project set with it; raise JuliaMissing if there is none."""
    project = setting("PYNEURALODE_JULIA_PROJECT")
    if not (setting("PYNEURALODE_JULIA") or project):
        names = "PYTHON_JULIACALL_EXE", "PYTHON_JULIACALL_PROJECT"
        executable, theirs = map(setting, names)
        if executable and theirs:
            return executable, "PYTHON_JULIACALL_EXE", theirs
        if executable or theirs:
            present, absent = names if executable else names[::-1]
            raise JuliaMissing(f"{present} is set without {absent}: set both or neither.")
        record = read_record(default_project())
        if record is not None:
            return Path(record.executable), "setup-julia", Path(record.project)
    named = named_julia()
    if named is None:
        raise JuliaMissing(
            "there is no julia on PATH: run `pyneuralode setup-julia`, or set PYNEURALODE_JULIA to the path "
            "of Julia 1.10 or newer."
        )
    return *named, project


def _answer(julia: Julia, project: Path | None) -> JuliaProbe:
    own_project, depots = own_places(julia.executable) if julia.wrapper else (None, ())
    candidates = [project] if project else _environments(julia) + [own_project] * (own_project is not None)
    looked_at = [read_project(candidate, julia.version) for candidate in candidates]
    fitting = [candidate for candidate in looked_at if not candidate.missing]
    if project is None and not fitting:
        raise JuliaMissing(
            f"Julia {julia.version} was found, but its environments do not contain {' and '.join(NEEDED)}: run "
            "`pyneuralode setup-julia`, or set PYNEURALODE_JULIA_PROJECT to a project that does.",
            julia.executable,
            julia.version,
        )
    chosen = (fitting or looked_at)[0]
    fault = chosen.fault()
    sysimage, outdated = (None, "") if fault else _sysimage(julia, chosen)
    return JuliaProbe(
        not fault,
        julia.executable,
        chosen.folder,
        julia.version,
        julia.how,
        fault,
        warning="" if fault else chosen.warning() or outdated,
        package=chosen.package,
        pythoncall=chosen.pythoncall,
        sysimage=sysimage,
        depot=os.pathsep.join(depots) or None,
    )


def _environments(julia: Julia) -> list[Path]:
    """Return the projects that this Julia uses by default: JULIA_PROJECT, then the projects in the depots."""
    depots = [Path(entry) for entry in os.environ.get("JULIA_DEPOT_PATH", "").split(os.pathsep) if entry]
    depots = depots or [Path.home() / ".julia"]
    named = os.environ.get("JULIA_PROJECT", "")
    folders = []
    if named.startswith("@") and named not in ("@", "@."):
        folders += [depot / "environments" / named[1:] for depot in depots]
    elif named and not named.startswith("@"):
        folders.append(Path(named))
    major, minor = pair(julia.version)
    return folders + [depot / "environments" / f"v{major}.{minor}" for depot in depots]


def _sysimage(julia: Julia, project: JuliaProject) -> tuple[Path | None, str]:
    """Return the system image built for this Julia and project, or a message if it is out of date.

    An image contains compiled sources: an outdated one would silently run old code.
    """
    record = read_record(project.folder)
    if record is None or record.sysimage is None or Path(record.executable) != julia.executable:
        return None, ""
    image = Path(record.sysimage)
    if not image.is_file():
        return None, ""
    if project.package is None or sources.digest(project.package) != record.digest:
        return None, (
            f"the system image {image} is older than the Julia sources and is not used: "
            "run `pyneuralode setup-julia --sysimage`."
        )
    return image, ""
