"""The worker process: Julia without torch, served over standard input and output.

`Worker` is the side that asks, `python -m pyneuralode.engines.julia_engine.worker` the one that answers. It removes the
questions of import order, signals and garbage collection between Julia and torch, at the price of copying arrays.

Every message is a pickled tuple after its length: ("call", name, request, with progress) is answered by ("progress",
arguments) as often as there is something to tell, each answered by a bool "go on", and by ("reply", dict) in the end.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

from ...errors import EngineError
from .decode import read_reply

Progress = Callable[..., bool]

_LENGTH = struct.Struct("<Q")


def send(stream: BinaryIO, message: Any) -> None:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Return the next message; EOFError where the other side is gone."""
    return pickle.loads(_exactly(stream, _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0]))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = stream.read(count - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


class Worker:
    """A Julia in a process of its own; the same `call` as `Inside`."""

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
        """Return the reply, passing on what is told before it; the first Ctrl-C then asks for an early end."""
        failure = None
        try:
            with _CtrlC(gently=progress is not None) as asked:
                while True:
                    kind, content = receive(self._process.stdout)
                    if kind == "reply":
                        break
                    go_on = not asked.stop and failure is None
                    if go_on:
                        try:
                            go_on = progress(*content) is not False
                        except Exception as error:  # the caller's callback failed: end the work, then raise it here
                            go_on, failure = False, error
                    send(self._process.stdin, go_on)
        except (EOFError, BrokenPipeError):
            raise EngineError(
                f"the Julia worker process ended with status {self._process.wait()}: run `pyneuralode doctor --time`."
            ) from None
        except KeyboardInterrupt:
            self.close()  # in the middle of a message: there is no going on with this process
            raise
        if failure is not None:
            raise failure
        return content


class _CtrlC:
    """While a call runs: the first Ctrl-C sets `stop` where the work can end early, any other is raised at once.

    A KeyboardInterrupt in the middle of a message would leave half of it in the pipe.
    """

    def __init__(self, gently: bool):
        self.stop, self._gently, self._before = False, gently, None

    def __enter__(self) -> _CtrlC:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            # Where the caller ignores Ctrl-C, or has a handler of his own, it stays.
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, number, frame) -> None:
        if self.stop or not self._gently:
            raise KeyboardInterrupt
        self.stop = True

    def __exit__(self, *_) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)


def main() -> None:
    """Serve calls until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells us when to stop
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Julia takes hold of standard input, and what it prints is not to land among the answers.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    from .in_process import Inside

    try:
        julia = Inside()
    except EngineError as error:
        send(answers, ("reply", {"error": {"kind": "engine", "message": str(error)}}))
        return
    send(answers, ("reply", {}))

    def progress(*told: Any) -> bool:
        send(answers, ("progress", told))
        return receive(questions)

    while True:
        try:
            _, name, request, wants_progress = receive(questions)
        except EOFError:
            return
        send(answers, ("reply", julia.raw(name, request, progress if wants_progress else None)))


if __name__ == "__main__":
    main()
