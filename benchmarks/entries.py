"""The results of a case: an entry for each peer, and its errors against the reference solve."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Entry:
    """The measurements of one peer; values that were not measured are None or empty.

    Attributes
    ----------
    first, cold : float
        Seconds of the first call in a new process; `cold`, measured only for pyneuralode, is without cached compiled
        code.
    rounds : list of float
        Median seconds of an iteration in each round.
    ratio : float
        Median over the rounds of the ratio of this peer's seconds to those of pyneuralode's first variant in the same
        round.
    counts : dict
        dtype, accepted, rejected, evaluations, path.
    state_error, gradient_error : float
        Relative to the reference solve; see `relative_error` and the function `gradient_error`.
    curve : list of dict
        For "precision" the tolerance, seconds, error and counts of each solve; for "memory" steps and bytes.
    failure : str
        The reason if the measurements failed; otherwise empty.
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
    failure: str = ""

    @property
    def median(self) -> float | None:
        """Median seconds of an iteration."""
        return statistics.median(self.rounds) if self.rounds else None

    @property
    def name(self) -> str:
        return f"{self.library}, {self.variant}"

    @property
    def gradient_is_wrong(self) -> bool:
        """Whether the gradient's error is at least as large as the gradient; its time is then not comparable."""
        return self.gradient_error is not None and not self.gradient_error < 1


@dataclass(frozen=True)
class Reference:
    """States and gradient of the reference solve, or the reason why there are none."""

    states: np.ndarray | None = None
    gradient: dict[str, np.ndarray] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class CaseResult:
    """The entries of a case; `reference_failure` is the reason if there is no reference solve to compare with."""

    name: str
    settings: dict[str, Any]
    entries: list[Entry]
    reference_failure: str = ""


def relative_error(states: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest relative root mean square error of a component; components are on the last axis."""
    axes = tuple(range(reference.ndim - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.sqrt(np.square(states - reference).sum(axes) / np.square(reference).sum(axes))))


def gradient_error(gradient: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float | None:
    """Return the largest relative error over the parameters, or None without gradients.

    Parameters whose reference gradient is at rounding level are ignored.
    """
    if not gradient or not reference:
        return None
    sizes = {name: float(np.linalg.norm(value)) for name, value in reference.items()}
    counted = [name for name, size in sizes.items() if size > 1e-12 * max(sizes.values())]
    return max(float(np.linalg.norm(gradient[name] - reference[name])) / sizes[name] for name in counted)
