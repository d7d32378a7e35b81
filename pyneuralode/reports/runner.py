"""Compute reports and write their results."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from ..arguments import whole_number
from ..engines.registry import choose_engine
from ..errors import ArgumentError, unknown_name
from ..progress import Progress, SilentProgress
from .base import SCALES, Context, Row
from .format import number
from .page import render
from .registry import REPORTS, find_report
from .store import check_destination, read_results, write_page, write_result


@dataclass(frozen=True)
class ReportSummary:
    """The path of the page, (met targets, all targets) for each report, and messages about the missed targets."""

    page: Path
    tally: dict[str, tuple[int, int]]
    missed: tuple[str, ...]


def run_reports(
    ids: Iterable[str],
    out: str | os.PathLike[str] = "pyneuralode-report",
    scale: str = "full",
    engine: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    check: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> ReportSummary:
    """Compute reports; write `OUT/ID/` for each, and `OUT/index.html` for all results in OUT.

    Parameters
    ----------
    ids : iterable of str
        Keys of `registry.REPORTS`; repeated ids run once.
    out : path
        Folder for the results, created if it does not exist. Results of other reports in it are kept.
    scale : {"quick", "full"}
    engine : {"auto", "torch", "julia"}
    seed : int
        From 0 to 2^32 - 1.
    workers : int, optional
        Maximum number of processes that run at once; by default one per core.
    check : bool
        Whether to fill `missed`; targets apply only at full scale.
    progress : Progress, optional
        Silent by default.
    executor : concurrent.futures.Executor, optional
        Runs the jobs of a report (its fits and training runs) instead of processes on this machine; on a cluster, for
        instance ``dask.distributed.Client(...).get_executor()``.

    Returns
    -------
    ReportSummary
        `missed` contains one message for each row whose target was missed; it is empty without `check`.

    Raises
    ------
    ArgumentError
        Before anything is computed, if an argument is invalid or the results cannot be written to `out`.
    EngineError
        Before anything is computed, if the engine is not installed or not ready.

    Notes
    -----
    If a report raises an exception, it writes nothing; the reports completed before it remain on the page.
    """
    reports = [find_report(id) for id in dict.fromkeys(ids)]
    out = Path(out)
    if not reports:
        raise ArgumentError(f"ids is empty: give one or more of {', '.join(REPORTS)}.")
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    engine = choose_engine(engine)
    seed = whole_number("seed", seed, 0)
    if seed >= 2**32:
        raise ArgumentError(f"seed is {seed}: give an integer below 2^32.")
    workers = whole_number("workers", os.cpu_count() or 1 if workers is None else workers)
    if check and scale != "full":
        raise ArgumentError(
            f"check is given at scale {scale!r}, but targets apply only at full scale: omit check, or use scale 'full'."
        )
    check_destination(out, [report.id for report in reports])

    context = Context(scale, engine, seed, workers, progress or SilentProgress(), executor)
    tally: dict[str, tuple[int, int]] = {}
    missed: list[str] = []
    for report, run in [(report, report.load()) for report in reports]:
        start = time.perf_counter()
        findings = run(context)
        write_result(out, report, context, findings, time.perf_counter() - start)
        page = write_page(out, render(_in_order(read_results(out))))
        judged = [row for row in findings.rows if row.met is not None]
        tally[report.id] = (sum(row.met for row in judged), len(judged))
        if check:
            missed += [f"{report.id}: {_shortfall(row)}" for row in judged if not row.met]
    return ReportSummary(page, tally, tuple(missed))


def _in_order(results: list[dict]) -> list[dict]:
    places = {id: place for place, id in enumerate(REPORTS)}
    return sorted(results, key=lambda result: (places.get(result["id"], len(places)), result["folder"]))


def _shortfall(row: Row) -> str:
    ours = number(row.ours) if row.ours is not None and math.isfinite(row.ours) else "not a finite number"
    wanted = {"lower": "at most", "higher": "at least", "match": "near"}[row.better]
    return f"{row.name!r} is {ours}; the target is {wanted} {number(row.target, trim=True)}."
