"""Compare this checkout with another one: both run the same problems in alternating rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pyneuralode.errors import ArgumentError
from pyneuralode.progress import Progress

from .measures import CaseSetup, Effort, iterations_for
from .processes import PeerError, PeerProcess, Workspace
from .tables import NONE, Table, duration
from .tasks import OURS, Task

ROUNDS = 20
# Two processes that run the same code differ by up to a quarter in speed, so each pair runs only some of the rounds.
ROUNDS_PER_PROCESS = 4
LIMIT = 1.05  # a row passes if the upper bound of its ratio is below this limit
_SCRIPTS = ("benchmarks/peers/serve.py", "pyneuralode/bench/contenders/serve.py")  # the latter in older checkouts


@dataclass
class Row:
    """One variant of a task in both checkouts: the median seconds of each round, old and new."""

    variant: str
    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def ratios(self) -> np.ndarray:
        return np.array(self.new) / np.array(self.old)

    @property
    def passes(self) -> bool:
        """Whether both checkouts ran, and the new one is not slower."""
        return not self.failure and upper_bound(self.ratios) < LIMIT


def upper_bound(ratios: np.ndarray, draws: int = 10_000) -> float:
    """Return the 95 % quantile of the median over bootstrap samples: a one-sided upper bound of the median ratio."""
    samples = np.random.default_rng(0).choice(ratios, (draws, len(ratios)))
    return float(np.quantile(np.median(samples, axis=1), 0.95))


def find_script(checkout: Path) -> Path:
    """Return the path of the script that runs a peer in a checkout; older checkouts have it in another place."""
    for name in _SCRIPTS:
        if (checkout / name).is_file():
            return (checkout / name).absolute()
    raise ArgumentError(
        f"against is {str(checkout)!r}, which does not contain {_SCRIPTS[0]}: give a checkout of pyneuralode."
    )


def compare_task(workspace: Workspace, checkout: Path, task: Task, effort: Effort, progress: Progress) -> list[Row]:
    """Run each of pyneuralode's variants of a timed task in both checkouts, and return a row for each."""
    case = task.cases[0]
    rows = [Row(peer.variant) for peer in case.peers if peer.library == OURS]
    new = CaseSetup(workspace, task.name, case, 0)
    old_workspace = replace(workspace, root=checkout.absolute(), script=find_script(checkout))
    bar = progress.task(task.name, ROUNDS * len(rows))
    for row in rows:
        try:
            for first in range(0, ROUNDS, ROUNDS_PER_PROCESS):
                with ExitStack() as stack:
                    both = []
                    for place in (old_workspace, workspace):
                        process = PeerProcess(place, OURS, task.name, row.variant, new.path)
                        both.append(stack.enter_context(process))
                        process.greeting()
                        process.ask("prepare", settings={})
                    _alternate(row, *both, effort.seconds, range(first, first + ROUNDS_PER_PROCESS), bar)
        except PeerError as failure:
            row.failure = str(failure)
    return rows


def _alternate(row: Row, old: PeerProcess, new: PeerProcess, seconds: float, rounds: range, bar) -> None:
    """Run some rounds, in which the two checkouts alternate in running first."""
    iterations = iterations_for(new, seconds)
    old.ask("round", iterations=iterations)  # the same warm-up that the new checkout had in iterations_for
    for number in rounds:
        turns = [(old, row.old), (new, row.new)]
        for process, medians in turns if number % 2 == 0 else reversed(turns):
            medians.append(statistics.median(process.ask("round", iterations=iterations)["seconds"]))
        bar.advance(1, f"{row.variant}, round {number + 1}")


def table(task: Task, rows: Sequence[Row]) -> Table:
    """Return the rows as a table; those that do not pass are marked."""
    cells = [
        [
            row.variant,
            duration(statistics.median(row.old)),
            duration(statistics.median(row.new)),
            f"{np.median(row.ratios):.3f}",
            f"{upper_bound(row.ratios):.3f}" + ("" if row.passes else " !"),
        ]
        if not row.failure
        else [row.variant, NONE, NONE, NONE, NONE + " !"]
        for row in rows
    ]
    notes = [f"{row.variant} failed: {row.failure}" for row in rows if row.failure]
    return Table(f"{task.name}: {task.title}", ["", "old", "new", "new / old", "upper 95 %"], cells, notes)
