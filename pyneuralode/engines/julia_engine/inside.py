"""Julia in this process: the one place that imports juliacall, whose import starts Julia.

Neither torch nor anything that imports it may be imported here: the worker process runs this module without torch.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import EngineError
from .probe import JuliaProbe, probe
from .reply import read_reply

log = logging.getLogger("pyneuralode")

Progress = Callable[..., bool]


class Inside:
    """A running Julia with our package loaded; `call` is its one door."""

    def __init__(self) -> None:
        found = probe()
        if not found.found:
            raise EngineError(f"the Julia engine cannot start: {found.reason}")
        self._process = os.getpid()
        # Julia has one task at a time for us: calls from several threads wait for each other.
        self._lock = threading.RLock()
        start_runtime(found)
        self._entry = load_package()

    def call(self, name: str, request: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        """Run the function `name` of the Julia package on a request of plain values and NumPy arrays.

        `progress` is called back with what the function tells of its progress; where it returns False or Ctrl-C
        comes, the function ends early with what it has. Arrays in the reply are views of Julia's.
        """
        return read_reply(self.raw(name, request, progress))

    def raw(self, name: str, request: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
        """As `call`, but failures are returned as "error"."""
        with self.held():
            return self._entry(name, request, progress)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other threads out of Julia; EngineError in a process that was forked off the one with Julia."""
        if os.getpid() != self._process:
            raise EngineError(
                "Julia was started before this process was forked, and cannot run in a fork: start processes with the "
                "method 'spawn'."
            )
        with self._lock:
            yield

    alive = True

    def close(self) -> None:
        """Do nothing: a Julia inside a process ends with it."""


def start_runtime(found: JuliaProbe) -> None:
    """Start Julia by importing juliacall; a Julia that runs already is taken as it is."""
    settings = {
        "PYTHON_JULIACALL_EXE": str(found.executable),
        "PYTHON_JULIACALL_PROJECT": str(found.project),
        "PYTHON_JULIACALL_STARTUP_FILE": "no",
        "PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION": "no",
        "JULIA_CONDAPKG_BACKEND": "Null",  # PythonCall is not to build a Python of its own
    }
    if found.sysimage is not None:
        settings["PYTHON_JULIACALL_SYSIMAGE"] = str(found.sysimage)
    if found.depot is not None:
        settings["JULIA_DEPOT_PATH"] = found.depot
    if found.warning:
        log.warning(found.warning)
    with _environment(settings), warnings.catch_warnings():
        # It has crashed on macOS, where the worker process is the default; elsewhere it does no harm.
        warnings.filterwarnings("ignore", message="torch was imported before juliacall")
        try:
            importlib.import_module("juliacall")
        except Exception as error:  # juliacall raises bare exceptions; whatever it was, there is no Julia
            raise EngineError(
                f"Julia {found.version} at {found.executable} did not start ({_first_line(error)}): run `pyneuralode doctor`."
            ) from error


def load_package() -> Callable:
    """Load our Julia package and return its entry, ``entry(name, request, progress)``."""
    from juliacall import Main

    try:
        # Small nets gain nothing from more threads, and processes side by side lose by them.
        Main.seval("import PyNeuralODE; PyNeuralODE.LinearAlgebra.BLAS.set_num_threads(1)")
        return Main.seval("PyNeuralODE.python_entry()")
    except Exception as error:
        raise EngineError(
            f"Julia runs, but the package PyNeuralODE does not load ({_first_line(error)}): run `pyneuralode setup-julia`."
        ) from error


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set environment variables for as long as Julia starts, so that processes started later do not inherit them."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
