"""The worker process: Julia without torch, served over standard input and output.

`Worker` is the client, and `python -m pyneuralode.engines.julia_engine.worker` the server. Import order, signals and garbage
collection of Julia and torch cannot interfere then; the price is that arrays are copied.

Every message is a pickled tuple. The client sends ("call", name, request, with_progress). The server may
send ("progress", arguments) any number of times, each answered by a bool (whether to go on), and ends with ("reply", dict).
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, BinaryIO

from ...errors import EngineError
from .decode import read_reply

Progress = Callable[..., bool]


def send(stream: BinaryIO, message: Any) -> None:
    stream.write(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))
    stream.flush()


class Worker:
    """A Julia in a process of its own; it has the `call` of `InProcessJulia`."""

    def __init__(self) -> None:
        # Our own module in a fresh interpreter: neither a fork, nor a second run of the caller's script.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyneuralode.engines.julia_engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lock = threading.RLock()
        self._answer(None)

    def call(self, name: str, request: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        with self._lock:
            send(self._process.stdin, ("call", name, request, progress is not None))
            return read_reply(self._answer(progress))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _answer(self, progress: Progress | None) -> dict[str, Any]:
        """Return the reply and pass on the progress before it; the first Ctrl-C asks for an early end."""
        failure = None
        try:
            with _first_ctrl_c(gently=progress is not None) as ctrl_c:
                while True:
                    kind, content = pickle.load(self._process.stdout)
                    if kind == "reply":
                        break
                    go_on = not ctrl_c.stop and failure is None
                    if go_on:
                        try:
                            go_on = progress(*content) is not False
                        except Exception as error:  # noqa: BLE001 - the caller's callback failed: end the work, then raise it here
                            go_on, failure = False, error
                    send(self._process.stdin, go_on)
        except (EOFError, pickle.UnpicklingError, BrokenPipeError):
            raise EngineError(
                f"the Julia worker process ended with status {self._process.wait()}: run `pyneuralode doctor --time`."
            ) from None
        except KeyboardInterrupt:
            self.close()  # in the middle of a message: the process cannot be used any further
            raise
        if failure is not None:
            raise failure
        return content


@contextmanager
def _first_ctrl_c(gently: bool) -> Iterator[SimpleNamespace]:
    """Yield an object whose `stop` the first Ctrl-C sets if the work can end `gently`, early; any other is raised at once.

    A KeyboardInterrupt in the middle of a message would leave half of it in the pipe.
    """
    ctrl_c, in_main = SimpleNamespace(stop=False), threading.current_thread() is threading.main_thread()

    def handle(number, frame) -> None:
        if ctrl_c.stop or not gently:
            raise KeyboardInterrupt
        ctrl_c.stop = True

    # A caller who ignores Ctrl-C, or has a handler of their own, keeps it.
    ours = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, handle)
    try:
        yield ctrl_c
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    """Serve calls until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the client, which tells us when to stop
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Julia takes over standard input, and what it prints must not end up among the replies.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    from .in_process import InProcessJulia

    try:
        julia = InProcessJulia()
    except EngineError as error:
        send(replies, ("reply", {"error": {"kind": "engine", "message": str(error)}}))
        return
    send(replies, ("reply", {}))

    def progress(*arguments: Any) -> bool:
        send(replies, ("progress", arguments))
        return pickle.load(requests)

    while True:
        try:
            _, name, request, wants_progress = pickle.load(requests)
        except EOFError:
            return
        send(replies, ("reply", julia.raw(name, request, progress if wants_progress else None)))


if __name__ == "__main__":
    main()
