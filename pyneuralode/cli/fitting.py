"""`pyneuralode fit`: fit a neural ODE to a table.

The network is trained on standardized columns, z = (y - mean) / standard deviation, so that columns of any scale and
unit have equal weight. The network's first and last layers then absorb the scaling, so that the saved model describes
the original data. The initial state is fitted too, starting from the first value of each column: noise in one row then
does not distort the whole curve, and the first row may have missing values.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..arguments import whole_number
from ..datasets.timeseries import TimeSeries
from ..errors import ArgumentError, SolverError, unknown_name
from ..fields import MLP
from ..files import whole_folder, write_json
from ..fitting import LBFGS, SGD, Adam, AdamW, FitResult, GrowingSpan, RMSprop, Stage, fit
from ..fitting.diagnosis import Diagnosis, column_fits
from ..fitting.optimizers import Optimizer
from ..models import AugmentedNeuralODE, NeuralODE
from ..plotting.fits import fitted_columns
from ..progress import Progress
from .description import DESCRIPTION, MODEL, Description
from .options import FitOptions, replace_given
from .parse import parse_numbers

FIGURE, METRICS = "fit.png", "metrics.json"
FILES = (MODEL, DESCRIPTION, FIGURE, METRICS)
_GROWING = (0.2, 0.4, 0.6, 0.8, 1.0)
_SCHEDULED = {"schedule": "cosine", "final": 0.05, "clip": 1.0}
_OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Adam(0.01, **_SCHEDULED),
    "adamw": AdamW(0.01, **_SCHEDULED),
    "rmsprop": RMSprop(0.003, **_SCHEDULED),
    "sgd": SGD(0.05, momentum=0.9, **_SCHEDULED),
    "lbfgs": LBFGS(),
}


@dataclass(frozen=True)  # repeated, so that __init__ calls __post_init__
class Settings(FitOptions):
    """The checked options of a fit; `rtol` and `atol` are in standard deviations of a column, `spans` in time units."""

    def __post_init__(self):
        for name in ("augment", "finish", "seed"):
            whole_number(name, getattr(self, name), 0)
        if self.optimizer.lower() not in _OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, _OPTIMIZERS)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(parse_numbers("hidden", self.hidden, int, "32,32"))

    @property
    def ends(self) -> tuple[float, ...] | None:
        """Ends of the growing spans; None if they are chosen automatically."""
        return None if self.spans == "auto" else tuple(parse_numbers("spans", self.spans, float, "10,20,30, or auto"))

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"hidden": self.widths, "spans": self.ends}

    def model(self, columns: int, slope: float) -> NeuralODE:
        """Return the untrained model for standardized columns with a typical rate of change `slope`."""
        width = columns + self.augment
        # Extra components start at zero, and would stay there in a network without biases.
        field = MLP((width, *self.widths, width), self.activation, output_scale=slope, init_bias=1.0)
        common = {name: getattr(self, name) for name in ("solver", "gradient", "seed", "rtol", "atol")}
        return AugmentedNeuralODE(field, self.augment, **common) if self.augment else NeuralODE(field, **common)

    def plan(self, ts: np.ndarray) -> GrowingSpan:
        """Return the plan: growing spans, then L-BFGS on the last span."""
        ends = self.ends
        if ends is None:
            ends = sorted({float(ts[max(1, int(np.ceil(part * len(ts))) - 1)]) for part in _GROWING})
        elif ends[0] < ts[1]:
            raise ArgumentError(
                f"spans begins with {ends[0]:g}, before the second row at {ts[1]:g}: use a later first end."
            )
        finish = [Stage(LBFGS(), self.finish)] if self.finish else []
        optimizer = replace_given(_OPTIMIZERS[self.optimizer.lower()], lr=self.lr)
        return GrowingSpan(ends, optimizer, self.iterations, finish)


@dataclass(frozen=True)
class Standardization:
    """The scaling of k columns: values are mean + size * z."""

    mean: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Standardization:
        mean, size = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        level = np.where(mean == 0, 1.0, np.abs(mean))
        return cls(mean, np.where(size > 1e-12 * level, size, level))  # a constant column has standard deviation 0

    def model(self, model: NeuralODE, extra: int) -> NeuralODE:
        """Convert the trained model of z to a model of the values: the same curve, in the values' units."""
        mean, size = np.append(self.mean, np.zeros(extra)), np.append(self.size, np.ones(extra))
        arrays, last = model.arrays(), len(model.field.sizes) - 1
        arrays["weight_1"] /= size
        arrays["bias_1"] -= arrays["weight_1"] @ mean
        arrays[f"weight_{last}"] *= size[:, None]
        arrays[f"bias_{last}"] *= size
        # For a state far from zero, a relative tolerance would be too loose,
        # so make it relative to the standard deviation.
        control = {"rtol": model.control.rtol * size / (size + np.abs(mean)), "atol": model.control.atol * size}
        kind = {"augment_dim": extra} if extra else {}
        scaled = type(model)(model.field, **kind, solver=model.solver, gradient=model.gradient, **control)
        scaled.set_arrays(arrays)
        return scaled


@dataclass(frozen=True)
class TableFit:
    """A fit to a table: the model and initial state (k,) in the data's units, and the result in standardized units.

    `end` is the last fitted time.
    """

    data: TimeSeries
    settings: Settings
    model: NeuralODE
    y0: np.ndarray
    end: float
    result: FitResult

    @property
    def rows(self) -> int:
        """Number of fitted rows."""
        return int(np.searchsorted(self.data.ts, self.end, side="right"))

    def curve(self, ts: np.ndarray) -> np.ndarray:
        """Return the fitted curve (T, k) at times (T,), which must begin with the first data time."""
        return self.model.solve(self.y0, ts).ys[:, : len(self.y0)]

    def picture(self) -> tuple[np.ndarray, np.ndarray]:
        """Return times (n,) and the curve (n, k) over the data's time span, or up to `end` if the solve fails later."""
        first, last = self.data.ts[[0, -1]]
        grid = np.linspace(first, last, 401)
        try:
            return grid, self.curve(grid)
        except SolverError:
            grid = np.linspace(first, self.end, 401)
            return grid, self.curve(grid)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """The diagnosis of the fit; its `columns` refer to the fitted rows, in the data's units."""
        data, values = self.data, self.data.values[: self.rows]
        columns = column_fits(self.curve(data.ts[: self.rows]), values, ~np.isnan(values), data.columns)
        return dataclasses.replace(self.result.diagnosis, columns=columns)

    def metrics(self) -> dict[str, Any]:
        """Return the numbers of the fit, in a form that `files.write_json` accepts.

        `loss` is the mean squared error in standard deviations of the columns; `rmse` and `spread`, the standard
        deviation, are in the data's units. All are computed over the fitted rows.
        """
        data, rows, result, found = self.data, self.rows, self.result, self.diagnosis
        errors = self.curve(data.ts[:rows]) - data.values[:rows]
        of_columns = ("rmse", "spread", "explained")
        of_fit = ("converged", "gradient", "descent", "improvement", "advice")
        return {
            "loss": float(np.nanmean((errors / Standardization.of(data.values).size) ** 2)),
            **{name: {column.name: getattr(column, name) for column in found.columns} for name in of_columns},
            **{name: getattr(found, name) for name in of_fit},
            "rows": rows,
            "end": self.end,
            "iterations": len(result.losses),
            "evaluations": result.evaluations,
            "seconds": round(result.seconds, 3),
            "seed": self.settings.seed,
            "finished": result.finished,
            "message": result.message,
            "settings": self.settings.as_json(),
        }


def fit_table(data: TimeSeries, settings: Settings, progress: Progress) -> TableFit:
    """Fit a neural ODE to a table; Ctrl-C returns the best fit so far.

    Raises KeyboardInterrupt or SolverError if the fit ended before the first evaluation of the loss.
    """
    standard = Standardization.of(data.values)
    z = (data.values - standard.mean) / standard.size
    result = fit(
        settings.model(len(data.columns), _slope(data.ts, z)),
        data.ts,
        pd.DataFrame(z, columns=data.columns),
        y0=lambda parameters: parameters["initial_state"],
        extra={"initial_state": _first_values(z)},
        plan=settings.plan(data.ts),
        mask="nan",
        reduction="mean",
        progress=progress,
    )
    evaluated = [stage for stage in result.stages if stage.evaluations]
    if not evaluated:
        raise KeyboardInterrupt if result.interrupted else SolverError(result.message)
    y0 = standard.mean + standard.size * result.parameters["initial_state"]
    end = min(evaluated[-1].end, float(data.ts[-1]))
    return TableFit(data, settings, standard.model(result.model, settings.augment), y0, end, result)


def write_fit(out: Path, fitted: TableFit) -> None:
    """Write the model, its description, the figure and the numbers: all files or none."""
    data = fitted.data
    figure = fitted_columns(data.ts, data.values, *fitted.picture(), data.columns, data.time, fitted.end)
    metrics = fitted.metrics()
    description = Description(data.time, data.columns, float(data.ts[0]), fitted.end, tuple(fitted.y0.tolist()))
    with whole_folder(out) as folder:
        fitted.model.save(folder / MODEL)
        description.save(folder / DESCRIPTION)
        figure.savefig(folder / FIGURE, dpi=150)
        write_json(folder / METRICS, metrics)


def _first_values(z: np.ndarray) -> np.ndarray:
    """Return the first value that is not missing, for each column of z (T, k)."""
    return z[np.argmin(np.isnan(z), axis=0), np.arange(z.shape[1])]


def _slope(ts: np.ndarray, z: np.ndarray) -> float:
    """Return the root mean square of dz/dt over 50 equal intervals, so that noise in close rows has little effect."""
    grid = np.linspace(ts[0], ts[-1], 51)
    held = [~np.isnan(column) for column in z.T]
    lines = np.stack([np.interp(grid, ts[h], column[h]) for h, column in zip(held, z.T)])
    slope = np.sqrt(np.mean(np.square(np.diff(lines)))) / (grid[1] - grid[0])
    return float(slope) or 1.0 / float(ts[-1] - ts[0])
