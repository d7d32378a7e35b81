"""Figures of epidemics: compartments, fitted curves, fits over growing spans, forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import COLORS, DATA, INK, draw_fit, label, legend_outside, new_figure, panel_grid

DAYS = "days since 1 November 2021"


def compartments(days: np.ndarray, states: np.ndarray, title: str) -> Figure:
    """Draw S, E, I and R, states (T, 4) in fractions of the population, against the days (T,)."""
    figure, axes = new_figure()
    names = ("susceptible", "exposed", "infectious", "recovered")
    for name, column, color in zip(names, states.T, COLORS):
        axes[0, 0].plot(days, column, color=color, linewidth=1.8, label=name)
    label(axes[0, 0], title, "days", "fraction of the population")
    return figure


def fitted_curves(days: np.ndarray, values: np.ndarray, curves: Mapping[str, tuple], title: str, y: str) -> Figure:
    """Draw the data (T,) and the named curves, each a pair of times and values, with the residuals below."""
    figure, axes = new_figure(rows=2, height=2.9)
    upper, lower = axes[:, 0]
    upper.plot(days, values, "o", color=DATA, markersize=4, label="data")
    for (name, (times, curve)), color in zip(curves.items(), COLORS):
        upper.plot(times, curve, color=color, linewidth=1.6, label=name)
        lower.plot(days, np.interp(days, times, curve) - values, color=color, linewidth=1.2, label=name)
    lower.axhline(0, color=INK, linewidth=0.8)
    label(upper, title, "", y)
    label(lower, "fit minus data", DAYS, y, legend=False)
    return figure


def growing_fits(days: np.ndarray, values: np.ndarray, fits: Sequence[tuple], y: str) -> Figure:
    """Draw a panel for each stage, given as (end of its span, times, curve); data beyond the end has open markers."""
    figure, axes = panel_grid(len(fits), 3, width=3.4, height=2.5)
    for ax, (end, times, curve), color in zip(axes, fits, COLORS * len(fits)):
        seen, open_ = days <= end, {"markerfacecolor": "none", "alpha": 0.6}
        ax.plot(days[seen], values[seen], "o", color=DATA, markersize=3, label="data, fitted")
        ax.plot(days[~seen], values[~seen], "o", color=DATA, markersize=3, label="data, not fitted", **open_)
        inside = times <= end
        ax.plot(times[inside], curve[inside], color=color, linewidth=1.6)
        ax.set(xlim=(-4, days[-1] + 4), ylim=(-0.08 * values.max(), 1.15 * values.max()))
        label(ax, f"fitted to day {end:g}", legend=False)
    legend_outside(figure, axes[0], "upper")
    figure.supxlabel(DAYS, fontsize=10)
    figure.supylabel(y, fontsize=10)
    return figure


def forecasts(days: np.ndarray, values: np.ndarray, panels: Sequence[tuple], y: str) -> Figure:
    """Draw forecasts of held-out days, with a panel for each (last fitted day, times, {name: curves (n, T)}).

    If a name has several curves, a line shows their median, dashed in the forecast, and a band shows their range.
    """
    figure, axes = new_figure(len(panels), width=5.2)
    for ax, (end, times, models) in zip(axes[0], panels):
        seen = days <= end
        ax.plot(days[seen], values[seen], "o", color=DATA, markersize=4, label="fitted")
        ax.plot(days[~seen], values[~seen], "o", color=INK, markersize=4, markerfacecolor="none", label="held out")
        for (name, curves), color in zip(models.items(), COLORS):
            curves = np.atleast_2d(curves)
            draw_fit(ax, times, np.median(curves, axis=0), end, color, name, f"{name}, forecast")
            if len(curves) > 1:
                ax.fill_between(times, curves.min(0), curves.max(0), color=color, alpha=0.2, linewidth=0)
        ax.axvline(end, color=INK, linewidth=0.8, linestyle=":")
        ax.set(xlim=(days[-1] - 75, days[-1] + 2), ylim=(-0.1 * values.max(), 1.2 * values.max()))
        label(ax, f"last {days[-1] - end:g} days held out", DAYS, y)
    return figure


def stage_losses(stages: Sequence, title: str = "Loss by stage") -> Figure:
    """Draw the losses of a fit with growing spans, with a small panel for each `StageResult`."""
    figure, axes = panel_grid(len(stages), 3, width=3.4, height=2.5)
    for ax, stage, color in zip(axes, stages, COLORS * len(stages)):
        ax.semilogy(np.arange(1, len(stage.losses) + 1), stage.losses, color=color, linewidth=1.0)
        end = "all data" if stage.end is None else f"days 0 to {stage.end:g}"
        label(ax, f"{end}: {stage.best_loss:.2e}", "iteration", "sum of squares")
    figure.suptitle(title, fontsize=12)
    return figure
