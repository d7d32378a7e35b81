"""Figures of coupled ODEs: the coupling of weights and activations, kernels over time, learned transport."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from .style import COLORS, DATA, INK, label, new_figure

_WEIGHTS, _ACTIVATIONS = COLORS[1], COLORS[0]
_EXACT = "#c3cad2"
_MODELS = (COLORS[1], COLORS[0], COLORS[2])


def coupling(configurations: Sequence[tuple[str, int, int]]) -> Figure:
    """Draw which weights act on which activations, for each configuration (title, weight steps, activation steps).

    Weights and activations use Euler's method; the number of activation steps must divide the number of weight steps.
    """
    figure = Figure(figsize=(8.0, 2.3 * len(configurations)), layout="constrained")
    axes = figure.subplots(len(configurations), 1, squeeze=False)[:, 0]
    for ax, (title, weight_steps, steps) in zip(axes, configurations):
        weights, states = np.linspace(0, 1, weight_steps + 1), np.linspace(0, 1, steps + 1)
        for k, t in enumerate(weights):
            _node(ax, t, 1.0, rf"$\theta_{{{k}}}$", _WEIGHTS)
        for k, t in enumerate(states):
            _node(ax, t, 0.0, f"$z_{{{k}}}$", _ACTIVATIONS)
        for before, after in itertools.pairwise(weights):
            _arrow(ax, (before, 1.0), (after, 1.0), _WEIGHTS)
        for before, after in itertools.pairwise(states):
            _arrow(ax, (before, 0.0), (after, 0.0), _ACTIVATIONS)
            _arrow(ax, (before, 1.0), ((before + after) / 2, 0.0), DATA)
        ax.set_title(title, color=INK, fontsize=11, loc="left")
        ax.set(xlim=(-0.06, 1.06), ylim=(-0.4, 1.4))
        ax.set_yticks([0, 1], ["activations", "weights"], color=INK)
        ax.set_xticks(states, [f"t = {t:.1f}" for t in states], color=INK)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return figure


def kernels_in_time(
    times: Sequence[float], rows: Sequence[tuple[str, np.ndarray]], side: float = 1.25, change: bool = False
) -> Figure:
    """Draw each kernel (title, (T, height, width)) at `times` in a row with its own color scale, zero in white.

    With `change`, an additional column shows the last kernel minus the first, on its own scale.
    """
    columns = len(times) + change
    figure = Figure(figsize=(side * columns + 1.9 + 0.8 * change, (side + 0.18) * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    titles = [f"t = {time:.2g}" for time in times] + ["change"] * change
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, color=INK, fontsize=10)
    for line, (title, kernels) in zip(axes, rows):
        reach = float(np.abs(kernels).max())
        for ax, kernel in zip(line, kernels):
            image = _kernel(ax, kernel, reach)
        _scale(image, line[len(times) - 1])
        if change:
            moved = kernels[-1] - kernels[0]
            _scale(_kernel(line[-1], moved, float(np.abs(moved).max())), line[-1])
        line[0].set_ylabel(title, color=INK, fontsize=9, rotation=0, ha="right", va="center")
    return figure


def transported(
    x: np.ndarray, times: Sequence[float], panels: Mapping[str, Mapping[str, np.ndarray]], reach: float = 1.0
) -> Figure:
    """Draw a pulse at `times`, within `reach` of its peak, with a row for each speed.

    The curves (T, cells) of a row are given by name, the exact one first.
    """
    figure, axes = new_figure(len(times), len(panels), width=3.1, height=2.5)
    styles = ({"color": _EXACT, "linewidth": 4.0}, *({"color": c, "linewidth": 1.3} for c in _MODELS))
    for row, (title, curves) in zip(axes, panels.items()):
        for ax, time, *values in zip(row, times, *curves.values()):
            for name, z, style, dashes in zip(curves, values, styles, ("-", "-", "--", ":")):
                ax.plot(x, z, label=name, linestyle=dashes, **style)
            label(ax, f"{title}, t = {time:.2f}", "x", "z" if ax is row[0] else "", legend=False)
            top = x[values[0].argmax()]
            ax.set(xlim=(top - reach, top + reach), ylim=(-0.1, 1.1))
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(next(iter(panels.values()))),
        frameon=False,
    )
    return figure


def errors_in_time(times: Sequence[float], panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw relative errors (seeds, T) over time by name, with a panel for each speed and a line for each seed."""
    figure, axes = new_figure(len(panels), 1, width=4.6, height=3.4)
    for ax, (title, runs) in zip(axes[0], panels.items()):
        for color, (name, errors) in zip(_MODELS, runs.items()):
            for k, line in enumerate(errors):
                words = {"label": name} if k == 0 else {}
                ax.semilogy(times, line, color=color, marker="o", markersize=3, linewidth=1.0, **words)
        label(ax, title, "unseen time t", "relative L2 error")
    return figure


def speeds_in_time(times: np.ndarray, panels: Mapping[str, Mapping[str, np.ndarray]], truth: str = "c(t)") -> Figure:
    """Draw speeds (T,) over time by name, with a panel for each true speed, whose curve is named `truth`."""
    figure, axes = new_figure(len(panels), 1, width=4.6, height=3.2)
    for ax, (title, curves) in zip(axes[0], panels.items()):
        ax.plot(times, curves[truth], color=_EXACT, linewidth=4.0, label=truth)
        others = {name: values for name, values in curves.items() if name != truth}
        for color, (name, values) in zip(_MODELS, others.items()):
            ax.plot(times, values, color=color, linewidth=1.3, label=name)
        label(ax, title, "t", "speed of long waves")
    return figure


def _kernel(ax: Axes, kernel: np.ndarray, reach: float) -> AxesImage:
    ax.set(xticks=[], yticks=[])
    return ax.imshow(kernel, cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest")


def _scale(image: AxesImage, ax: Axes) -> None:
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
    bar.ax.tick_params(labelsize=7)


def _node(ax: Axes, x: float, y: float, text: str, color: str) -> None:
    circle = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": color, "linewidth": 1.4}
    ax.text(x, y, text, color=INK, fontsize=11, ha="center", va="center", bbox=circle, zorder=3)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    shrink = {"shrinkA": 12, "shrinkB": 12 if start[1] == end[1] else 3}
    ax.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.2, **shrink})
