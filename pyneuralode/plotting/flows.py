"""Figures of densities and flows: densities over time, panels of many densities, losses with their lower bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from .style import COLORS, DATA, INK, label, new_figure, panel_grid

Extent = tuple[float, float, float, float]
# Yellow on blue, like the flag.
FLAG = LinearSegmentedColormap.from_list("flag", ["#0a3f6e", "#00589b", "#5f8f6b", "#d9b62a", "#ffd21f"])
_BELOW = 12.0  # log densities this far below the maximum are drawn in the lowest color


def flow_in_time(
    times: Sequence[float] | np.ndarray,
    densities: np.ndarray,
    samples: np.ndarray,
    extent: Extent,
    titles: Sequence[str] = (),
) -> Figure:
    """Draw the density (T, rows, columns) and the samples (T, n, 2) of a flow at `times`, from base to data.

    Each density has its own scale. `titles` replaces the times above the panels.
    """
    figure = Figure(figsize=(2.3 * len(times), 4.9 * _aspect(extent)), layout="constrained")
    axes = figure.subplots(2, len(times), squeeze=False)
    for k, time in enumerate(times):
        _density(axes[0, k], densities[k], extent)
        _points(axes[1, k], samples[k], extent)
        axes[0, k].set_title(titles[k] if titles else f"t = {time:.2g}", fontsize=10, color=INK)
    axes[0, 0].set_ylabel("density", color=INK)
    axes[1, 0].set_ylabel("samples", color=INK)
    return figure


def flow_animation(
    times: Sequence[float] | np.ndarray, densities: np.ndarray, samples: np.ndarray, extent: Extent
) -> FuncAnimation:
    """Return an animation of a flow's density and samples, as in `flow_in_time`, with a pause at the end."""
    figure = Figure(figsize=(6.0, 3.2 * _aspect(extent)), layout="constrained", dpi=80)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    image = _density(left, densities[0], extent)
    dots = _points(right, samples[0], extent)
    title = figure.suptitle(" ", fontsize=10, color=INK)
    rest = max(1, len(times) // 2)

    def draw(k: int) -> tuple:
        image.set_data(densities[k])
        image.set_clim(0, densities[k].max())
        dots.set_data(*samples[k].T)
        title.set_text(f"t = {times[k]:.2f}")
        return image, dots, title

    frames = [*range(len(times)), *[len(times) - 1] * rest]
    return FuncAnimation(figure, draw, frames=frames, interval=100)


def density_panels(panels: Sequence[tuple[str, np.ndarray]], extent: Extent, columns: int, log: bool = False) -> Figure:
    """Draw densities, given as (title, (rows, columns)); with `log`, they are log densities with a common scale."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.55 * _aspect(extent) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    top = max(float(np.max(values)) for _, values in panels)
    for ax, (title, values) in zip(axes.flat, panels):
        image = _density(ax, values, extent, *((top - _BELOW, top) if log else ()))
        lines = [line for part in title.splitlines() for line in wrap(part, 24, break_on_hyphens=False)]
        ax.set_title("\n".join(lines), fontsize=9, color=INK)
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_axis_off()
    if log:
        figure.colorbar(image, ax=axes, shrink=0.6, label="log density (nats)")
    return figure


def fitted_density(data: np.ndarray, density: np.ndarray, samples: np.ndarray, extent: Extent) -> Figure:
    """Draw the data and samples, points (n, 2), next to the fitted density, given by its logarithm (rows, columns)."""
    figure = Figure(figsize=(11.0, 3.0 * _aspect(extent)), layout="constrained")
    first, second, third, fourth = figure.subplots(1, 4)
    _points(first, data, extent)
    _points(second, samples, extent)
    _density(third, np.exp(density), extent)
    image = _density(fourth, density, extent, density.max() - _BELOW, density.max())
    figure.colorbar(image, ax=fourth, shrink=0.8, label="nats")
    for ax, title in zip((first, second, third, fourth), ("data", "samples", "density", "log density")):
        ax.set_title(title, fontsize=10, color=INK)
    return figure


def running_losses(
    groups: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
    floor: float,
    theirs: Mapping[str, float],
    columns: int = 2,
) -> Figure:
    """Draw running losses and their lower bound `floor`: a panel per group, a color per net, a curve per seed.

    A dotted line of the same color shows the published loss of that net (`theirs`, by name).
    """
    figure, axes = panel_grid(len(groups), columns, width=5.6, height=3.8)
    for ax, (title, nets) in zip(axes, groups.items()):
        for color, (name, curves) in zip(COLORS * len(nets), nets.items()):
            for k, curve in enumerate(curves):
                ax.plot(np.arange(1, len(curve) + 1), curve, color=color, linewidth=1.1, label=name if k == 0 else None)
            if name in theirs:
                ax.axhline(theirs[name], color=color, linewidth=0.9, linestyle=":")
        ax.axhline(floor, color=INK, linewidth=1.0, label=f"entropy of the density, {floor:.4f}")
        drawn = [theirs[name] for name in nets if name in theirs]
        lowest = min(curve.min() for curves in nets.values() for curve in curves)
        ax.set_ylim(floor - 0.05, max([floor + 1.0, lowest + 0.3, *(loss + 0.1 for loss in drawn)]))
        label(ax, title, "update", "running mean of the loss (nats)")
    return figure


def losses_of_settings(
    names: Sequence[str], theirs: Sequence[float], runs: Mapping[str, Sequence[Sequence[float]]], floor: float
) -> Figure:
    """Draw each setting's losses in a row: the published loss, and one point per seed for each setup in `runs`."""
    figure, axes = new_figure(width=8.2, height=0.34 * len(names) + 1.2)
    ax = axes[0, 0]
    rows = np.arange(len(names))[::-1]
    ax.axvline(floor, color=INK, linewidth=1.0)
    ax.text(floor, len(names) - 0.35, " entropy: lower bound of the loss", color=INK, fontsize=8, va="bottom")
    ax.plot(theirs, rows, "D", color=DATA, markersize=7, label="theirs", zorder=3)
    for color, (words, losses) in zip(COLORS, runs.items()):
        for row, values in zip(rows, losses):
            ax.plot(values, [row] * len(values), "o", color=color, markersize=4.5, alpha=0.8)
        ax.plot([], [], "o", color=color, markersize=4.5, label=words)
    ax.set_yticks(rows, names)
    ax.set_ylim(-0.7, len(names) + 0.1)
    label(ax, "", "loss (nats)")
    return figure


def divergences(widths: Sequence[int], panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw the divergence from each given density (panel) against the size M, with a line for each kind of flow."""
    figure, axes = new_figure(columns=len(panels), width=3.6, height=3.4)
    for ax, (title, kinds) in zip(axes[0], panels.items()):
        for color, (kind, values) in zip(COLORS, kinds.items()):
            ax.loglog(widths, values, "o-", color=color, linewidth=1.3, label=kind)
        ax.set_xticks(widths, [str(m) for m in widths])
        ax.minorticks_off()
        label(ax, title, "M", "KL(q || p) in nats", legend=ax is axes[0, 0])
    return figure


def _aspect(extent: Extent) -> float:
    left, right, bottom, top = extent
    return (top - bottom) / (right - left)


def _density(ax: Axes, values: np.ndarray, extent: Extent, low: float = 0.0, high: float | None = None):
    high = values.max() if high is None else high
    image = ax.imshow(values, origin="lower", extent=extent, cmap=FLAG, vmin=low, vmax=high)
    _bare(ax, extent)
    return image


def _points(ax: Axes, points: np.ndarray, extent: Extent):
    ax.set_facecolor(FLAG(0.0))
    (dots,) = ax.plot(*points.T, ".", color=FLAG(1.0), markersize=1.6, markeredgewidth=0, alpha=0.8)
    _bare(ax, extent)
    return dots


def _bare(ax: Axes, extent: Extent) -> None:
    ax.set(aspect="equal", xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
