"""Independent pieces of an experiment side by side in processes, their progress drawn in one place."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any

from ..progress import Progress

_reports: Any = None


def side_by_side(
    work: Callable[..., Any], jobs: Sequence[tuple], workers: int, progress: Progress, names: Sequence[str], total: int
) -> list[Any]:
    """Return ``[work(*job, advance=...) for job in jobs]``, up to `workers` at once.

    `work` is a function of a module (processes import it by name) that calls ``advance(n, note)`` for each unit
    of its `total`. Processes are spawned, since a forked torch may hang, and use one thread each.
    """
    tasks = [progress.task(name, total) for name in names]
    if workers == 1 or len(jobs) == 1:
        return [work(*job, advance=task.advance) for job, task in zip(jobs, tasks)]
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _start, (reports,)) as pool:
        running = [pool.submit(_run, work, index, job) for index, job in enumerate(jobs)]
        left = set(running)
        try:
            while left:
                done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()  # a failure ends the whole experiment at once
                _pass_on(reports, tasks)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in running]


def _start(reports: Any) -> None:
    import torch

    global _reports
    _reports = reports
    torch.set_num_threads(1)


def _run(work: Callable[..., Any], index: int, job: tuple) -> Any:
    pending = 0

    def advance(n: int = 1, note: str = "") -> None:
        # A message for every iteration would cost more than the iteration.
        nonlocal pending
        pending += n
        if pending >= 50:
            _reports.put((index, pending, note))
            pending = 0

    result = work(*job, advance=advance)
    _reports.put((index, pending, ""))
    return result


def _pass_on(reports: Any, tasks: Sequence) -> None:
    while True:
        try:
            index, n, note = reports.get_nowait()
        except queue.Empty:
            return
        tasks[index].advance(n, note)
