"""Conversion of tableaus to plain numeric arrays, the input of compiled code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ....tableaus import Tableau


@dataclass(frozen=True)
class TableauPlan:
    """A tableau as arrays.

    Attributes
    ----------
    rows : (s, s)
        Weights of the earlier stages in each stage, including the interpolant's extra stages.
    places : (s,)
        The times of the stages, as fractions of the step.
    ends : (1 + e, s)
        Weights of the solution, then of the error estimates.
    interpolant : (s, p)
        The polynomial coefficients of the dense output, as in `Tableau`.
    numbers : four int
        Number of stages of a step, order, index of the stage that equals f at the end (or -1), order of the embedded
        solution.
    """

    rows: np.ndarray
    places: np.ndarray
    ends: np.ndarray
    interpolant: np.ndarray
    numbers: tuple[int, int, int, int]


@lru_cache(maxsize=64)
def tableau_plan(tableau: Tableau) -> TableauPlan:
    """Convert a tableau to arrays."""
    s, all_stages = tableau.stages, len(tableau.interpolant)
    rows, places = np.zeros((all_stages, all_stages)), np.zeros(all_stages)
    rows[:s, :s], places[:s] = tableau.A, tableau.c
    if tableau.extra_A is not None:
        rows[s:], places[s:] = tableau.extra_A, tableau.extra_c
    estimates = [] if tableau.error is None else list(tableau.error)
    ends = np.zeros((1 + len(estimates), all_stages))
    ends[:, :s] = [tableau.b, *estimates]
    end_stage = -1 if tableau.end_stage is None else tableau.end_stage
    numbers = s, tableau.order, end_stage, tableau.error_order or 0
    return TableauPlan(rows, places, ends, np.array(tableau.interpolant), numbers)
