"""The worker process: Julia without torch, served over standard input and output.

`Worker` is the client, and `python -m pyneuralode.engines.julia_engine.worker` the server. This way import order,
signals and garbage collection of Julia and torch cannot interfere; the cost is that arrays are copied.

Every message is a pickled tuple. The client sends ("call", name, request, with_progress). The server may send
("progress", arguments) any number of times, each answered by a bool (whether to continue), and ends with
("reply", dict).
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
    """A Julia in a separate process, with the same `call` as `InProcessJulia`."""

    def __init__(self) -> None:
        # Run this module in a new interpreter, without forking this process or running the caller's script again.
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
        """Return the reply and pass on the progress reported before it; the first Ctrl-C requests an early end."""
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
                        except Exception as error:  # noqa: BLE001 - the callback failed: end the work, then raise its error here
                            go_on, failure = False, error
                    send(self._process.stdin, go_on)
        except (EOFError, pickle.UnpicklingError, BrokenPipeError):
            raise EngineError(
                f"the Julia worker process ended with status {self._process.wait()}: run `pyneuralode doctor --time`."
            ) from None
        except KeyboardInterrupt:
            self.close()  # in the middle of a message: the process can no longer be used
            raise
        if failure is not None:
            raise failure
        return content


@contextmanager
def _first_ctrl_c(gently: bool) -> Iterator[SimpleNamespace]:
    """Yield an object whose `stop` is set by the first Ctrl-C if the work can end `gently`.

    Any later Ctrl-C raises KeyboardInterrupt at once, and so does the first one without `gently`.

    A KeyboardInterrupt in the middle of a message would leave half of the message in the pipe.
    """
    ctrl_c, in_main = SimpleNamespace(stop=False), threading.current_thread() is threading.main_thread()

    def handle(number, frame) -> None:
        if ctrl_c.stop or not gently:
            raise KeyboardInterrupt
        ctrl_c.stop = True

    # If the caller ignores Ctrl-C or has installed a custom handler, leave it in place.
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client handles Ctrl-C and tells this process when to stop
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Julia takes over standard input, and its output must not be mixed with the replies.
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
