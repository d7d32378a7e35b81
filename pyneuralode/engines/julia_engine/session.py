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
        "inside" runs Julia in this process, without copying arrays. "worker" runs it in a separate process, apart from
        torch, so that import order, signals and threads cannot interfere. The default is the value of the environment
        variable `PYNEURALODE_JULIA_PROCESS`, else "worker" on macOS, where torch and Julia in one process have crashed,
        and "inside" elsewhere.

    Raises
    ------
    EngineError
        If there is no Julia; the message says what to do.
    ArgumentError
        If Julia is already running in the other kind of process.
    """
    global _session, _process
    wanted = process or _process or _default()
    if wanted not in PROCESSES:
        raise unknown_name("process", wanted, PROCESSES)
    if runs():
        if process is not None and process != _process:
            raise ArgumentError(
                f"process is {process!r}, but Julia is already running as {_process!r}: call start_julia before anything uses Julia."
            )
        return
    _session = InProcessJulia() if wanted == "inside" else Worker()
    _process = wanted
    _unused_handles.clear()
    atexit.register(_session.close)


def _default() -> str:
    return os.environ.get("PYNEURALODE_JULIA_PROCESS") or ("worker" if sys.platform == "darwin" else "inside")


def runs() -> bool:
    """Return whether Julia is running."""
    return _session is not None and _session.alive


def call(name: str, request: dict[str, Any], progress: Callable[..., bool] | None = None) -> dict[str, Any]:
    """Run a function of the Julia package on a request of plain values and NumPy arrays, starting Julia if necessary."""
    julia = running()
    if _unused_handles:
        request = request | {"free": take_unused_handles()}
    return julia.call(name, request, progress)


def running() -> InProcessJulia | Worker:
    """Return the running Julia, starting it if necessary."""
    start_julia()
    return _session


def take_unused_handles() -> list[int]:
    """Return, and forget, the numbers of the objects that Julia no longer needs to keep."""
    return [_unused_handles.pop() for _ in range(len(_unused_handles))]


def with_julia(work: Callable[[Any], Any]) -> Any:
    """Return work(Main), where Main is Julia's module Main from juliacall.

    During the call no other thread can call Julia, but other threads run while `work` runs Python code.

    Raises EngineError if Julia runs in the worker process, which cannot call Python functions.
    """
    if (_process or _default()) != "inside":
        raise EngineError(
            "Julia runs in the worker process, from which it cannot call a Python function: set "
            "PYNEURALODE_JULIA_PROCESS=inside before anything uses Julia, or write engine='torch'."
        )
    start_julia("inside")
    from juliacall import Main

    return _session.run(lambda: work(Main))


class Handle:
    """An object that Julia stores under a number; Julia frees it after this handle has been garbage-collected."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self, mark_unused=_unused_handles.append):
        # Julia must not be called during garbage collection: the number is sent with the next call.
        mark_unused(self.number)
