"""Julia in this process. Only this module starts Julia, by importing juliacall.

Do not import torch here, or anything that imports it: the worker process runs this module without torch.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ...errors import EngineError, first_line
from .decode import read_reply
from .executables import SETTINGS
from .probe import JuliaProbe, probe

log = logging.getLogger("pyneuralode")

Progress = Callable[..., bool]


class InProcessJulia:
    """A Julia that runs in this process, with the package PyNeuralODE loaded."""

    def __init__(self) -> None:
        found = probe()
        if not found.found:
            raise EngineError(f"the Julia engine cannot start: {found.reason}")
        self._forked = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)
        # One call at a time: calls from several threads wait for each other. Julia crashes if a thread that has called
        # it ends while another thread is in a call, so the calls of all threads but this one are made by one helper
        # thread that never ends.
        self._lock = threading.RLock()
        self._julia_threads = {threading.get_ident()}
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="julia")
        start_runtime(found)
        self._entry = load_package()
        self.entry_points = EntryPoints()
        self.prepared: dict[tuple, Any] = {}  # the problems that Julia keeps prepared; see transfer.py
        _let_other_threads_collect_garbage()

    def call(self, name: str, request: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        """Run the function `name` of the Julia package on a request of plain values and NumPy arrays.

        The function reports its progress by calling `progress`; if that returns False, or on Ctrl-C, the function ends
        early with the results so far. Arrays in the reply are views of Julia's memory.
        """
        return read_reply(self.raw(name, request, progress))

    def raw(self, name: str, request: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
        """Like `call`, but return a failure as the reply's entry "error" instead of raising an exception."""
        return self.run(lambda: self._entry(name, request, progress))

    def run(self, work: Callable[[], Any]) -> Any:
        """Return work(); `work` may call Julia, and runs in a thread that is allowed to, one call at a time.

        Raises EngineError in a process that was forked from the one in which Julia runs.
        """
        if self._forked:
            raise EngineError(
                "Julia was started before this process was forked and cannot run in a fork: start processes with the "
                "method 'spawn'."
            )
        if threading.get_ident() not in self._julia_threads:
            return self._helper.submit(self._run_in_helper, work).result()
        with self._lock:
            return work()

    def _run_in_helper(self, work: Callable[[], Any]) -> Any:
        self._julia_threads.add(threading.get_ident())
        return self.run(work)

    def _after_fork(self) -> None:
        self._forked = True

    alive = True

    def close(self) -> None:
        """Do nothing: this Julia ends when the process ends."""


class EntryPoints:
    """The C functions of the Julia package, each of which maps an integer to an integer: see julia/src/prepared.jl.

    Python's global interpreter lock is held while one of them runs, as in any call by juliacall.
    """

    def __init__(self) -> None:
        from juliacall import Main

        function = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
        self.solve, self.pullback, self.free = map(function, Main.seval("PyNeuralODE.entry_points()"))


def _let_other_threads_collect_garbage() -> None:
    """Tell Julia that this thread runs no Julia code while it is in Python.

    Otherwise a garbage collection in another thread (torch runs the backward pass of CUDA tensors in one) waits for
    this thread forever. Each call into Julia marks its thread as running Julia code.
    """
    from juliacall import Main

    ctypes.PYFUNCTYPE(ctypes.c_int8)(Main.seval("Int(cglobal(:jl_gc_safe_enter))"))()


def start_runtime(found: JuliaProbe) -> None:
    """Start Julia by importing juliacall; a Julia that is already running is used as it is."""
    settings = {
        "PYTHON_JULIACALL_EXE": str(found.executable),
        "PYTHON_JULIACALL_PROJECT": str(found.project),
        "PYTHON_JULIACALL_STARTUP_FILE": "no",
        "PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION": "no",
        **SETTINGS,
    }
    optional = {"PYTHON_JULIACALL_SYSIMAGE": found.sysimage, "JULIA_DEPOT_PATH": found.depot}
    settings |= {name: str(value) for name, value in optional.items() if value is not None}
    if found.warning:
        log.warning(found.warning)
    with environment(settings), warnings.catch_warnings():
        # Importing torch first has caused crashes on macOS, where the worker process is the default; elsewhere it is
        # harmless.
        warnings.filterwarnings("ignore", message="torch was imported before juliacall")
        try:
            importlib.import_module("juliacall")
        except Exception as error:  # juliacall raises bare exceptions; any of them means that Julia did not start
            raise EngineError(
                f"Julia {found.version} at {found.executable} did not start ({first_line(error)}): run `pyneuralode doctor`."
            ) from error


def load_package() -> Callable:
    """Load the Julia package PyNeuralODE and return its entry point, ``entry(name, request, progress)``."""
    from juliacall import Main

    try:
        # Small networks gain nothing from more threads, and concurrent processes are slowed down by them.
        with environment(SETTINGS):  # packages that are not compiled yet are compiled now
            Main.seval("import PyNeuralODE; PyNeuralODE.LinearAlgebra.BLAS.set_num_threads(1)")
        return Main.seval("PyNeuralODE.python_entry()")
    except Exception as error:
        raise EngineError(
            f"Julia runs, but the package PyNeuralODE cannot be loaded ({first_line(error)}): run `pyneuralode setup-julia`."
        ) from error


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """Set environment variables temporarily, such as while Julia starts, so that later processes do not inherit them."""
    before = {name: os.environ[name] for name in settings if name in os.environ}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name, None)
        os.environ.update(before)
