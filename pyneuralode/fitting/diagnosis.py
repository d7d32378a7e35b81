"""The quality of a fit: how much of the data it explains, whether it converged, and how far its parameters moved."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import PyNeuralODEError
from .objective import Objective
from .run import assign_tensors, copy_tensors
from .stage_result import StageResult
from .trajectory_loss import TrajectoryLoss
from .variables import OPEN, Bound, Variables

CONVERGED_GAIN = 1e-3  # a fit has converged if the objective could decrease by less than this fraction
NEGLIGIBLE = 1e-6  # an objective below this fraction of the loss of predicting the mean is treated as zero
WELL_EXPLAINED = 0.9  # a column is poorly explained if less than this fraction of its variance is explained
FAR_FACTOR = 100.0  # a parameter that changed by this factor is reported as moved by orders of magnitude
BOUND_DISTANCE = 1e-3  # a parameter is at a bound if its distance to the bound shrank by this factor
MAX_LINES = 12  # maximum number of columns and maximum number of parameters in a report


@dataclass(frozen=True)
class ColumnFit:
    """The fit of one column of the data.

    Attributes
    ----------
    name : str
    rmse, spread : float
        Root mean square of the errors, and standard deviation of the data, in the column's unit; NaN if no value was
        fitted.
    """

    name: str
    rmse: float
    spread: float

    @property
    def explained(self) -> float:
        """The fraction of the variance that is explained, 1 - rmse^2 / spread^2; NaN for a constant column."""
        return 1 - (self.rmse / self.spread) ** 2 if self.spread > 0 else math.nan

    def __str__(self) -> str:
        if math.isnan(self.rmse):
            return f"{self.name:<18} no value was fitted"
        explained = "constant" if math.isnan(self.explained) else f"{100 * self.explained:.4g} %"
        return f"{self.name:<18}{self.rmse:>12.4g}{self.spread:>12.4g}{explained:>12}"


@dataclass(frozen=True)
class ParameterChange:
    """The change of a free parameter during a fit.

    Attributes
    ----------
    name : str
    start, end : float
        Value before and after the fit; for an array, its root mean square.
    size : int
        Number of elements.
    at_bound : bool
        Whether the parameter ended at one of its bounds.
    """

    name: str
    start: float
    end: float
    size: int
    at_bound: bool

    @property
    def moved_far(self) -> bool:
        """Whether the parameter is a single number that changed by orders of magnitude."""
        ratio = abs(self.end / self.start) if self.start else 1.0
        return self.size == 1 and not 1 / FAR_FACTOR < ratio < FAR_FACTOR

    def __str__(self) -> str:
        note = "  at its bound" if self.at_bound else "  moved by orders of magnitude" if self.moved_far else ""
        return f"{self.name:<18}{self.start:>12.4g}{self.end:>12.4g}{note}"


@dataclass(frozen=True)
class Diagnosis:
    """The quality of a fit; printing it shows a short report.

    Attributes
    ----------
    columns : tuple of ColumnFit
        The fit of each column, over the rows that the last stage used.
    parameters : tuple of ParameterChange
        The free parameters.
    gradient : float
        Norm of the objective's gradient with respect to the unconstrained variables, at the best parameters; NaN if
        unknown.
    descent : float
        Relative decrease of the objective by the best step along the negative gradient, of length at most a tenth of
        the variables' norm: the decrease at the Cauchy point of trust-region methods (Nocedal and Wright, Numerical
        Optimization, ch. 4). NaN if unknown.
    improvement : float
        Relative decrease of the objective over the last tenth of the last stage's iterations.
    at_goal : bool
        Whether the last stage reached its goal.
    """

    columns: tuple[ColumnFit, ...]
    parameters: tuple[ParameterChange, ...]
    gradient: float
    descent: float
    improvement: float
    at_goal: bool

    @property
    def converged(self) -> bool:
        """Whether neither the last iterations nor the best gradient step decreases the objective by 0.1 % or more."""
        return self.descent < CONVERGED_GAIN and self.improvement < CONVERGED_GAIN

    @property
    def worst_column(self) -> ColumnFit | None:
        """The column with the lowest explained fraction, or None if at least 90 % of every column is explained."""
        return min((c for c in self.columns if c.explained < WELL_EXPLAINED), key=lambda c: c.explained, default=None)

    @property
    def advice(self) -> str:
        """A sentence that recommends a change; empty if nothing needs to be changed."""
        for change in self.parameters:
            if change.at_bound:
                return f"{change.name} ended at its bound: widen its bounds, or add it to `fixed` if this is intended."
            if change.moved_far:
                return (
                    f"{change.name} went from {change.start:.3g} to {change.end:.3g}, so the data may not determine "
                    "it: set bounds for it, add it to `fixed`, or provide more data."
                )
        worst = self.worst_column
        add = "hidden components (AugmentedNeuralODE; on the command line, --augment 2), another field or other data"
        if not (self.converged or self.at_goal):
            stay = f"; if {worst.name} remains poorly explained, try {add}" if worst else ""
            return (
                "The fit can still improve: use more iterations, a final L-BFGS stage or a smaller learning rate"
                f"{stay}."
            )
        if worst:
            return f"Unless the unexplained part of {worst.name} is noise, try {add}: more iterations will not help."
        return ""

    def __str__(self) -> str:
        lines = [f"{'column':<18}{'RMSE':>12}{'spread':>12}{'explained':>12}"]
        lines += _limited(self.columns, "columns")
        changes = [change for change in self.parameters if change.size == 1 or change.at_bound]
        if changes:
            lines += [f"{'parameter':<18}{'start':>12}{'end':>12}", *_limited(changes, "parameters")]
        lines += [
            f"{'converged' if self.converged else 'not converged'}: the last tenth of the iterations decreased "
            f"the loss by {_percent(self.improvement)};",
            f"the norm of the gradient is {self.gradient:.2g}; the best gradient step would decrease the loss by "
            f"{_percent(self.descent)}",
            *textwrap.wrap(self.advice, 88),
        ]
        return "\n".join(lines)


def column_fits(
    predicted: np.ndarray, data: np.ndarray, counted: np.ndarray, names: Sequence[str]
) -> tuple[ColumnFit, ...]:
    """Return the fit of each column of data (..., k), over the values where `counted`, of the same shape, is True."""
    fits = []
    for k, name in enumerate(names):
        seen = counted[..., k]
        values, errors = data[..., k][seen], (predicted[..., k] - data[..., k])[seen]
        rmse, spread = (np.sqrt(np.mean(errors**2)), np.std(values)) if seen.any() else (math.nan, math.nan)
        constant = spread <= 1e-12 * np.abs(values).max(initial=0.0)  # up to rounding error
        fits.append(ColumnFit(name, float(rmse), 0.0 if constant else float(spread)))
    return tuple(fits)


def diagnose(
    loss: TrajectoryLoss,
    variables: Variables,
    start: Mapping[str, np.ndarray],
    stage: StageResult,
    goal: float | None,
) -> Diagnosis:
    """Return the diagnosis of the last stage, whose goal is `goal`, at the current variables.

    `start` contains the parameters before the fit. The model is solved three times, twice with a gradient.
    """
    objective = loss.objective
    rows = objective.rows(stage.end)
    counted = (objective.weights[:rows] > 0).cpu().numpy()
    data = objective.data[:rows].cpu().numpy()
    columns: tuple[ColumnFit, ...] = ()
    gradient = descent = math.nan
    floor = max(stage.best_objective, NEGLIGIBLE * _loss_of_means(objective, rows), np.finfo(float).tiny)
    try:
        with torch.no_grad():
            prediction = loss.prediction(variables.values(), rows).cpu().numpy()
        columns = column_fits(prediction, data, counted, objective.names)
        gradient, decrease = _descent(variables, lambda: loss(variables.values(), rows)[1])
        descent = decrease / floor
    except (PyNeuralODEError, KeyboardInterrupt):  # the fit is valid; values that could not be computed stay NaN
        pass
    tenth = max(1, len(stage.objectives) // 10)
    before = min(stage.objectives[:-tenth] or stage.objectives[:1], default=math.nan)
    improvement = (before - stage.best_objective) / max(before, floor)
    now = variables.arrays()
    return Diagnosis(
        columns,
        tuple(_change(name, start[name], now[name], variables.bounds.get(name, OPEN)) for name in variables.free),
        gradient,
        descent,
        improvement,
        goal is not None and stage.best_loss <= goal,
    )


def _loss_of_means(objective: Objective, rows: int) -> float:
    """Return the loss of a constant prediction, the weighted mean of each column."""
    data, weights = objective.data[:rows], objective.weights[:rows]
    axes = tuple(range(data.ndim - 1))
    means = (weights * data).sum(axes) / weights.sum(axes).clamp_min(torch.finfo(data.dtype).tiny)
    return float(objective.loss(means.expand_as(data)))


def _descent(variables: Variables, evaluate: Callable[[], Tensor]) -> tuple[float, float]:
    """Return the norm of the gradient, and the decrease of the objective by the best step along the negative gradient.

    The length of this step follows from the curvature along the gradient, estimated from a second gradient at a nearby
    point.
    """
    free = list(variables.free.values())

    def gradient() -> Tensor:
        return _flat(torch.autograd.grad(evaluate(), free, materialize_grads=True)).double()

    here, slope = copy_tensors(variables.free), gradient()
    norm = float(slope.norm())
    if norm == 0 or not math.isfinite(norm):
        return norm, norm
    size = max(1.0, float(_flat(here.values()).norm()))
    probe = 1e-4 * size
    with torch.no_grad():
        for value, part in zip(free, slope.split([v.numel() for v in free])):
            value.sub_((probe / norm) * part.view_as(value))
    try:
        curvature = float(slope @ (slope - gradient())) / (norm * probe)
    finally:
        assign_tensors(variables.free, here)
    longest = 0.1 * size
    step = min(longest, norm / curvature) if curvature > 0 else longest
    return norm, norm * step - 0.5 * max(curvature, 0.0) * step**2


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _change(name: str, start: np.ndarray, end: np.ndarray, bound: Bound) -> ParameterChange:
    reached = any(
        bool((np.abs(end - edge) < BOUND_DISTANCE * np.abs(start - edge)).any()) for edge in bound if edge is not None
    )
    sizes = [float(v) if v.ndim == 0 else float(np.sqrt(np.mean(np.square(v, dtype=float)))) for v in (start, end)]
    return ParameterChange(name, *sizes, start.size, reached)


def _limited(parts: Sequence[ColumnFit | ParameterChange], what: str) -> list[str]:
    """Return one line for each of the first MAX_LINES parts, and a line with the number of remaining parts."""
    lines, more = [str(part) for part in parts[:MAX_LINES]], len(parts) - MAX_LINES
    return [*lines, f"... and {more} more {what}"] if more > 0 else lines


def _percent(part: float) -> str:
    return "an unknown amount" if math.isnan(part) else f"{100 * part:.2g} %"
