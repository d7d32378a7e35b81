"""Independent jobs of a report in parallel processes, with their progress shown in one place."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from ..progress import Progress, ProgressTask, SilentProgress

Fit = TypeVar("Fit")
_messages: Any = None  # in a worker process: the queue to which it sends its progress


@dataclass(frozen=True)
class Job:
    """A call ``work(*arguments, advance=...)``.

    `work` reports progress by calling ``advance(n, note)`` whenever n more of the job's `total` units are done.

    `work` must be a module-level function, since processes import it by name. `cost` estimates its duration relative to
    the other jobs: the most expensive jobs start first, so that no long job is left running alone at the end.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple
    total: int
    cost: float = 0.0


class OneBar:
    """A Progress whose tasks all advance the single progress bar of a job."""

    def __init__(self, advance: Callable[..., None]):
        self.advance = advance

    def task(self, description: str, total: float | None = None) -> OneBar:
        return self


def completed(fit: Fit) -> Fit:
    """Return the fit; if it was interrupted, its result is incomplete, so raise KeyboardInterrupt instead."""
    if fit.interrupted:
        raise KeyboardInterrupt
    return fit


def telling_loss(advance: Callable[..., None]) -> Callable[[int, int, float], None]:
    """Return a callback for a fit that advances its job's progress bar and shows the loss next to the bar."""
    return lambda stage, iteration, loss: advance(1, f"loss {loss:.3g}")


def run_jobs(jobs: Sequence[Job], workers: int, progress: Progress, executor: Executor | None = None) -> list[Any]:
    """Run jobs, up to `workers` at once, and return their results in the order of the jobs.

    A bar appears when its job begins. Processes are spawned, since torch may hang in a forked process, and use one
    thread each. With an `executor`, such as that of a dask client for a cluster, the executor runs the jobs instead,
    and a single bar counts the finished jobs.
    """
    longest_first = sorted(range(len(jobs)), key=lambda index: -jobs[index].cost)
    if executor is not None:
        bar, silent = progress.task("jobs of the executor", len(jobs)), SilentProgress().advance
        running = {k: executor.submit(jobs[k].work, *jobs[k].arguments, advance=silent) for k in longest_first}
        return _results(running, bar.advance)
    if workers == 1 or len(jobs) <= 1:
        found = {}
        for k in longest_first:
            bar = progress.task(jobs[k].name, jobs[k].total)
            found[k] = jobs[k].work(*jobs[k].arguments, advance=bar.advance)
        return [found[k] for k in range(len(jobs))]
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    bars: dict[int, ProgressTask] = {}
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (messages,)) as pool:
        running = {k: pool.submit(_run_in_worker, k, jobs[k]) for k in longest_first}
        try:
            return _results(running, lambda ended: _draw_progress(messages, jobs, bars, progress))
        except BaseException:
            pool.shutdown(wait=False)  # do not wait for running jobs
            raise


def _results(running: Mapping[int, Future], ended: Callable[[int], None]) -> list[Any]:
    """Return the results of futures in the order of their keys; `ended(n)` is called when n more futures are done.

    After the first failure, the remaining futures are canceled.
    """
    left = set(running.values())
    try:
        while left:
            done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            ended(len(done))
    except BaseException:
        for future in running.values():
            future.cancel()
        raise
    return [running[k].result() for k in range(len(running))]


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
