"""A peer in a separate process; each request and each answer is one line of JSON."""

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

from pyneuralode.errors import PyNeuralODEError

ROOT = Path(__file__).parents[1]  # the checkout, which also contains pyneuralode
SCRIPT = Path(__file__).with_name("peers") / "serve.py"


class PeerError(PyNeuralODEError, RuntimeError):
    """A peer's process ended, or did not answer in time."""


@dataclass(frozen=True)
class Workspace:
    """Where and how the peers' processes run.

    Attributes
    ----------
    folder : Path
        A temporary folder for problems and results.
    pythons : dict of str to Path
        Python executables of the libraries that are installed in another environment.
    threads : int
        Threads, and cores, of each process.
    timeout : float
        Seconds after which a process that has not answered is ended.
    empty_cache : bool
        Whether compiled code is kept in a separate folder for the task, empty at first, instead of the user's cache.
    root, script : Path
        The checkout whose pyneuralode is used, and the script that its processes run.
    """

    folder: Path
    pythons: Mapping[str, Path]
    threads: int = 1
    timeout: float = 1800.0
    empty_cache: bool = False
    root: Path = ROOT
    script: Path = SCRIPT


class PeerProcess:
    """The process of one peer with one task; a context manager that ends it."""

    def __init__(
        self,
        workspace: Workspace,
        library: str,
        task: str,
        variant: str,
        problem: Path,
        environment: Mapping[str, str] = {},
    ):
        python = workspace.pythons.get(library, Path(sys.executable))
        self._timeout = workspace.timeout
        self._errors = (workspace.folder / f"{os.urandom(4).hex()}.log").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [str(python), str(workspace.script), library, task, variant, str(problem), str(workspace.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**_environment(workspace, task, elsewhere=library in workspace.pythons), **environment},
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read_answers, daemon=True).start()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # a request that was not read
            self._process.stdin.close()
        self._errors.close()

    def greeting(self) -> dict[str, Any]:
        """Return the process's first line: its versions, and how long its imports took."""
        return self._answer()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer; `peers/serve.py` lists the requests."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # the process has ended, and _answer gives the reason
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            self._process.kill()
            raise PeerError(f"no answer in {self._timeout:g} s") from None
        if line is None:
            self._answers.put(None)
            raise PeerError(self._failure())
        return json.loads(line)

    def _read_answers(self) -> None:
        with self._process.stdout as answers:
            for line in answers:
                self._answers.put(line)
        self._answers.put(None)

    def _failure(self) -> str:
        """Return the error line of a traceback on stderr, or the exit status."""
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        unindented = [line.strip() for line in lines if line.strip() and not line.startswith(" ")]
        return unindented[-1] if unindented and status > 0 else f"ended with status {status}"


def _environment(workspace: Workspace, task: str, elsewhere: bool) -> dict[str, str]:
    """Return a process's environment: limited threads, no Julia, and the checkout on the path unless `elsewhere`."""
    count = str(workspace.threads)
    environment = {**os.environ, "PYNEURALODE_ENGINE": "torch", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_TRACEBACK_FILTERING": "off"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[name] = count
    environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads={count}"
    if workspace.empty_cache:
        environment["NUMBA_CACHE_DIR"] = str(workspace.folder / f"{task}-compiled")
    if elsewhere:
        for name in ("PYTHONPATH", "PYTHONHOME"):
            environment.pop(name, None)
    else:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(workspace.root), os.environ.get("PYTHONPATH")]))
    return environment
