"""Tableaus as plain arrays of numbers, the form in which compiled code takes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..tableaus import Tableau


@dataclass(frozen=True)
class TableauPlan:
    """A tableau as arrays.

    Attributes
    ----------
    rows : (s, s)
        Weights of the earlier stages in each stage, the interpolant's extra stages included.
    ends : (1 + e, stages)
        Weights of the solution, then of the error estimates.
    interpolant : (s, p)
        As in `Tableau`.
    numbers : (4,) of int64
        Stages of a step, order, the stage that is f at the end (or -1), order of the embedded solution.
    """

    rows: np.ndarray
    ends: np.ndarray
    interpolant: np.ndarray
    numbers: np.ndarray


@lru_cache(maxsize=64)
def tableau_plan(tableau: Tableau) -> TableauPlan:
    """Return the plan of a tableau."""
    s, all_stages = tableau.stages, len(tableau.interpolant)
    rows = np.zeros((all_stages, all_stages))
    rows[:s, :s] = tableau.A
    if tableau.extra_A is not None:
        rows[s:] = tableau.extra_A
    estimates = [] if tableau.error is None else list(tableau.error)
    ends = np.stack([tableau.b, *estimates])
    end_stage = -1 if tableau.end_stage is None else tableau.end_stage
    numbers = [s, tableau.order, end_stage, tableau.error_order or 0]
    return TableauPlan(rows, ends, np.array(tableau.interpolant), np.array(numbers, dtype=np.int64))
