"""The running Julia of this Python process, started when it is first needed."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

from ...errors import ArgumentError, EngineError, unknown_name
from .in_process import InProcessJulia
from .worker import Worker

PROCESSES = ("inside", "worker")

_session: InProcessJulia | Worker | None = None
_process: str | None = None
_unused_handles: list[int] = []


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
    _session = InProcessJulia() if wanted == "inside" else Worker()
    _process = wanted
    _unused_handles.clear()
    atexit.register(_session.close)


def _default() -> str:
    return os.environ.get("PYNEURALODE_JULIA_PROCESS") or ("worker" if sys.platform == "darwin" else "inside")


def runs() -> bool:
    """Whether Julia has been started."""
    return _session is not None and _session.alive


def call(name: str, request: dict[str, Any], progress: Callable[..., bool] | None = None) -> dict[str, Any]:
    """Run a function of the Julia package on a request of plain values and NumPy arrays, starting Julia if need be."""
    julia = running()
    if _unused_handles:
        request = request | {"free": take_unused_handles()}
    return julia.call(name, request, progress)


def running() -> InProcessJulia | Worker:
    """Return the running Julia, started if need be."""
    start_julia()
    return _session


def take_unused_handles() -> list[int]:
    """Return, and clear, the numbers of the objects that Julia need not keep any longer."""
    return [_unused_handles.pop() for _ in range(len(_unused_handles))]


def with_julia(work: Callable[[Any], Any]) -> Any:
    """Return work(Main), with juliacall's Main; other threads stay out of Julia meanwhile, but run while `work` runs Python code.

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


class Handle:
    """An object that Julia keeps for us under a number; Julia frees it after this handle is garbage."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self, mark_unused=_unused_handles.append):
        # Julia must not be called from a garbage collection: the number is sent with the next call.
        mark_unused(self.number)
