"""Loading, through diffeqpy, of the Julia packages for each kind of equation, if they are installed.

When imported, diffeqpy installs missing Julia packages, and Julia itself if it is not on PATH. This module checks the
packages first, so that nothing uses the network without the user's consent.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ...errors import EngineError, first_line
from ...progress import RichProgress
from .executables import examine
from .in_process import environment
from .installation import Installation
from .probe import probe

# By kind of equation: the packages that diffeqpy loads. The first one has the solvers.
PACKAGES = {
    "ode": ("OrdinaryDiffEq", "OrdinaryDiffEqDefault"),
    "sde": ("StochasticDiffEq",),
    "dde": ("DelayDiffEq", "OrdinaryDiffEq"),
    "ida": ("Sundials",),
}
SETUP = "run `pyneuralode setup-julia --with-diffeqpy`"

_modules: dict[str, Any] = {}

_MISSING = """
names -> filter(collect(names)) do name
    id = Base.identify_package(name)
    id === nothing || Base.locate_package(id) === nothing
end
"""
# Returns whether every loaded package is still the version that the project specifies.
_UNCHANGED = """
() -> all(pathof(m) === nothing || Base.locate_package(id) in (nothing, pathof(m)) for (id, m) in Base.loaded_modules)
"""


def diffeqpy(kind: str, Main: Any) -> Any:
    """Return the Julia package that solves a kind of equation; `Main` is Julia's module Main, from `with_julia`.

    Raises EngineError if Julia packages are missing, unless the user agrees, at a prompt in the terminal, to install
    them now.
    """
    if kind in _modules:
        return _modules[kind]
    missing = _missing(kind, Main)
    if missing and _wants_installation(tuple(missing)):
        _install(Main)
        missing = _missing(kind, Main)
    if missing:
        raise EngineError(f"the Julia packages {', '.join(missing)}, which diffeqpy needs, are missing: {SETUP}.")
    return _modules.setdefault(kind, _import(kind, Main))


def _missing(kind: str, Main: Any) -> list[str]:
    return [str(package) for package in Main.seval(_MISSING)(PACKAGES[kind])]


def _import(kind: str, Main: Any) -> Any:
    from juliacall import JuliaError

    try:
        # Load the packages first, so that diffeqpy finds them loaded: if its own import failed, it would install them
        # again.
        Main.seval("import " + ", ".join(PACKAGES[kind]))
    except JuliaError as error:
        raise EngineError(f"the Julia packages of diffeqpy cannot be loaded ({first_line(error)}): {SETUP}.") from error
    with _julia_on_path(str(Main.seval("Sys.BINDIR"))):
        try:
            from diffeqpy import load_julia_packages
        except ModuleNotFoundError as error:
            raise EngineError("diffeqpy is not installed: run `python -m pip install diffeqpy`.") from error
        loaded = load_julia_packages(*PACKAGES[kind])
    return loaded if len(PACKAGES[kind]) == 1 else loaded[0]


def _julia_on_path(folder: str) -> AbstractContextManager[None]:
    """Put the running Julia on PATH if PATH contains no Julia: otherwise diffeqpy would install one."""
    path = os.pathsep.join((folder, os.environ.get("PATH", "")))
    return environment({"PATH": path} if shutil.which("julia") is None else {})


@functools.cache
def _wants_installation(missing: tuple[str, ...]) -> bool:
    """Ask the user once, if there is a terminal, whether to install the packages."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    question = f"The Julia packages {', '.join(missing)} are missing. Download and install diffeqpy's Julia packages now? [y/n]  "
    return input(question).strip().lower() in ("y", "yes")


def _install(Main: Any) -> None:
    found = probe()
    project = Path(str(Main.seval("dirname(Base.active_project())")))
    installation = Installation(examine(found.executable, found.how), project)
    with RichProgress() as progress:
        installation.resolve(progress, with_diffeqpy=True)
        installation.precompile(progress)
    if not Main.seval(_UNCHANGED)():
        raise EngineError(
            "installing diffeqpy's Julia packages changed packages that are already loaded: restart Python."
        )
