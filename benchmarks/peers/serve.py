"""Run one peer in this process: read requests, one JSON object per line, and answer each with another.

    python serve.py LIBRARY TASK VARIANT PROBLEM.npz THREADS

`benchmarks.processes` starts this script, possibly with a Python in which pyneuralode is not installed. The first line
is a greeting: {"import_seconds": s, "python": version, "versions": {...}}. Then come requests and answers:

    {"do": "prepare", "settings": {...}}   prepare the problem and run it for the first time -> {"seconds": s}
    {"do": "round", "iterations": n}       run it n times -> {"seconds": [...]}
    {"do": "found", "file": PATH}          write states and gradient to an npz file -> {"counts": {...}}
    {"do": "peak"}                         run it once -> {"bytes": growth of the resident memory to its peak}

A failure ends the process; the last line of its stderr gives the reason.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time

import numpy as np
from interface import ProblemData, Run

# The packages whose versions are reported in addition to that of the library.
DEPENDENCIES = {
    "pyneuralode": ("torch", "numba"),
    "torchdiffeq": ("torch",),
    "torchode": ("torch",),
    "diffrax": ("jax",),
    "scipy": (),
}


def main(library: str, task: str, variant: str, path: str, threads: str) -> None:
    # Output that libraries print goes to stderr, so that stdout contains only answers.
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as answers:
        os.dup2(2, 1)
        limit_cores(int(threads))
        problem = ProblemData.read(path)
        begin = time.perf_counter()
        build = importlib.import_module(f"with_{library}").TASKS[task]
        greeting = {"import_seconds": time.perf_counter() - begin, "python": platform.python_version()}
        answers.write(json.dumps({**greeting, "versions": versions(library)}) + "\n")
        requests = Requests(lambda settings: build(problem.with_settings(settings), variant))
        for line in sys.stdin:
            request = json.loads(line)
            answer = getattr(requests, request.pop("do"))(**request)
            answers.write(json.dumps(answer) + "\n")


class Requests:
    """The requests that a peer answers, with one method for each."""

    def __init__(self, build):
        self.build = build
        self.run: Run | None = None

    def prepare(self, settings: dict) -> dict:
        begin = time.perf_counter()
        self.run = self.build(settings)
        self.run.iterate()
        return {"seconds": time.perf_counter() - begin}

    def round(self, iterations: int) -> dict:
        iterate, clock, seconds = self.run.iterate, time.perf_counter, []
        for _ in range(iterations):
            begin = clock()
            iterate()
            seconds.append(clock() - begin)
        return {"seconds": seconds}

    def found(self, file: str) -> dict:
        result = self.run.result()
        gradient = {f"gradient_{name}": np.asarray(value, float) for name, value in result.gradient.items()}
        np.savez(file, states=np.asarray(result.states, float), **gradient)
        return {"counts": result.counts}

    def peak(self) -> dict:
        if not os.path.exists("/proc/self/clear_refs"):
            raise RuntimeError("peak memory is measured on Linux only")
        gc.collect()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak to the current resident memory
        before = resident("VmRSS")
        self.run.iterate()
        return {"bytes": resident("VmHWM") - before}


def resident(name: str) -> int:
    """Return the resident memory of this process in bytes, now ("VmRSS") or at its peak ("VmHWM")."""
    with open("/proc/self/status") as file:
        (kilobytes,) = (line.split()[1] for line in file if line.startswith(f"{name}:"))
    return 1024 * int(kilobytes)


def limit_cores(threads: int) -> None:
    """Limit this process to as many cores as threads, if the system allows it, so that no library can use more."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def versions(library: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in (library, *DEPENDENCIES[library])}


if __name__ == "__main__":
    main(*sys.argv[1:])
