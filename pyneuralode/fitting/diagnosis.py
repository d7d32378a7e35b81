"""What a fit came to: how much of the data it explains, whether its optimizer converged, and where its parameters went."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import PyNeuralODEError
from .objective import Objective
from .stage_result import StageResult
from .variables import Variables

SETTLED = 1e-3  # the part of the objective that may still be gained where a fit has converged
NEGLIGIBLE = 1e-6  # an objective below this part of the data's own sum of squares is as good as zero
POOR = 0.9  # explained variance below which a column is said to be explained poorly
ORDERS = 100.0  # factor from which a parameter has moved by orders of magnitude
AT_BOUND = 1e-3  # distance to a bound, as a part of what it was at the start, that counts as being there
LINES = 12  # of columns, and of parameters, in a report


@dataclass(frozen=True)
class ColumnFit:
    """One column of the data: root mean square of the errors and standard deviation, both in its unit; NaN without values."""

    name: str
    rmse: float
    spread: float

    @property
    def explained(self) -> float:
        """The part of the variance that is explained, 1 - rmse^2 / spread^2; NaN for a constant column."""
        return 1 - (self.rmse / self.spread) ** 2 if self.spread > 0 else math.nan


@dataclass(frozen=True)
class Moved:
    """A free parameter: its value at the start and now (of an array the root mean squares), and whether it is at a bound."""

    name: str
    start: float
    end: float
    size: int
    at_bound: bool

    @property
    def far(self) -> bool:
        """Whether it is a single number that moved by orders of magnitude."""
        ratio = abs(self.end / self.start) if self.start else 1.0
        return self.size == 1 and not 1 / ORDERS < ratio < ORDERS


@dataclass(frozen=True)
class Diagnosis:
    """How good a fit is; printed it is a short report.

    Attributes
    ----------
    columns : tuple of ColumnFit
        Of the rows that the last stage saw.
    parameters : tuple of Moved
        The free parameters.
    gradient : float
        Norm of the objective's gradient at the best parameters, with respect to the unbounded variables; NaN if unknown.
    descent : float
        The part of the objective that the best step down that gradient would take off: the decrease of the trust-region
        methods' Cauchy point (Nocedal and Wright, Numerical Optimization, ch. 4), a tenth of the variables' norm at most.
    improvement : float
        The part of the objective that the last tenth of the last stage's iterations took off.
    at_goal : bool
        Whether the last stage reached its goal.
    """

    columns: tuple[ColumnFit, ...]
    parameters: tuple[Moved, ...]
    gradient: float
    descent: float
    improvement: float
    at_goal: bool

    @property
    def converged(self) -> bool:
        """Whether neither the last iterations nor a further step would change the objective by a part of 1e-3."""
        return self.descent < SETTLED and self.improvement < SETTLED

    @property
    def worst(self) -> ColumnFit | None:
        """The column of which the least is explained, if that is less than 90 %."""
        return min((c for c in self.columns if c.explained < POOR), key=lambda c: c.explained, default=None)

    @property
    def advice(self) -> str:
        """One sentence on what to change, empty where nothing has to be."""
        for moved in self.parameters:
            if moved.at_bound:
                return (
                    f"{moved.name} ended at its bound: widen the bounds, or hold it by `fixed` if the bound is meant."
                )
            if moved.far:
                return (
                    f"{moved.name} went from {moved.start:.3g} to {moved.end:.3g}, so the data may not determine it: "
                    "give it bounds, hold it by `fixed`, or add data."
                )
        add = "hidden components (AugmentedNeuralODE, on the command line --augment 2), another field or other data"
        if not (self.converged or self.at_goal):
            stay = f"; if {self.worst.name} stays badly explained, take {add}" if self.worst else ""
            return (
                f"The fit can still improve: give more iterations, L-BFGS at the end or a smaller learning rate{stay}."
            )
        if self.worst:
            return f"Unless the rest of {self.worst.name} is noise, take {add}: more iterations will not help."
        return ""

    def __str__(self) -> str:
        lines = [f"{'column':<18}{'RMSE':>12}{'spread':>12}{'explained':>12}"]
        lines += [_column_line(column) for column in self.columns[:LINES]]
        lines += _rest(len(self.columns), "columns")
        numbers = [moved for moved in self.parameters if moved.size == 1 or moved.at_bound]
        if numbers:
            lines.append(f"{'parameter':<18}{'start':>12}{'end':>12}")
            lines += [_parameter_line(moved) for moved in numbers[:LINES]]
            lines += _rest(len(numbers), "parameters")
        lines += [
            f"{'converged' if self.converged else 'not converged'}: the last tenth of the iterations took "
            f"{_percent(self.improvement)} off the loss;",
            f"the gradient's norm is {self.gradient:.2g}, the best step down it would take {_percent(self.descent)} off",
            *textwrap.wrap(self.advice, 88),
        ]
        return "\n".join(lines)


def column_fits(
    predicted: np.ndarray, data: np.ndarray, counted: np.ndarray, names: Sequence[str]
) -> tuple[ColumnFit, ...]:
    """Return the fit of each column of data (..., k), of which the values that are `counted` count."""
    fits = []
    for k, name in enumerate(names):
        seen = counted[..., k]
        values, errors = data[..., k][seen], (predicted[..., k] - data[..., k])[seen]
        rmse, spread = (np.sqrt(np.mean(errors**2)), np.std(values)) if seen.any() else (math.nan, math.nan)
        constant = spread <= 1e-12 * np.abs(values).max(initial=0.0)  # rounding is no spread
        fits.append(ColumnFit(name, float(rmse), 0.0 if constant else float(spread)))
    return tuple(fits)


def diagnose(
    objective: Objective,
    variables: Variables,
    start: Mapping[str, np.ndarray],
    stage: StageResult,
    predict: Callable[[dict[str, Tensor], int], Tensor],
    total_of: Callable[[dict[str, Tensor], int], Tensor],
    goal: float | None,
) -> Diagnosis:
    """Return the diagnosis of the last stage at the current variables, by three evaluations and two gradients.

    `predict` gives the prediction and `total_of` the objective of the first rows; `start` are the parameters before the fit.
    """
    rows = objective.rows(stage.end)
    counted = (objective.weights[:rows] > 0).cpu().numpy()
    data = objective.data[:rows].cpu().numpy()
    columns: tuple[ColumnFit, ...] = ()
    gradient = descent = math.nan
    floor = max(stage.best_objective, NEGLIGIBLE * _of_means(objective, rows), np.finfo(float).tiny)
    try:
        with torch.no_grad():
            prediction = predict(variables.values(), rows).cpu().numpy()
        columns = column_fits(prediction, data, counted, objective.names)
        gradient, decrease = _descent(variables, lambda: total_of(variables.values(), rows))
        descent = decrease / floor
    except (PyNeuralODEError, KeyboardInterrupt):  # the fit stands; what could not be found out stays NaN
        pass
    tenth = max(1, len(stage.objectives) // 10)
    before = min(stage.objectives[:-tenth] or stage.objectives[:1], default=math.nan)
    improvement = (before - stage.best_objective) / max(before, floor)
    now = variables.arrays()
    return Diagnosis(
        columns,
        tuple(
            _moved(name, start[name], now[name], variables.bounds.get(name, (None, None))) for name in variables.free
        ),
        gradient,
        descent,
        improvement,
        goal is not None and stage.best_loss <= goal,
    )


def _of_means(objective: Objective, rows: int) -> float:
    """Return the loss of a prediction that is each column's weighted mean."""
    data, weights = objective.data[:rows], objective.weights[:rows]
    axes = tuple(range(data.ndim - 1))
    means = (weights * data).sum(axes) / weights.sum(axes).clamp_min(torch.finfo(data.dtype).tiny)
    return float(objective.loss(means.expand_as(data)))


def _descent(variables: Variables, total: Callable[[], Tensor]) -> tuple[float, float]:
    """Return the gradient's norm, and the decrease of the objective by the best step down it, by its curvature there."""
    free = list(variables.free.values())

    def gradient() -> Tensor:
        found = torch.autograd.grad(total(), free, allow_unused=True)
        return torch.cat(
            [torch.zeros_like(v).flatten() if g is None else g.flatten() for v, g in zip(free, found)]
        ).double()

    here, slope = variables.snapshot(), gradient()
    norm = float(slope.norm())
    if norm == 0 or not math.isfinite(norm):
        return norm, norm
    size = max(1.0, float(torch.cat([v.detach().flatten() for v in free]).norm()))
    probe = 1e-4 * size
    with torch.no_grad():
        for value, part in zip(free, slope.split([v.numel() for v in free])):
            value.sub_((probe / norm) * part.view_as(value))
    try:
        curvature = float(slope @ (slope - gradient())) / (norm * probe)
    finally:
        variables.restore(here)
    longest = 0.1 * size
    step = min(longest, norm / curvature) if curvature > 0 else longest
    return norm, norm * step - 0.5 * max(curvature, 0.0) * step**2


def _moved(name: str, start: np.ndarray, end: np.ndarray, bound: tuple[float | None, float | None]) -> Moved:
    reached = any(
        bool((np.abs(end - edge) < AT_BOUND * np.abs(start - edge)).any()) for edge in bound if edge is not None
    )
    sizes = [float(v) if v.ndim == 0 else float(np.sqrt(np.mean(np.square(v, dtype=float)))) for v in (start, end)]
    return Moved(name, *sizes, start.size, reached)


def _column_line(column: ColumnFit) -> str:
    if math.isnan(column.rmse):
        return f"{column.name:<18} no value was fitted"
    explained = "constant" if math.isnan(column.explained) else f"{100 * column.explained:.4g} %"
    return f"{column.name:<18}{column.rmse:>12.4g}{column.spread:>12.4g}{explained:>12}"


def _parameter_line(moved: Moved) -> str:
    note = "  at its bound" if moved.at_bound else "  moved by orders of magnitude" if moved.far else ""
    return f"{moved.name:<18}{moved.start:>12.4g}{moved.end:>12.4g}{note}"


def _rest(count: int, what: str) -> list[str]:
    return [f"... and {count - LINES} more {what}"] if count > LINES else []


def _percent(part: float) -> str:
    return "an unknown part" if math.isnan(part) else f"{100 * part:.2g} %"
