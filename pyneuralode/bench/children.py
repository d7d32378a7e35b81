"""A contender in a process of its own, asked and answering one line of JSON at a time."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PyNeuralODEError

SCRIPT = Path(__file__).with_name("contenders") / "serve.py"
PACKAGES = Path(__file__).parents[2]  # the folder that holds this package


class Failed(PyNeuralODEError, RuntimeError):
    """A contender that ended, or that gave no answer in time."""


@dataclass(frozen=True)
class Room:
    """Where contenders run.

    Attributes
    ----------
    folder : Path
        A temporary folder for problems and results.
    pythons : dict of str to Path
        The Python executables of libraries that live in another environment.
    threads : int
        Threads, and cores, of each.
    patience : float
        Seconds after which a contender that has not answered is ended.
    fresh : bool
        Whether compiled code is kept in a folder of the task's own, empty at first, instead of the user's.
    """

    folder: Path
    pythons: Mapping[str, Path]
    threads: int = 1
    patience: float = 1800.0
    fresh: bool = False


class Child:
    """One process with one (task, library, variant); a context manager that ends it."""

    def __init__(
        self, room: Room, library: str, task: str, variant: str, problem: Path, environment: Mapping[str, str] = {}
    ):
        python = room.pythons.get(library, Path(sys.executable))
        self._patience = room.patience
        self._errors = (room.folder / f"{os.urandom(4).hex()}.log").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [str(python), str(SCRIPT), library, task, variant, str(problem), str(room.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**_environment(room, task, elsewhere=library in room.pythons), **environment},
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # a request that it never read
            self._process.stdin.close()
        self._errors.close()

    def greeting(self) -> dict[str, Any]:
        """Return what the process says first: versions, and the seconds of its imports."""
        return self._answer()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Return the answer to a request; see `contenders/serve.py`."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended: the missing answer says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=self._patience)
        except queue.Empty:
            self._process.kill()
            raise Failed(f"no answer in {self._patience:g} s") from None
        if line is None:
            self._answers.put(None)
            raise Failed(self._last_words())
        return json.loads(line)

    def _listen(self) -> None:
        with self._process.stdout as answers:
            for line in answers:
                self._answers.put(line)
        self._answers.put(None)

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        spoken = [line.strip() for line in lines if line.strip() and not line.startswith(" ")]
        return spoken[-1] if spoken and status > 0 else f"ended with status {status}"


def _environment(room: Room, task: str, elsewhere: bool) -> dict[str, str]:
    """Return the environment: so many threads, no Julia, and our own package only in our own Python."""
    count = str(room.threads)
    environment = {**os.environ, "PYNEURALODE_ENGINE": "torch", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_TRACEBACK_FILTERING": "off"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[name] = count
    environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads={count}"
    if room.fresh:
        environment["NUMBA_CACHE_DIR"] = str(room.folder / f"{task}-compiled")
    if elsewhere:
        for name in ("PYTHONPATH", "PYTHONHOME"):
            environment.pop(name, None)
    else:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    return environment
