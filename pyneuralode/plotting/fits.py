"""Fitted and solved time series, a panel for each column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import COLOURS, DATA, label, new_figure


def solution_columns(ts: np.ndarray, curves: np.ndarray, columns: Sequence[str], time: str) -> Figure:
    """Draw each column of curves (T, k) against the times (T,); `time` names the time axis."""
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure, axes = new_figure(
        across, down, width=6.4 if across == 1 else 4.4, height=4.0 if across == 1 else 3.2
    )
    for ax, name, curve, colour in zip(axes.flat, columns, curves.T, COLOURS * len(columns)):
        ax.plot(ts, curve, color=colour, linewidth=1.8, label="model")
        label(ax, "", _plain(time), _plain(name), legend=False)
    for ax in list(axes.flat)[len(columns) :]:
        ax.set_visible(False)
    return figure


def fitted_columns(
    ts: np.ndarray,
    values: np.ndarray,
    curve_ts: np.ndarray,
    curves: np.ndarray,
    columns: Sequence[str],
    time: str,
) -> Figure:
    """Draw data (T, k) at times (T,) and the fitted curves (n, k) at times (n,), a panel for each column.

    Missing values are NaN; data after the last time of the curves was not fitted and is drawn open.
    """
    figure = solution_columns(curve_ts, curves, columns, time)
    size = float(np.clip(50 / np.sqrt(len(ts)), 2, 5))
    fitted = ts <= curve_ts[-1]
    for ax, column in zip(figure.axes, values.T):
        dots = {"markersize": size, "color": DATA, "zorder": 1}
        ax.plot(ts[fitted], column[fitted], "o", label="data", **dots)
        if not fitted.all():
            ax.plot(ts[~fitted], column[~fitted], "o", markerfacecolor="none", label="not fitted", **dots)
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


def _plain(name: str) -> str:
    """Return a user's name for an axis, where matplotlib would take dollars for mathematics."""
    return name.replace("$", r"\$")
