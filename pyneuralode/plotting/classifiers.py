"""Figures of classifiers: loss and evaluations during training, error against size, memory against depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import COLORS, INK, MARKERS, draw_marked, label, new_figure, running_means


def training_losses(runs: Mapping[str, Sequence[float]], images: Mapping[str, int], window: int = 50) -> Figure:
    """Draw each run's cross-entropy, averaged over `window` updates, against the images seen (`images` per update)."""
    figure, axes = new_figure()
    for color, (name, losses) in zip(COLORS * len(runs), runs.items()):
        updates, means = _smoothed(losses, window)
        axes[0, 0].semilogy(updates * images[name], means, color=color, linewidth=1.3, label=name)
    label(axes[0, 0], "Training loss", "images seen", "cross-entropy")
    return figure


def evaluations_while_training(
    runs: Mapping[str, Sequence[float]], images: Mapping[str, int], window: int = 20
) -> Figure:
    """Draw evaluations per forward pass, averaged over `window` updates, against images seen (`images` per update)."""
    figure, axes = new_figure()
    styles = ("-", "--", ":", "-.")  # curves of runs with fixed steps coincide
    for color, style, (name, counts) in zip(COLORS * len(runs), styles * len(runs), runs.items()):
        updates, means = _smoothed(counts, window)
        axes[0, 0].plot(updates * images[name], means, color=color, linestyle=style, linewidth=1.8, label=name)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].margins(y=0.15)
    label(axes[0, 0], "Evaluations of the dynamics per forward pass", "images seen", "evaluations")
    return figure


def memory_against_depth(
    depths: Sequence[int], peaks: Mapping[str, Sequence[float]], title: str = "Memory of one gradient"
) -> Figure:
    """Draw the peak memory (bytes) of a gradient of each network against its depth (steps or residual blocks)."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    draw_marked(ax.plot, depths, {name: np.asarray(peak) / 1e6 for name, peak in peaks.items()}, markersize=5)
    ax.set(xlim=(0, None), ylim=(0, None), xticks=depths)
    label(ax, title, "steps, or residual blocks", "peak memory, MB")
    return figure


def error_against_parameters(
    ours: Mapping[str, tuple[int, float]], theirs: Mapping[str, tuple[float, float]]
) -> Figure:
    """Draw test errors (%) against parameter counts: name -> (count, error); open markers show published results."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    point, published = {"markersize": 8, "linestyle": "none"}, {"markerfacecolor": "none", "clip_on": False}
    for color, marker, (name, (count, error)) in zip(COLORS, MARKERS, ours.items()):
        ax.plot(count / 1e6, error, marker, color=color, label=name, alpha=0.8, **point)
    for marker, (name, (count, error)) in zip(MARKERS, theirs.items()):
        ax.plot(count / 1e6, error, marker, color=INK, label=name, **point, **published)
    ax.set(xlim=(0, None), ylim=(0, None))
    label(ax, "Test error against size", "million parameters", "test images misclassified, %")
    return figure


def _smoothed(values: Sequence[float], window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return update numbers and running means over `window` values, or over fewer values if the series is short."""
    return running_means(values, max(1, min(window, len(values) // 4)))
