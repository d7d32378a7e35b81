"""Conversion of methods to plain numeric arrays, the input of compiled code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .....tableaus import Tableau
from ...stiff.coefficients import EXPLICIT_FALLBACK, SDIRK, Rosenbrock
from ...stiff.switching import AutoSwitch
from ..tableau_plan import tableau_plan

EXPLICIT, ROSENBROCK, IMPLICIT = range(3)


@dataclass(frozen=True)
class MethodPlan:
    """A method whose stages k_i are slopes: a step of size h ends at y + h sum_i b_i k_i.

    Explicit: k_i = f(t + c_i h, y + h sum_j a_ij k_j). Rosenbrock, with J and f_t at (t, y):
    (I - gamma h J) k_i = gamma (f(t + c_i h, y + h sum_j a_ij k_j) + sum_j C_ij k_j + h d_i f_t).
    Implicit, for all stages but the first: k_i = f(t + c_i h, y + h sum_j a_ij k_j + gamma h k_i), solved by Newton's
    iteration, which starts from sum_j C_ij k_j.

    Attributes
    ----------
    kind, stages, order, end_stage, error_order : int
        `stages` does not include the additional stages of the interpolant; `end_stage` is the stage that equals f at
        the end, or -1; `error_order` is the order of the embedded solution.
    rows : (s, s)
        The a_ij, including the interpolant's additional stages.
    couplings : (s, s)
        The C_ij.
    places : (3, s)
        The c_i, the d_i, and gamma for each stage (0 for an explicit stage).
    ends : (1 + e, s)
        The b_i, then the weights of the error estimates.
    interpolant : (s, p)
        The polynomial coefficients of the dense output, as in `Tableau`.
    """

    kind: int
    stages: int
    order: int
    end_stage: int
    error_order: int
    rows: np.ndarray
    couplings: np.ndarray
    places: np.ndarray
    ends: np.ndarray
    interpolant: np.ndarray

    @property
    def arrays(self) -> tuple:
        return tuple(vars(self).values())


def method_plans(method: Tableau | Rosenbrock | SDIRK | AutoSwitch) -> tuple[MethodPlan, MethodPlan, float]:
    """Return the plans of a method and of a second method, and the stability interval for automatic switching, or 0.

    Without automatic switching, the second method is explicit; methods for stiff problems use it for single steps that
    start where the Jacobian is not usable.
    """
    if isinstance(method, AutoSwitch):
        return method_plan(method.explicit), method_plan(method.stiff), method.stability_interval
    return method_plan(method), method_plan(method if isinstance(method, Tableau) else EXPLICIT_FALLBACK), 0.0


@lru_cache(maxsize=64)
def method_plan(method: Tableau | Rosenbrock | SDIRK) -> MethodPlan:
    if isinstance(method, Tableau):
        plan = tableau_plan(method)
        places = np.stack([plan.places, *np.zeros((2, len(plan.places)))])
        couplings = np.zeros_like(plan.rows)
        return MethodPlan(EXPLICIT, *plan.numbers, plan.rows, couplings, places, plan.ends, plan.interpolant)
    s = method.stages
    rosenbrock = isinstance(method, Rosenbrock)
    rows = np.array(method.A) if rosenbrock else np.tril(method.A, -1)
    couplings = np.array(method.C if rosenbrock else method.predictor)
    gammas = np.full(s, method.gamma)
    gammas[0] *= rosenbrock
    places = np.stack([method.c, method.d if rosenbrock else np.zeros(s), gammas])
    end_stage = -1 if rosenbrock else method.end_stage  # f itself is not a stage of a Rosenbrock method
    numbers = ROSENBROCK if rosenbrock else IMPLICIT, s, method.order, end_stage, method.error_order
    ends = np.stack([method.b, method.error])
    return MethodPlan(*numbers, rows, couplings, places, ends, np.array(method.interpolant))
