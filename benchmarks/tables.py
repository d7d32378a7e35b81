"""Results as tables: aligned text for a terminal, Markdown for a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from .entries import CaseResult, Entry
from .tasks import OTHER_LIBRARIES, OURS

if TYPE_CHECKING:
    from .runner import Outcome, TaskResult

NONE = "–"
ERRORS = (1e-3, 1e-6, 1e-9)


@dataclass(frozen=True)
class Table:
    """A table of text cells with named columns; the first column contains names, the others numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the table for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.columns))]
        aligned = [
            "  ".join([line[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(line[1:], widths[1:]))]).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *aligned, *self.notes])

    def markdown(self) -> str:
        """Return the table in Markdown."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, *(f"\n{note}" for note in self.notes)])


def tables(result: TaskResult) -> list[Table]:
    """Return the tables of a task."""
    make = {"time": _times, "precision": _precision, "memory": _memory}[result.task.measure]
    return [make(result, case) for case in result.cases]


def markdown(outcome: Outcome) -> str:
    """Return the Markdown page: the date and machine of the measurements, the summary, and every table."""
    about = outcome.about
    machine = f"{about['processor']} with {about['cores']} cores, {about['system']}, Python {about['python']}"
    head = [f"{about['date']}, {machine}; one thread each:", "", "```sh", about["command"], "```"]
    summary = _summary(outcome.results)
    parts = ["\n".join(head), *([summary.markdown()] if summary.rows else [])]
    parts += [table.markdown() for result in outcome.results for table in tables(result)]
    versions = sorted({
        f"{name} {version}"
        for result in outcome.results
        for case in result.cases
        for entry in case.entries
        for name, version in entry.versions.items()
    })  # fmt: skip
    parts.append(f"Versions: {', '.join(versions)}.")
    if outcome.absent:
        parts.append(f"Not installed: {', '.join(outcome.absent)}.")
    return "\n\n".join(parts) + "\n"


def _summary(results: Iterable[TaskResult]) -> Table:
    """Return pyneuralode's first variant next to each library's fastest correct one, for the timed tasks."""
    timed = [result for result in results if result.task.measure == "time"]
    measured = {entry.library for result in timed for entry in result.cases[0].entries}
    libraries = [library for library in OTHER_LIBRARIES if library in measured]
    rows = []
    for result in timed:
        entries = result.cases[0].entries
        ours = next((e for e in entries if e.library == OURS), None)
        cells = [_speed(_fastest(entries, library)) for library in libraries]
        rows.append([result.task.name, duration(ours and ours.median), *cells, duration(result.task.goal)])
    return Table("Time of an iteration, and its ratio to ours", ["task", "pyneuralode", *libraries, "goal"], rows)


def _fastest(entries: Sequence[Entry], library: str) -> Entry | None:
    measured = [entry for entry in entries if entry.library == library and entry.rounds and not entry.gradient_is_wrong]
    return min(measured, key=lambda entry: entry.median, default=None)


def _speed(entry: Entry | None) -> str:
    if entry is None:
        return NONE
    solve_alone = ", solve only" if "solve only" in entry.variant else ""
    return duration(entry.median) + (f" ({ratio(entry.ratio)}{solve_alone})" if entry.ratio else solve_alone)


def _times(result: TaskResult, case: CaseResult) -> Table:
    rows = [
        [
            entry.name,
            duration(entry.median),
            ratio(entry.ratio),
            duration(entry.first) + (f" (cold {duration(entry.cold)})" if entry.cold is not None else ""),
            entry.counts.get("dtype", NONE),
            count(entry.counts.get("accepted")),
            count(entry.counts.get("rejected")),
            count(entry.counts.get("evaluations")),
            size(entry.state_error),
            size(entry.gradient_error),
        ]
        for entry in case.entries
    ]
    columns = ["", "median", "ratio to ours", "first call", "dtype", "steps", "rejected", "evaluations", "state error", "gradient error"]  # fmt: skip
    return Table(f"{result.task.name}: {result.task.title}", columns, rows, _notes(case))


def _precision(result: TaskResult, case: CaseResult) -> Table:
    rows = [[entry.name, *(duration(seconds_to(entry, error)) for error in ERRORS)] for entry in case.entries]
    columns = ["", *(f"to an error of {error:.0e}" for error in ERRORS)]
    return Table(f"{result.task.name}, {case.name}: {result.task.title}", columns, rows, _notes(case))


def _memory(result: TaskResult, case: CaseResult) -> Table:
    steps = sorted({point["steps"] for entry in case.entries for point in entry.curve})
    rows = []
    for entry in case.entries:
        held = {point["steps"]: point["bytes"] for point in entry.curve}
        slope = states_a_step(entry, case.settings["state_bytes"])
        cells = [f"{held[n] / 1e6:.1f} MB" if n in held else NONE for n in steps]
        rows.append([entry.name, *cells, NONE if slope is None else f"{slope:.2f}"])
    columns = ["", *(f"{n} steps" for n in steps), "states per step"]
    return Table(f"{result.task.name}: {result.task.title}", columns, rows, _notes(case))


def _notes(case: CaseResult) -> list[str]:
    notes = [f"{entry.name} failed: {entry.failure}" for entry in case.entries if entry.failure]
    notes += [f"{entry.name}: the gradient is wrong." for entry in case.entries if entry.gradient_is_wrong]
    return notes + (
        [f"No reference solve to measure errors against: {case.reference_failure}"] if case.reference_failure else []
    )


def seconds_to(entry: Entry, error: float) -> float | None:
    """Return the seconds needed to reach an error, interpolated on the curve, or None if no solve reached it."""
    points = sorted((p["error"], p["seconds"]) for p in entry.curve if p["error"])
    if not points or points[0][0] > error:
        return None
    for (small, slow), (large, fast) in pairwise(points):
        if small <= error < large:
            part = math.log(error / small) / math.log(large / small)
            return slow ** (1 - part) * fast**part
    return points[-1][1]


def states_a_step(entry: Entry, state_bytes: int) -> float | None:
    """Return the growth of memory per step, in states."""
    if len(entry.curve) < 2:
        return None
    first, last = entry.curve[0], entry.curve[-1]
    return (last["bytes"] - first["bytes"]) / (last["steps"] - first["steps"]) / state_bytes


def duration(seconds: float | None) -> str:
    """Return seconds as text with three digits: 24.8 s, 13.5 ms, 0.0512 ms."""
    if seconds is None:
        return NONE
    return f"{_three_digits(seconds)} s" if seconds >= 1 else f"{_three_digits(1e3 * seconds)} ms"


def ratio(value: float | None) -> str:
    return NONE if value is None else f"{_three_digits(value)}x"


def count(value: float | None) -> str:
    """Return a count as text; a float is a mean over the samples of a batch."""
    return NONE if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def size(value: float | None) -> str:
    return NONE if value is None else f"{value:.1e}"


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"
