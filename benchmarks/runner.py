"""Run benchmarks and write their results: bench.json, bench.md and the figures, all or nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pyneuralode.files import check_folder, whole_folder
from pyneuralode.progress import Progress, SilentProgress

from .entries import CaseResult
from .libraries import installed
from .measures import QUICK, Effort, time_side_by_side, trace_memory, trace_precision
from .processes import Workspace
from .tables import markdown
from .tasks import OTHER_LIBRARIES, TASKS, Task, find_task

JSON, MARKDOWN = "bench.json", "bench.md"
FIGURES = {"time": "times", "precision": "work-precision", "memory": "memory"}
FILES = (JSON, MARKDOWN, *(f"{name}.png" for name in FIGURES.values()))


@dataclass(frozen=True)
class TaskResult:
    """A task and the results of its cases."""

    task: Task
    cases: list[CaseResult]


@dataclass(frozen=True)
class Outcome:
    """All results; `about` gives date, machine and command, `absent` lists the libraries that are not installed."""

    about: dict[str, Any]
    results: list[TaskResult]
    absent: tuple[str, ...]


def run_benchmarks(
    names: Iterable[str] = (),
    out: str | os.PathLike[str] = "pyneuralode-bench",
    quick: bool = False,
    pythons: Mapping[str, Path] | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Outcome:
    """Run benchmark tasks and write a folder with the numbers, tables and figures.

    Parameters
    ----------
    names : iterable of str
        Keys of `tasks.TASKS`; all of them by default.
    out : path
        Folder of the results; those of an earlier run are replaced.
    quick : bool
        Few and short rounds, only to check that everything works.
    pythons : mapping of str to path
        Python executables of libraries installed in another environment; see `libraries.read_pythons`.
    command : str
        The command as typed, for the record.
    progress : Progress, optional
        Silent by default.

    Raises
    ------
    ArgumentError
        Before anything is measured, if a task is unknown or `out` cannot be used for the results.

    Notes
    -----
    A peer that fails has the reason in place of its numbers; the others continue.
    """
    tasks = [find_task(name) for name in dict.fromkeys(names)] or list(TASKS.values())
    out, pythons = Path(out), dict(pythons or {})
    check_folder(out, FILES)
    present = installed(pythons)
    effort, progress = QUICK if quick else Effort(), progress or SilentProgress()
    about = _about(command)
    results = []
    with tempfile.TemporaryDirectory(prefix="pyneuralode-bench-") as folder:
        workspace = Workspace(Path(folder), pythons, empty_cache=not quick)
        for task in tasks:
            cases = [_measure(workspace, task, number, present, effort, progress) for number in range(len(task.cases))]
            results.append(TaskResult(task, cases))
    outcome = Outcome(about, results, tuple(library for library in OTHER_LIBRARIES if library not in present))
    write(out, outcome)
    return outcome


def _measure(
    workspace: Workspace, task: Task, number: int, present: tuple[str, ...], effort: Effort, progress: Progress
) -> CaseResult:
    case = task.cases[number]
    peers = [peer for peer in case.peers if peer.library in present]
    if task.measure == "time":
        return time_side_by_side(workspace, task.name, case, peers, effort, progress)
    if task.measure == "memory":
        return trace_memory(workspace, task.name, case, peers, effort, progress)
    return trace_precision(workspace, task.name, case, number, peers, effort, progress)


def write(out: Path, outcome: Outcome) -> None:
    """Write the folder, all or nothing."""
    from . import figures

    draws = {"time": figures.times, "precision": figures.precision, "memory": figures.memory}
    with whole_folder(out) as folder:
        text = json.dumps(_finite(as_json(outcome)), indent=1, allow_nan=False)
        (folder / JSON).write_text(text + "\n", encoding="utf-8")
        (folder / MARKDOWN).write_text(markdown(outcome), encoding="utf-8")
        for measure, name in FIGURES.items():
            cases = [
                (case.name, [dataclasses.asdict(entry) for entry in case.entries])
                for result in outcome.results
                if result.task.measure == measure
                for case in result.cases
            ]
            if cases:
                draws[measure](cases).savefig(folder / f"{name}.png", dpi=150)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as JSON values."""
    return {
        **outcome.about,
        "absent": outcome.absent,
        "tasks": [
            {
                "name": result.task.name,
                "title": result.task.title,
                "measure": result.task.measure,
                "goal": result.task.goal,
                "cases": [_case(case) for case in result.cases],
            }
            for result in outcome.results
        ],
    }


def _case(case: CaseResult) -> dict[str, Any]:
    settings = {name: value for name, value in case.settings.items() if name != "parameters"}
    entries = [{**dataclasses.asdict(entry), "median": entry.median} for entry in case.entries]
    return {"name": case.name, "settings": settings, "reference_failure": case.reference_failure, "entries": entries}


def _finite(value: Any) -> Any:
    """Return JSON values with None in place of non-finite numbers, which JSON does not support."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _about(command: str) -> dict[str, Any]:
    from pyneuralode import __version__

    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "command": command,
        "version": __version__,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Return the model of the processor, if the system reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            named = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        named = []
    return (named or [platform.processor() or "unknown processor"])[0]
