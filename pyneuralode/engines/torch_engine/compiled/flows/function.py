"""One compiled solve of a flow, and its adjoint."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from .....problem import Control
from .....tableaus import Tableau
from ..available import compiled, march_controls, march_error, run
from ..tableau_plan import tableau_plan
from ..times import Times
from .plan import FlowPlan


def kernels() -> tuple[ModuleType, ...] | None:
    return compiled(f"{__package__}.march")


@dataclass
class Call:
    """One solve: its inputs and, after `march`, the data that the adjoint needs."""

    plan: FlowPlan
    times: Times
    tableau: Tableau
    control: Control
    counts: tuple[int, int, int] = (0, 0, 0)  # evaluations, accepted and rejected steps

    def march(self, state: np.ndarray, theta: np.ndarray, keep: bool) -> np.ndarray:
        """Solve from initial states (d, n); return the final states and the trace integral as rows (d + 1, n)."""
        control, method = self.control, tableau_plan(self.tableau)
        self.field = self.plan.head, self.plan.scales, theta
        self.method = method.rows, method.places, method.ends, method.numbers
        status, t, size, self.counts, end, record = run(
            kernels()[0].march, self.field, self.method, state, self.times.stops, float(control.rtol),
            float(control.atol), march_controls(control, self.times.adaptive), keep,
        )  # fmt: skip
        if status:
            raise march_error(status, t, size, control)
        self.record = record if keep else None
        return end

    def adjoint_sweep(
        self, cotangents: np.ndarray, wants_state: bool, wants_parameters: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients with respect to the initial states and to all parameters."""
        return run(kernels()[0].adjoint_sweep, self.field, self.method, self.counts[1], self.record, cotangents)
