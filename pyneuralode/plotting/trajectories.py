"""Figures of trajectories: in the plane, over time, over depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import COLORS, DATA, INK, draw_fit, label, legend_outside, new_figure, panel_grid

_FIELD = "#b8c2cc"


def training_grid(truth: np.ndarray, runs: Mapping[str, Mapping[int, np.ndarray]]) -> Figure:
    """Draw trajectories (T, 2) in the plane, with a row for each run and a column for each stored iteration."""
    shown = list(next(iter(runs.values())))
    figure, axes = new_figure(len(shown), len(runs), width=2.7, height=2.6)
    reach = 1.25 * np.abs(truth).max()
    for row, (name, trajectories) in zip(axes, runs.items()):
        for ax, iteration in zip(row, shown):
            ax.plot(*truth.T, color=INK, linewidth=0.9, label="exact")
            ax.plot(*trajectories[iteration].T, color=COLORS[1], linewidth=1.2, label="neural ODE")
            _square(ax, reach)
            error = np.mean((trajectories[iteration] - truth) ** 2)
            label(ax, f"iteration {iteration}: {error:.3g}", legend=False)
        row[0].set_ylabel(f"{name}\nstate 2")
    for ax in axes[-1]:
        ax.set_xlabel("state 1")
    legend_outside(figure, axes[0, 0])
    return figure


def span_fits(ts: np.ndarray, data: np.ndarray, panels: Sequence[tuple], columns: int) -> Figure:
    """Draw a panel for each fit: (title, end of its span, times, states (T, d)).

    Beyond the end of its span, data has open markers and the curve is dashed.
    """
    figure, axes = panel_grid(len(panels), columns, width=3.6, height=2.7)
    reach = 1.3 * np.abs(data).max()
    for ax, (title, end, times, states) in zip(axes, panels):
        seen = ts <= end
        for k, color in zip(range(data.shape[1]), COLORS):
            name, dots = f"state {k + 1}", {"color": color, "markersize": 4}
            ax.plot(ts[seen], data[seen, k], "o", label=f"{name}, data", **dots)
            ax.plot(ts[~seen], data[~seen, k], "o", label=f"{name}, not fitted", fillstyle="none", alpha=0.6, **dots)
            draw_fit(ax, times, states[:, k], end, color, f"{name}, fit", f"{name}, forecast", 1.4)
        ax.set_ylim(-reach, reach)
        label(ax, title, "time", "state", legend=False)
    legend_outside(figure, axes[0])
    return figure


def learned_planes(data: np.ndarray, truth: np.ndarray, lattice: np.ndarray, planes: Sequence[tuple]) -> Figure:
    """Draw a panel for each (title, trajectory (T, 2), slopes on the lattice (n, n, 2)).

    Each panel also shows the data and the exact curve.
    """
    figure, axes = new_figure(len(planes), width=4.2, height=4.4)
    for ax, (title, states, slopes) in zip(axes[0], planes):
        directions = slopes / np.maximum(np.linalg.norm(slopes, axis=-1, keepdims=True), 1e-12)
        ax.quiver(*np.moveaxis(lattice, -1, 0), *np.moveaxis(directions, -1, 0), color=_FIELD, scale=26, width=0.004)
        ax.plot(*truth.T, color=INK, linewidth=1.0, label="exact")
        ax.plot(*states.T, color=COLORS[1], linewidth=1.6, label="neural ODE")
        ax.plot(*data.T, "o", color=DATA, markersize=4, label="data")
        _square(ax, np.abs(lattice).max() * 1.06)
        label(ax, title, "state 1", "state 2", legend=False)
    legend_outside(figure, axes[0, 0])
    return figure


def span_losses(ends: Sequence[float], runs: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Draw a panel for each span, with the losses of every run in that span (name -> losses of each span)."""
    figure, axes = new_figure(len(ends), width=3.6, height=2.9)
    for k, (ax, end) in enumerate(zip(axes[0], ends)):
        for (name, losses), color in zip(runs.items(), COLORS):
            ax.semilogy(np.arange(1, len(losses[k]) + 1), losses[k], color=color, linewidth=1.1, label=name)
        label(ax, f"span 0 to {end:g}", "iteration", "sum of squares", legend=False)
    legend_outside(figure, axes[0, 0])
    return figure


def residual_and_ode(
    networks: Sequence[tuple], ode: tuple, slope: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Figure:
    """Draw states against depth: residual networks (depths (n + 1,), states (n + 1, starts)), then the ODE.

    ``slope(ts, ys)`` returns the field (T, Y). The field is drawn as arrows, at the layers of a shallow network and
    everywhere in the other panels.
    """
    panels = [(f"residual network, {len(ts) - 1} layers", ts, states, True) for ts, states in networks]
    panels.append(("ODE", *ode, False))
    figure, axes = new_figure(len(panels), width=3.8, height=4.4)
    reach = 1.1 * max(np.abs(states).max() for _, _, states, _ in panels)
    across = np.linspace(-reach, reach, 27)
    for ax, (title, ts, states, layered) in zip(axes[0], panels):
        few = layered and len(ts) < 30
        at = ts[:-1] if few else np.linspace(ts[0], ts[-1], 26)
        slopes = slope(at, across)
        arrows = np.stack([slopes, np.ones_like(slopes)]) / np.hypot(slopes, 1)
        ax.quiver(*np.meshgrid(across, at), *arrows, color=_FIELD, angles="xy", scale=32, width=0.0035)
        dots = slice(None, None, 1 if layered else len(ts) - 1)  # every layer, or the two ends of the ODE
        for k, path in enumerate(states.T):
            color = COLORS[k % len(COLORS)]
            ax.plot(path, ts, color=color, linewidth=1.4)
            ax.plot(path[dots], ts[dots], "o", color=color, markersize=4 if few or not layered else 1.8)
        ax.set_xlim(-reach, reach)
        label(ax, title, "state", "depth" if ax is axes[0, 0] else "")
    return figure


def depth_errors(distances: Mapping[int, float]) -> Figure:
    """Draw the distance from the ODE (by number of layers) on logarithmic axes, with a reference line of slope -1."""
    figure, axes = new_figure()
    depths, values = np.array(list(distances)), np.array(list(distances.values()))
    axes[0, 0].loglog(depths, values, "o-", color=COLORS[0], linewidth=1.6, label="residual network")
    guide = values[-1] * depths[-1] / depths
    axes[0, 0].loglog(depths, guide, ":", color=INK, linewidth=1.0, label="1 / depth")
    label(axes[0, 0], "Distance from the ODE at the end", "layers", "root mean square, units of the state")
    return figure


def _square(ax: Axes, reach: float) -> None:
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
