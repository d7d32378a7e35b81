"""The Adams methods, with torchdiffeq's rule for the order: the number of past derivatives, up to max_order - 1.

Two properties of torchdiffeq's methods are kept, so that values agree. The weights always assume equal steps, so the
order is lost on a nonuniform grid. And `explicit_adams` increases its order to 11, with an interval of stability so
short that a step h is stable only for |h lambda| below about 0.003. As the step decreases from coarse values, the error
first grows by many orders of magnitude (y' = -y on [0, 1] in 80 steps: error 0.5) and decreases only once the step is
inside that interval (320 steps: 1e-11). `max_order=5` (order 4) or `implicit_adams` avoids this.
"""

from __future__ import annotations

import warnings
from collections import deque
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from ..tableaus import TABLEAUS
from .options import AdamsOptions
from .problem import FlatProblem
from .runge_kutta import RungeKuttaStep
from .slope import Time

MIN_PAST_SLOPES = 3  # number of past derivatives required; with fewer, steps use the 3/8 rule


@cache
def adams_weights(nodes: tuple[int, ...]) -> tuple[float, ...]:
    """Return the weights, one per node, that integrate the polynomial through the nodes from 0 to 1.

    Nodes 0, -1, ..., 1 - k give the Adams-Bashforth method of order k; nodes 1, 0, ..., 2 - k give the Adams-Moulton
    method of order k. See Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section III.1.
    """
    weights = []
    for a in nodes:
        basis = [Fraction(1)]  # coefficients of the Lagrange polynomial of node a, by increasing power
        for b in nodes:
            if b != a:
                basis = [(low - b * high) / (a - b) for low, high in zip([0, *basis], [*basis, 0])]
        weights.append(float(sum(c / (power + 1) for power, c in enumerate(basis))))
    return tuple(weights)


class Adams:
    """Steps predicted by the Adams-Bashforth method and, with `corrects`, corrected by the Adams-Moulton method."""

    def __init__(self, problem: FlatProblem, options: AdamsOptions, corrects: bool):
        self.problem, self.options, self.corrects = problem, options, corrects
        self.past: deque[Tensor] = deque(maxlen=options.max_order - 1)  # derivatives, the latest first
        self.before, self.after = (-1, 1) if options.perturb else (0, 0)

    def __call__(self, t: Time, t_end: Time, h: Time, y: Tensor) -> tuple[Tensor, Tensor]:
        slope, past = self.problem.slope, self.past
        first = slope(t, y, self.after)
        past.appendleft(first)
        order = len(past)
        if order < MIN_PAST_SLOPES:
            return RungeKuttaStep(TABLEAUS["RK38"], slope, t, t_end, h, y, first, self.before).end, first
        rows = [adams_weights(tuple(range(0, -order, -1)))]
        if self.corrects:
            rows.append(adams_weights(tuple(range(1, -order, -1))))
        table = torch.tensor([row[-order:] for row in rows], dtype=y.dtype, device=y.device)
        weights = slope.direction * h * table
        known = weights @ torch.stack(list(past))
        change = known[0]
        if self.corrects:
            change = self._correct(t_end, y, change, known[1], slope.direction * h * rows[1][0])
        return y + change, first

    def _correct(self, t_end: Time, y: Tensor, change: Tensor, known: Tensor, weight: Time) -> Tensor:
        """Iterate change = known + weight * f(t_end, y + change) until `change` varies by less than the tolerance."""
        for _ in range(self.options.max_iters):
            before, change = change, known + weight * self.problem.slope(t_end, y + change, self.before)
            with torch.no_grad():
                size = torch.maximum(before.abs(), change.abs())
                scale = size.mul_(self.problem.rtol).add_(self.problem.atol)
                if bool((change - before).abs().div_(scale).max() < 1):
                    return change
        warnings.warn(
            f"{self.problem.method} did not converge in max_iters = {self.options.max_iters} corrections at "
            f"t = {self.problem.slope.direction * float(t_end):g}: use smaller steps.",
            stacklevel=6,
        )
        self.past.pop()
        return change
