"""The three measurements: seconds side by side, seconds against error, peak memory against steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..progress import Progress, ProgressTask
from .children import Child, Failed, Room
from .entries import CaseResult, Entry, Truth, gradient_error, relative_error
from .problems import Problem
from .tasks import OURS, Case, Contender

# Blocks of the size of a state go back to the system when freed, so that resident memory is what is held.
_RETURN_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    rounds : int
        In each, every contender in its turn runs for about `seconds`, and at least once.
    allowance : float
        Seconds after which a contender sits out the rounds that are left.
    tolerances : sequence of float
        Of the work-precision figure; a solve longer than `longest` (seconds) is a contender's last.
    steps : sequence of int
        Of the memory figure.
    """

    rounds: int = 9
    seconds: float = 0.5
    allowance: float = 60.0
    longest: float = 5.0
    tolerances: Sequence[float] = tuple(10.0**-p for p in range(3, 11))
    steps: Sequence[int] = (8, 16, 32, 64, 128)


QUICK = Effort(rounds=2, seconds=0.02, allowance=2.0, longest=0.5, tolerances=(1e-4, 1e-7), steps=(2, 8))


class Stage:
    """A problem written down for its contenders, and the room in which they run."""

    def __init__(self, room: Room, task: str, case: Case, number: int, environment: Mapping[str, str] = {}):
        self.room, self.task, self.environment = room, task, environment
        self.problem: Problem = case.make()
        self.path = room.folder / f"{task}-{number}.npz"
        self.problem.write(self.path)

    def enter(self, entry: Entry) -> Child:
        """Return the entry's process, its imports done."""
        child = Child(self.room, entry.library, self.task, entry.variant, self.path, self.environment)
        try:
            hello = child.greeting()
        except BaseException:
            child.close()
            raise
        entry.versions, entry.imports = hello["versions"], hello["import_seconds"]
        return child

    def found(self, child: Child) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
        """Return the counts, the states and the gradient that a contender comes to."""
        file = self.path.with_name("found.npz")
        counts = child.ask("found", file=str(file))["counts"]
        with np.load(file, allow_pickle=False) as arrays:
            gradient = {name.removeprefix("gradient_"): arrays[name] for name in arrays.files if name != "states"}
            return counts, arrays["states"], gradient

    def truth(self, variant: str) -> Truth:
        """Return what ours comes to with the problem's tight settings."""
        try:
            with self.enter(Entry(OURS, variant)) as child:
                child.ask("prepare", settings=self.problem.tight)
                _, states, gradient = self.found(child)
        except Failed as failure:
            return Truth(failed=str(failure))
        return Truth(states, gradient)


def time_side_by_side(
    room: Room, task: str, case: Case, contenders: Sequence[Contender], effort: Effort, progress: Progress
) -> CaseResult:
    """Time a problem: the contenders' processes stay, and run in alternating rounds."""
    stage = Stage(room, task, case, 0)
    entries = [Entry(contender.library, contender.variant) for contender in contenders]
    bar = progress.task(task, 1 + len(entries) + effort.rounds)
    if room.fresh:
        entries[0].cold = _first_call(stage, entries[0])  # ours, and before anything else of it is compiled
    truth = stage.truth(case.tight)
    bar.advance(1, "the tight solve")
    with ExitStack() as children:
        present = []
        for entry in entries:
            try:
                child = children.enter_context(stage.enter(entry))
                entry.first = child.ask("prepare", settings={})["seconds"]
                entry.counts, states, gradient = stage.found(child)
                if truth.states is not None:
                    entry.state_error = relative_error(states, truth.states)
                    entry.gradient_error = gradient_error(gradient, truth.gradient)
                present.append((entry, child))
            except Failed as failure:
                entry.failed = str(failure)
            bar.advance(1, entry.name)
        _alternate(present, effort, bar)
    _compare(entries)
    return CaseResult(case.name, stage.problem.settings, entries, truth.failed)


def _first_call(stage: Stage, entry: Entry) -> float | None:
    try:
        with stage.enter(entry) as child:
            return child.ask("prepare", settings={})["seconds"]
    except Failed:
        return None  # the measured process will say why


def _alternate(present: Sequence[tuple[Entry, Child]], effort: Effort, bar: ProgressTask) -> None:
    """Run the rounds, A B C A B C ...; a slow contender runs once a round, and sits out when its time is spent."""
    spent = {id(entry): 0.0 for entry, _ in present}
    for number in range(effort.rounds):
        for entry, child in present:
            if entry.failed or spent[id(entry)] > effort.allowance:
                continue
            try:
                if number == 0:
                    entry.iterations = _iterations(child, effort.seconds)
                seconds = child.ask("round", iterations=entry.iterations)["seconds"]
            except Failed as failure:
                entry.failed = str(failure)
                continue
            spent[id(entry)] += sum(seconds)
            entry.rounds.append(statistics.median(seconds))
        bar.advance(1, f"round {number + 1}")


def _iterations(child: Child, seconds: float) -> int:
    """Return how many iterations take about so many seconds."""
    trial = child.ask("round", iterations=1)["seconds"]
    if trial[0] < 1:
        trial += child.ask("round", iterations=3)["seconds"]
    return max(1, round(seconds / min(trial)))


def _compare(entries: Sequence[Entry]) -> None:
    """Write the ratios to the first contender of ours."""
    ours = next((entry.rounds for entry in entries if entry.library == OURS), [])
    for entry in entries:
        if ours and entry.rounds:
            entry.ratio = statistics.median(t / o for t, o in zip(entry.rounds, ours))


def trace_precision(
    room: Room, task: str, case: Case, number: int, contenders: Sequence[Contender], effort: Effort, progress: Progress
) -> CaseResult:
    """Measure seconds and error of a problem over the tolerances, one contender after the other."""
    stage = Stage(room, task, case, number)
    entries = [Entry(contender.library, contender.variant) for contender in contenders]
    bar = progress.task(f"{task}, {case.name}", 1 + len(entries) * len(effort.tolerances))
    truth = stage.truth(case.tight)
    bar.advance(1, "the tight solve")
    scale = stage.problem.settings["atol_in_rtol"]
    for entry in entries:
        try:
            with stage.enter(entry) as child:
                for rtol in effort.tolerances:
                    child.ask("prepare", settings={"rtol": rtol, "atol": rtol * scale})
                    counts, states, _ = stage.found(child)
                    seconds = child.ask("round", iterations=1)["seconds"][0]
                    if seconds < effort.seconds:
                        more = min(50, max(3, round(effort.seconds / seconds)))
                        seconds = statistics.median(child.ask("round", iterations=more)["seconds"])
                    error = None if truth.states is None else relative_error(states, truth.states)
                    entry.curve.append({"tolerance": rtol, "seconds": seconds, "error": error, **counts})
                    bar.advance(1, f"{entry.name}, {rtol:g}")
                    if seconds > effort.longest:
                        break  # tighter ones would take longer still
        except Failed as failure:
            entry.failed = str(failure)
    return CaseResult(case.name, stage.problem.settings, entries, truth.failed)


def trace_memory(
    room: Room, task: str, case: Case, contenders: Sequence[Contender], effort: Effort, progress: Progress
) -> CaseResult:
    """Measure the growth of the resident memory during a gradient, over the numbers of steps.

    It is what the system sees: compiled code's arrays count too. The states are large, so that the libraries' own
    small objects do not. Linux tells the peak of a process and lets it be set back; other systems do not.
    """
    stage = Stage(room, task, case, 0, _RETURN_BLOCKS)
    entries = [Entry(contender.library, contender.variant) for contender in contenders]
    bar = progress.task(task, len(entries) * len(effort.steps))
    for entry in entries:
        try:
            with stage.enter(entry) as child:
                for steps in effort.steps:
                    child.ask("prepare", settings={"steps": steps})
                    entry.curve.append({"steps": steps, "bytes": child.ask("peak")["bytes"]})
                    bar.advance(1, f"{entry.name}, {steps} steps")
        except Failed as failure:
            entry.failed = str(failure)
    return CaseResult(case.name, stage.problem.settings, entries)
