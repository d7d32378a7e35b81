"""The three measurements: seconds side by side, seconds against error, peak memory against steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyneuralode.progress import Progress, ProgressTask

from .entries import CaseResult, Entry, Reference, gradient_error, relative_error
from .problems import ProblemData
from .processes import PeerError, PeerProcess, Workspace
from .tasks import OURS, Case, Peer

# Blocks as large as a state are returned to the system when freed, so that resident memory is memory in use.
_RETURN_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Effort:
    """The duration and extent of the measurements.

    Attributes
    ----------
    rounds : int
        The number of times the peers take turns; in a round each runs for about `seconds`, and at least once.
    allowance : float
        Total seconds after which a peer skips the remaining rounds.
    tolerances : sequence of float
        Tolerances of the work-precision figure; a peer stops after a solve longer than `longest` (seconds).
    steps : sequence of int
        Numbers of steps in the memory figure.
    """

    rounds: int = 9
    seconds: float = 0.5
    allowance: float = 60.0
    longest: float = 5.0
    tolerances: Sequence[float] = tuple(10.0**-p for p in range(3, 11))
    steps: Sequence[int] = (8, 16, 32, 64, 128)


QUICK = Effort(rounds=2, seconds=0.02, allowance=2.0, longest=0.5, tolerances=(1e-4, 1e-7), steps=(2, 8))


class CaseSetup:
    """A case prepared for measuring: its problem in a file, and the workspace of its processes."""

    def __init__(self, workspace: Workspace, task: str, case: Case, number: int, environment: Mapping[str, str] = {}):
        self.workspace, self.task, self.environment = workspace, task, environment
        self.problem: ProblemData = case.make()
        self.path = workspace.folder / f"{task}-{number}.npz"
        self.problem.write(self.path)

    def start(self, entry: Entry) -> PeerProcess:
        """Start the process of an entry, and wait for its imports."""
        process = PeerProcess(self.workspace, entry.library, self.task, entry.variant, self.path, self.environment)
        try:
            greeting = process.greeting()
        except BaseException:
            process.close()
            raise
        entry.versions, entry.imports = greeting["versions"], greeting["import_seconds"]
        return process

    def result(self, process: PeerProcess) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
        """Return the counts, the states and the gradient of a peer's solve."""
        file = self.path.with_name("found.npz")
        counts = process.ask("found", file=str(file))["counts"]
        with np.load(file, allow_pickle=False) as arrays:
            gradient = {name.removeprefix("gradient_"): arrays[name] for name in arrays.files if name != "states"}
            return counts, arrays["states"], gradient

    def reference(self, variant: str) -> Reference:
        """Solve with one of pyneuralode's variants and the reference settings."""
        try:
            with self.start(Entry(OURS, variant)) as process:
                process.ask("prepare", settings=self.problem.reference_settings)
                _, states, gradient = self.result(process)
        except PeerError as failure:
            return Reference(failure=str(failure))
        return Reference(states, gradient)


def time_side_by_side(
    workspace: Workspace, task: str, case: Case, peers: Sequence[Peer], effort: Effort, progress: Progress
) -> CaseResult:
    """Time a problem; the processes of all peers stay alive and take turns in every round."""
    setup = CaseSetup(workspace, task, case, 0)
    entries = [Entry(peer.library, peer.variant) for peer in peers]
    bar = progress.task(task, 1 + len(entries) + effort.rounds)
    if workspace.empty_cache:
        entries[0].cold = _first_call(setup, entries[0])  # pyneuralode, before any of its code is compiled
    reference = setup.reference(case.reference_variant)
    bar.advance(1, "the reference solve")
    with ExitStack() as stack:
        started = []
        for entry in entries:
            try:
                process = stack.enter_context(setup.start(entry))
                entry.first = process.ask("prepare", settings={})["seconds"]
                entry.counts, states, gradient = setup.result(process)
                if reference.states is not None:
                    entry.state_error = relative_error(states, reference.states)
                    entry.gradient_error = gradient_error(gradient, reference.gradient)
                started.append((entry, process))
            except PeerError as failure:
                entry.failure = str(failure)
            bar.advance(1, entry.name)
        _alternate(started, effort, bar)
    _set_ratios(entries)
    return CaseResult(case.name, setup.problem.settings, entries, reference.failure)


def _first_call(setup: CaseSetup, entry: Entry) -> float | None:
    try:
        with setup.start(entry) as process:
            return process.ask("prepare", settings={})["seconds"]
    except PeerError:
        return None  # the measured process will report the reason


def _alternate(started: Sequence[tuple[Entry, PeerProcess]], effort: Effort, bar: ProgressTask) -> None:
    """Run the rounds, A B C A B C ...; a slow peer runs once per round, and skips the rest when its time is used up."""
    spent = {id(entry): 0.0 for entry, _ in started}
    for number in range(effort.rounds):
        for entry, process in started:
            if entry.failure or spent[id(entry)] > effort.allowance:
                continue
            try:
                if number == 0:
                    entry.iterations = iterations_for(process, effort.seconds)
                seconds = process.ask("round", iterations=entry.iterations)["seconds"]
            except PeerError as failure:
                entry.failure = str(failure)
                continue
            spent[id(entry)] += sum(seconds)
            entry.rounds.append(statistics.median(seconds))
        bar.advance(1, f"round {number + 1}")


def iterations_for(process: PeerProcess, seconds: float) -> int:
    """Return the number of iterations that take about `seconds`."""
    trial = process.ask("round", iterations=1)["seconds"]
    if trial[0] < 1:
        trial += process.ask("round", iterations=3)["seconds"]
    return max(1, round(seconds / min(trial)))


def _set_ratios(entries: Sequence[Entry]) -> None:
    """Set each entry's median ratio to pyneuralode's first variant, compared within each round."""
    ours = next((entry.rounds for entry in entries if entry.library == OURS), [])
    for entry in entries:
        if ours and entry.rounds:
            entry.ratio = statistics.median(t / o for t, o in zip(entry.rounds, ours))


def trace_precision(
    workspace: Workspace, task: str, case: Case, number: int, peers: Sequence[Peer], effort: Effort, progress: Progress
) -> CaseResult:
    """Measure seconds and error of a problem for each tolerance, one peer after another."""
    setup = CaseSetup(workspace, task, case, number)
    entries = [Entry(peer.library, peer.variant) for peer in peers]
    bar = progress.task(f"{task}, {case.name}", 1 + len(entries) * len(effort.tolerances))
    reference = setup.reference(case.reference_variant)
    bar.advance(1, "the reference solve")
    scale = setup.problem.settings["atol_in_rtol"]
    for entry in entries:
        try:
            with setup.start(entry) as process:
                for rtol in effort.tolerances:
                    process.ask("prepare", settings={"rtol": rtol, "atol": rtol * scale})
                    counts, states, _ = setup.result(process)
                    seconds = process.ask("round", iterations=1)["seconds"][0]
                    if seconds < effort.seconds:
                        more = min(50, max(3, round(effort.seconds / seconds)))
                        seconds = statistics.median(process.ask("round", iterations=more)["seconds"])
                    error = None if reference.states is None else relative_error(states, reference.states)
                    entry.curve.append({"tolerance": rtol, "seconds": seconds, "error": error, **counts})
                    bar.advance(1, f"{entry.name}, {rtol:g}")
                    if seconds > effort.longest:
                        break  # tighter tolerances would take even longer
        except PeerError as failure:
            entry.failure = str(failure)
    return CaseResult(case.name, setup.problem.settings, entries, reference.failure)


def trace_memory(
    workspace: Workspace, task: str, case: Case, peers: Sequence[Peer], effort: Effort, progress: Progress
) -> CaseResult:
    """Measure the growth of the resident memory during a gradient, for each number of steps.

    The operating system reports the memory, so arrays of compiled code are included. The states are so large that the
    libraries' own small objects hardly matter. Only Linux reports a process's peak and allows resetting it.
    """
    setup = CaseSetup(workspace, task, case, 0, _RETURN_BLOCKS)
    entries = [Entry(peer.library, peer.variant) for peer in peers]
    bar = progress.task(task, len(entries) * len(effort.steps))
    for entry in entries:
        try:
            with setup.start(entry) as process:
                for steps in effort.steps:
                    process.ask("prepare", settings={"steps": steps})
                    entry.curve.append({"steps": steps, "bytes": process.ask("peak")["bytes"]})
                    bar.advance(1, f"{entry.name}, {steps} steps")
        except PeerError as failure:
            entry.failure = str(failure)
    return CaseResult(case.name, setup.problem.settings, entries)
