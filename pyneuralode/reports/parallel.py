"""Independent jobs of a report side by side in processes, their progress drawn in one place."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, as_completed, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from ..progress import Progress, ProgressTask

Fit = TypeVar("Fit")
_messages: Any = None  # in a worker process: the queue that its progress goes to


@dataclass(frozen=True)
class Job:
    """A piece of work: ``work(*arguments, advance=...)`` calls ``advance(n, note)`` for each unit of its `total`.

    `work` is a function of a module, since processes import it by name. `cost` estimates how long it takes compared with
    the other jobs: the most expensive start first, so that no worker is left alone with one at the end.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple
    total: int
    cost: float = 0.0


class OneBar:
    """A Progress whose tasks all share the one bar of a job."""

    def __init__(self, advance: Callable[..., None]):
        self.advance = advance

    def task(self, description: str, total: float | None = None) -> OneBar:
        return self


def completed(fit: Fit) -> Fit:
    """Return a fit, or raise KeyboardInterrupt if it was interrupted: a fit that was stopped is not a result."""
    if fit.interrupted:
        raise KeyboardInterrupt
    return fit


def run_jobs(jobs: Sequence[Job], workers: int, progress: Progress, executor: Executor | None = None) -> list[Any]:
    """Run jobs, up to `workers` at once, and return their results in the order of the jobs.

    A bar appears when its job begins. Processes are spawned, since a forked torch may hang, and use one thread each.
    With an `executor`, such as that of a dask client for a cluster, the jobs run there instead, and one bar
    counts those that have ended.
    """
    if executor is not None:
        return _run_on_executor(jobs, executor, progress)
    if workers == 1 or len(jobs) <= 1:
        found = {index: _run_here(jobs[index], progress) for index in _longest_first(jobs)}
        return [found[index] for index in range(len(jobs))]
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    tasks: dict[int, ProgressTask] = {}
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (messages,)) as pool:
        running = {index: pool.submit(_run_in_worker, index, jobs[index]) for index in _longest_first(jobs)}
        left = set(running.values())
        try:
            while left:
                done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()  # a failure ends the whole report at once
                _draw_progress(messages, jobs, tasks, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [running[index].result() for index in range(len(jobs))]


def _run_here(job: Job, progress: Progress) -> Any:
    return job.work(*job.arguments, advance=progress.task(job.name, job.total).advance)


def _run_on_executor(jobs: Sequence[Job], executor: Executor, progress: Progress) -> list[Any]:
    task = progress.task("jobs of the executor", len(jobs))
    running = {
        index: executor.submit(jobs[index].work, *jobs[index].arguments, advance=_ignore_progress)
        for index in _longest_first(jobs)
    }
    try:
        for future in as_completed(running.values()):
            future.result()
            task.advance(1)
    except BaseException:
        for future in running.values():
            future.cancel()
        raise
    return [running[index].result() for index in range(len(jobs))]


def _longest_first(jobs: Sequence[Job]) -> list[int]:
    return sorted(range(len(jobs)), key=lambda index: -jobs[index].cost)


def _ignore_progress(n: int = 1, note: str = "") -> None:
    """Stand in for `advance` where no bar can be reached."""


def _start_worker(messages: Any) -> None:
    import torch

    global _messages
    _messages = messages
    torch.set_num_threads(1)


def _run_in_worker(index: int, job: Job) -> Any:
    pending = 0
    _messages.put((index, 0, ""))

    def advance(n: int = 1, note: str = "") -> None:
        # A message for every iteration would cost more than the iteration.
        nonlocal pending
        pending += n
        if pending >= 50:
            _messages.put((index, pending, note))
            pending = 0

    result = job.work(*job.arguments, advance=advance)
    _messages.put((index, pending, ""))
    return result


def _draw_progress(messages: Any, jobs: Sequence[Job], tasks: dict[int, ProgressTask], progress: Progress) -> None:
    while True:
        try:
            index, n, note = messages.get_nowait()
        except queue.Empty:
            return
        if index not in tasks:
            tasks[index] = progress.task(jobs[index].name, jobs[index].total)
        tasks[index].advance(n, note)
