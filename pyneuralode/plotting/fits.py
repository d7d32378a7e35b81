"""Figures of fitted and solved time series, with a panel for each column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import COLORS, DATA, FORECAST, draw_fit, label, legend_outside, panel_grid


def solution_columns(
    ts: np.ndarray, curves: np.ndarray, columns: Sequence[str], time: str, end: float = np.inf
) -> Figure:
    """Draw each column of curves (T, k) against the times (T,); `time` is the label of the time axis.

    Beyond `end`, the last fitted time, the curves are dashed and labeled as a forecast.
    """
    figure = _panels(ts, curves, columns, time, end)
    if ts[-1] > end:
        legend_outside(figure, figure.axes[0], "upper")
    return figure


def _panels(ts: np.ndarray, curves: np.ndarray, columns: Sequence[str], time: str, end: float) -> Figure:
    width, height = (6.4, 4.0) if len(columns) == 1 else (4.4, 3.2)
    figure, axes = panel_grid(len(columns), 3, width, height)
    for ax, name, curve, color in zip(axes, columns, curves.T, COLORS * len(columns)):
        draw_fit(ax, ts, curve, end, color, "model", FORECAST, 1.8)
        label(ax, "", _escaped(time), _escaped(name), legend=False)
    return figure


def fitted_columns(
    ts: np.ndarray,
    values: np.ndarray,
    curve_ts: np.ndarray,
    curves: np.ndarray,
    columns: Sequence[str],
    time: str,
    end: float | None = None,
) -> Figure:
    """Draw data (T, k) at times (T,) and fitted curves (n, k) at times (n,), with a panel for each column.

    Missing values are NaN. Beyond `end`, the last fitted time (by default the last of the curves), data has open markers
    and curves are dashed.
    """
    end = float(curve_ts[-1]) if end is None else end
    figure = _panels(curve_ts, curves, columns, time, end)
    size = float(np.clip(50 / np.sqrt(len(ts)), 2, 5))
    fitted = ts <= end
    for ax, column, curve in zip(figure.axes, values.T, curves.T):
        known = np.concatenate([column[~np.isnan(column)], curve[curve_ts <= end]])
        margin = 0.15 * np.ptp(known) or 1.0
        if curve_ts[-1] > end:  # a forecast may extend beyond the panel
            ax.set_ylim(known.min() - margin, known.max() + margin)
        dots = {"markersize": size, "color": DATA, "zorder": 1}
        ax.plot(ts[fitted], column[fitted], "o", label="data", **dots)
        if not fitted.all():
            ax.plot(ts[~fitted], column[~fitted], "o", markerfacecolor="none", label="not fitted", **dots)
    legend_outside(figure, figure.axes[0], "upper")
    return figure


def _escaped(name: str) -> str:
    """Return a name with its dollar signs escaped, so that matplotlib does not read them as mathematics."""
    return name.replace("$", r"\$")
