"""What a contender reached, and how far it is from the truth."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Entry:
    """What one contender reached; None, or empty, where that was not measured.

    Attributes
    ----------
    first, cold : float
        Seconds of the first call; `cold` is that of ours before anything was compiled, `first` the next process's.
    rounds : list of float
        Median seconds of an iteration in each round.
    ratio : float
        Median over the rounds of its seconds by those of our first contender in the same round.
    counts : dict
        dtype, accepted, rejected, evaluations, path.
    state_error, gradient_error : float
        Relative to the tight solve's, see `relative_error`.
    curve : list of dict
        For "precision": tolerance, seconds, error and counts of each solve; for "memory": steps and bytes.
    failed : str
        Why there is nothing more.
    """

    library: str
    variant: str
    versions: dict[str, str] = field(default_factory=dict)
    imports: float | None = None
    first: float | None = None
    cold: float | None = None
    rounds: list[float] = field(default_factory=list)
    iterations: int = 0
    ratio: float | None = None
    counts: dict[str, Any] = field(default_factory=dict)
    state_error: float | None = None
    gradient_error: float | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    failed: str = ""

    @property
    def median(self) -> float | None:
        """Median seconds of an iteration."""
        return statistics.median(self.rounds) if self.rounds else None

    @property
    def name(self) -> str:
        return f"{self.library}, {self.variant}"

    @property
    def wrong(self) -> bool:
        """Whether the gradient is off by its own size or more: its time then stands beside nothing."""
        return self.gradient_error is not None and not self.gradient_error < 1


@dataclass(frozen=True)
class Truth:
    """States and gradient of the tight solve, or why there are none."""

    states: np.ndarray | None = None
    gradient: dict[str, np.ndarray] = field(default_factory=dict)
    failed: str = ""


@dataclass(frozen=True)
class CaseResult:
    """What a case came to: `untrue` says why there is no tight solve to measure errors against."""

    name: str
    settings: dict[str, Any]
    entries: list[Entry]
    untrue: str = ""


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the root mean square error relative to the root mean square, of the worst component (last axis)."""
    axes = tuple(range(truth.ndim - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.sqrt(np.square(found - truth).sum(axes) / np.square(truth).sum(axes))))


def gradient_error(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> float | None:
    """Return the relative error of the worst parameter; one whose true gradient is nothing but rounding does not count."""
    if not found or not truth:
        return None
    sizes = {name: float(np.linalg.norm(value)) for name, value in truth.items()}
    counted = [name for name, size in sizes.items() if size > 1e-12 * max(sizes.values())]
    return max(float(np.linalg.norm(found[name] - truth[name])) / sizes[name] for name in counted)
