"""The running Julia of this Python process, started when it is first needed."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

from ...errors import ArgumentError, EngineError, unknown_name
from .in_process import Inside
from .worker import Worker

PROCESSES = ("inside", "worker")

_session: Inside | Worker | None = None
_process: str | None = None
_forgotten: list[int] = []


def start_julia(process: str | None = None) -> None:
    """Start the Julia engine now, rather than at its first use.

    Parameters
    ----------
    process : {"inside", "worker"}, optional
        "inside" runs Julia in this process, which copies no arrays. "worker" runs it in a process of its own, away from
        torch, where import order, signals and threads cannot interfere. Unless given it is what the environment variable
        `PYNEURALODE_JULIA_PROCESS` says, else "worker" on macOS, where torch and Julia in one process have crashed, and
        "inside" elsewhere.

    Raises
    ------
    EngineError
        If there is no Julia; the sentence says what to do.
    ArgumentError
        If Julia runs already, the other way.
    """
    global _session, _process
    wanted = process or _process or _default()
    if wanted not in PROCESSES:
        raise unknown_name("process", wanted, PROCESSES)
    if runs():
        if process is not None and process != _process:
            raise ArgumentError(
                f"process is {process!r}, but Julia already runs as {_process!r}: call start_julia before anything uses Julia."
            )
        return
    _session = Inside() if wanted == "inside" else Worker()
    _process = wanted
    _forgotten.clear()
    atexit.register(_session.close)


def _default() -> str:
    return os.environ.get("PYNEURALODE_JULIA_PROCESS") or ("worker" if sys.platform == "darwin" else "inside")


def runs() -> bool:
    """Whether Julia has been started."""
    return _session is not None and _session.alive


def call(name: str, request: dict[str, Any], progress: Callable[..., bool] | None = None) -> dict[str, Any]:
    """Run a function of the Julia package on a request of plain values and NumPy arrays, starting Julia if need be."""
    julia = running()
    if _forgotten:
        request = request | {"forget": forgotten()}
    return julia.call(name, request, progress)


def running() -> Inside | Worker:
    """Return the running Julia, started if need be."""
    start_julia()
    return _session


def forgotten() -> list[int]:
    """Return, once, the numbers of what Julia need not keep any longer."""
    return [_forgotten.pop() for _ in range(len(_forgotten))]


def with_julia(work: Callable[[Any], Any]) -> Any:
    """Return work(Main), Main being juliacall's, with other threads kept out of Julia: Python code that it calls lets them run.

    Raises EngineError where Julia is to run in the worker process, which no Python function reaches.
    """
    if (_process or _default()) != "inside":
        raise EngineError(
            "Julia runs in the worker process, from where it cannot call a Python function: set "
            "PYNEURALODE_JULIA_PROCESS=inside before anything uses Julia, or write engine='torch'."
        )
    start_julia("inside")
    from juliacall import Main

    return _session.run(lambda: work(Main))


class Kept:
    """Something that Julia keeps for us, by number; forgotten there after it is forgotten here."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self, forget=_forgotten.append):
        # Julia must not be called from a garbage collection: the number goes along with the next call.
        forget(self.number)
