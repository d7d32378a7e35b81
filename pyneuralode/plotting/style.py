"""The common style of all figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

MARKERS = "osD^vPX*"
INK = "#1f2933"
DATA = "#7b8794"
FORECAST = "forecast, not fitted"
# Okabe and Ito's palette, which color-blind readers can distinguish too.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")


def new_figure(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 4.0) -> tuple[Figure, np.ndarray]:
    """Return a figure of `rows` x `columns` panels, each of the given size in inches, and its axes (rows, columns)."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#e4e7eb", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def panel_grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels, at most `columns` side by side, and their axes."""
    columns = min(columns, count)
    figure, axes = new_figure(columns, -(-count // columns), width, height)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])


def draw_marked(draw: Callable[..., object], x: ArrayLike, curves: Mapping[str, ArrayLike], **style: Any) -> None:
    """Draw named curves (T,), each with its own color and marker; `draw` is a panel's method, such as ``ax.loglog``."""
    for color, marker, (name, values) in zip(COLORS, MARKERS, curves.items()):
        draw(x, values, marker=marker, color=color, label=name, **style)


def running_means(values: ArrayLike, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each window of `window` updates, the number of its last update (n,) and the mean of `values` (n,)."""
    means = np.convolve(np.asarray(values, dtype=float), np.full(window, 1 / window), mode="valid")
    return np.arange(window, window + len(means)), means


def draw_fit(
    ax: Axes, ts: np.ndarray, curve: np.ndarray, end: float, color: str, name: str, forecast: str, width: float = 1.6
) -> None:
    """Draw a curve (T,) at times (T,): solid and labeled `name` up to `end`, then dashed and labeled `forecast`.

    `end` is the last fitted time.
    """
    fitted = int(np.searchsorted(ts, end, side="right"))
    ax.plot(ts[:fitted], curve[:fitted], color=color, linewidth=width, label=name)
    if fitted < len(ts):
        ahead = slice(max(0, fitted - 1), None)
        ax.plot(ts[ahead], curve[ahead], "--", color=color, linewidth=0.75 * width, label=forecast)


def label(ax: Axes, title: str = "", x: str = "", y: str = "", legend: bool = True) -> None:
    """Set a panel's title and axis labels (with units), and add a legend if anything has a label."""
    ax.set_title(title, color=INK, fontsize=11, loc="left")
    ax.set(xlabel=x, ylabel=y)
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=9, framealpha=0.85, edgecolor="none")


def legend_outside(figure: Figure, ax: Axes, side: str = "lower") -> None:
    """Place the legend of one panel below ("lower") or above ("upper") all panels."""
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc=f"outside {side} center", ncols=min(4, len(names)), frameon=False, fontsize=9)
