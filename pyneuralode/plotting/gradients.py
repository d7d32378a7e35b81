"""Figures of gradient methods: error against tolerance, memory against the number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import INK, draw_marked, label, new_figure, panel_grid


def gradient_errors(tolerances: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw relative gradient errors, with a panel for each problem and solver and a line for each method."""
    figure, axes = panel_grid(len(panels), 2, width=4.8, height=3.2)
    for ax, (title, methods) in zip(axes, panels.items()):
        draw_marked(ax.loglog, tolerances, methods, markersize=4, linewidth=1.2, alpha=0.85)
        ax.loglog(tolerances, tolerances, color=INK, linewidth=0.8, linestyle=":", label="error = tolerance")
        ax.axhline(1, color=INK, linewidth=0.6)
        ax.invert_xaxis()
        label(ax, title, "rtol = atol", "relative error of the gradient", legend=ax is axes[0])
    return figure


def memory_growth(steps: Sequence[int], peaks: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the peak memory (bytes) of a gradient by each method against the number of steps."""
    figure, axes = new_figure()
    draw_marked(axes[0, 0].loglog, steps, {name: np.asarray(peak) / 1e3 for name, peak in peaks.items()}, markersize=4)
    label(axes[0, 0], "Memory of one gradient", "steps", "peak memory, kB")
    return figure


def wrong_sign(tolerances: Sequence[float], truth: float, derivatives: Mapping[str, Sequence[float]]) -> Figure:
    """Draw a derivative computed by each method against the tolerance, and its exact value."""
    figure, axes = new_figure()
    draw_marked(axes[0, 0].semilogx, tolerances, derivatives, markersize=4, alpha=0.85)
    axes[0, 0].axhline(truth, color=INK, linewidth=0.8, linestyle=":", label="exact")
    axes[0, 0].set_ylim(-4 * abs(truth), 2 * abs(truth))
    axes[0, 0].invert_xaxis()
    label(axes[0, 0], "y' = -25 (y - cos t): the derivative dy(1)/dk", "rtol = atol", "dy(1)/dk")
    return figure
