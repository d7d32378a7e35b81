"""The settings of a report (`Context`) and its results (`Findings`: rows, tables, figures, notes)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import ArgumentError, unknown_name
from ..progress import Progress, SilentProgress
from .parallel import Job, run_jobs

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from matplotlib.animation import Animation
    from matplotlib.figure import Figure

Key = TypeVar("Key")
SCALES = ("quick", "full")
_BETTER = ("lower", "higher", "match")


@dataclass(frozen=True)
class Context:
    """The settings with which a report is computed.

    Attributes
    ----------
    scale : {"quick", "full"}
        "quick" shows in a few minutes that everything works; targets apply only at "full".
    engine : {"torch", "julia"}
        The engine to compute on; the runner has already resolved "auto".
    seed : int
        Determines every random number of the report.
    workers : int
        Maximum number of processes that run at once.
    progress : Progress
        Receives the report's progress.
    executor : concurrent.futures.Executor, optional
        Runs the jobs in place of processes on this machine.
    """

    scale: Literal["quick", "full"] = "full"
    engine: str = "torch"
    seed: int = 0
    workers: int = 1
    progress: Progress = field(default_factory=SilentProgress)
    executor: Executor | None = None

    @property
    def quick(self) -> bool:
        return self.scale == "quick"

    def seeds(self, quick: int, full: int) -> list[int]:
        """Return consecutive seeds, starting at `seed`: `quick` or `full` of them, depending on the scale."""
        return [self.seed + k for k in range(quick if self.quick else full)]

    def run_jobs(self, jobs: Mapping[Key, Job]) -> dict[Key, Any]:
        """Run jobs with this context's workers, progress and executor; return the result of each under its key."""
        return dict(zip(jobs, run_jobs(list(jobs.values()), self.workers, self.progress, self.executor)))

    def run_seeds(
        self, settings: Sequence[Key], seeds: Sequence[int], job: Callable[[Key, int], Job]
    ) -> dict[Key, list[Any]]:
        """Run `job(setting, seed)` for all settings and seeds; return each setting's results, in the seeds' order."""
        found = self.run_jobs({(setting, seed): job(setting, seed) for setting in settings for seed in seeds})
        return {setting: [found[setting, seed] for seed in seeds] for setting in settings}


@dataclass(frozen=True)
class Row:
    """A number computed by a report and its published counterpart.

    Attributes
    ----------
    name : str
        Description of the number; unique within a report.
    ours, theirs : float or None
        The number computed here and the number printed in the source; None if there is none.
    better : {"lower", "higher", "match"}
        Whether a lower number is better, a higher number is better, or the two numbers should agree.
    source : str
        Where the published number is printed, such as "R Fig. 6".
    target : float or None
        The value required at full scale: an upper limit for "lower", a lower limit for "higher". Omit it for "match",
        where the target is `theirs` if a tolerance is given.
    tolerance : float or None
        For "match": |ours - theirs| <= tolerance |theirs| meets the target.
    """

    name: str
    ours: float | None
    theirs: float | None = None
    unit: str = ""
    better: Literal["lower", "higher", "match"] = "lower"
    source: str = ""
    target: float | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.better not in _BETTER:
            raise unknown_name("better", self.better, _BETTER)
        if self.better != "match":
            if self.tolerance is not None:
                raise ArgumentError(
                    f"row {self.name!r} has tolerance={self.tolerance}, better={self.better!r}: write better='match'."
                )
        elif self.target is not None:
            raise ArgumentError(
                f"row {self.name!r} has target={self.target} and better='match': give `theirs` and `tolerance` instead."
            )
        elif self.tolerance is not None:
            if self.theirs is None:
                raise ArgumentError(
                    f"row {self.name!r} has a tolerance but theirs=None: give the number that ours should match."
                )
            object.__setattr__(self, "target", self.theirs)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target. A non-finite number meets no target."""
        if self.target is None:
            return None
        if self.ours is None or not math.isfinite(self.ours):
            return False
        if self.better == "match":
            return bool(abs(self.ours - self.target) <= self.tolerance * abs(self.target))
        return bool(self.ours <= self.target if self.better == "lower" else self.ours >= self.target)


@dataclass(frozen=True)
class Table:
    """An additional table for the page: cells of any kind (numbers, text, None) in named columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""

    def __post_init__(self) -> None:
        for cells in self.rows:
            if len(cells) != len(self.columns):
                raise ArgumentError(
                    f"a row of table {self.title!r} has {len(cells)} cells: give {len(self.columns)} cells."
                )

    @classmethod
    def from_records(cls, title: str, records: Sequence[Mapping[str, object]], note: str = "") -> Table:
        """Return a table with a row for each record, whose keys name the columns."""
        return cls(title, list(records[0]), [list(record.values()) for record in records], note)


@dataclass(frozen=True)
class Findings:
    """The results of a report.

    Attributes
    ----------
    rows : sequence of Row
    figures : dict of str to matplotlib.figure.Figure
        The figures by name, in the order of the page; the names become file names.
    tables : sequence of Table
    notes : sequence of str
        Paragraphs of plain text: differences from the source, deductions, remarks on the figures.
    captions : dict of str to str
        Captions of figures and animations, by name.
    animations : dict of str to matplotlib.animation.Animation
        Shown after the figures and written as GIFs; the names become file names too.
    """

    rows: Sequence[Row]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    animations: Mapping[str, Animation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, count in Counter(row.name for row in self.rows).items():
            if count > 1:
                raise ArgumentError(
                    f"the row name {name!r} occurs {count} times in a report: give each row a unique name."
                )
        pictures = {**self.figures, **self.animations}
        for name in pictures:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ArgumentError(f"a figure's name is {name!r}: use only letters, digits, - and _.")
        for name in self.captions:
            if name not in pictures:
                raise unknown_name("a caption's figure", name, pictures)
