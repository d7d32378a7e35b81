"""Independent pieces of an experiment side by side in processes, their progress drawn in one place."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, as_completed, wait
from dataclasses import dataclass
from typing import Any

from ..progress import Progress, ProgressTask

_reports: Any = None


@dataclass(frozen=True)
class Job:
    """A piece of work: ``work(*arguments, advance=...)`` calls ``advance(n, note)`` for each unit of its `total`.

    `work` is a function of a module, since processes import it by name.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple
    total: int


class OneBar:
    """A Progress all of whose tasks go on in the one bar of a job."""

    def __init__(self, advance: Callable[..., None]):
        self.advance = advance

    def task(self, description: str, total: float | None = None) -> OneBar:
        return self


def side_by_side(jobs: Sequence[Job], workers: int, progress: Progress, executor: Executor | None = None) -> list[Any]:
    """Return what each job's work returns, in their order, with up to `workers` at once.

    A bar appears when its job begins. Processes are spawned, since a forked torch may hang, and use one thread each.
    With an `executor`, such as the one of a dask client for a cluster, the jobs run there instead, and one bar
    counts those that have ended.
    """
    if executor is not None:
        return _elsewhere(jobs, executor, progress)
    if workers == 1 or len(jobs) == 1:
        return [job.work(*job.arguments, advance=progress.task(job.name, job.total).advance) for job in jobs]
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    tasks: dict[int, ProgressTask] = {}
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _start, (reports,)) as pool:
        running = [pool.submit(_run, index, job) for index, job in enumerate(jobs)]
        left = set(running)
        try:
            while left:
                done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()  # a failure ends the whole experiment at once
                _pass_on(reports, jobs, tasks, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in running]


def _elsewhere(jobs: Sequence[Job], executor: Executor, progress: Progress) -> list[Any]:
    task = progress.task("jobs of the executor", len(jobs))
    running = [executor.submit(job.work, *job.arguments, advance=_unheard) for job in jobs]
    try:
        for future in as_completed(running):
            future.result()
            task.advance(1)
    except BaseException:
        for future in running:
            future.cancel()
        raise
    return [future.result() for future in running]


def _unheard(n: int = 1, note: str = "") -> None:
    """Take the place of `advance` where nobody can hear it."""


def _start(reports: Any) -> None:
    import torch

    global _reports
    _reports = reports
    torch.set_num_threads(1)


def _run(index: int, job: Job) -> Any:
    pending = 0
    _reports.put((index, 0, ""))

    def advance(n: int = 1, note: str = "") -> None:
        # A message for every iteration would cost more than the iteration.
        nonlocal pending
        pending += n
        if pending >= 50:
            _reports.put((index, pending, note))
            pending = 0

    result = job.work(*job.arguments, advance=advance)
    _reports.put((index, pending, ""))
    return result


def _pass_on(reports: Any, jobs: Sequence[Job], tasks: dict[int, ProgressTask], progress: Progress) -> None:
    while True:
        try:
            index, n, note = reports.get_nowait()
        except queue.Empty:
            return
        if index not in tasks:
            tasks[index] = progress.task(jobs[index].name, jobs[index].total)
        tasks[index].advance(n, note)
