"""Figures of classifiers: loss and evaluations during training, error against size, memory against depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .gradients import MARKERS
from .style import COLORS, INK, label, new_figure


def training_losses(runs: Mapping[str, Sequence[float]], images: Mapping[str, int], window: int = 50) -> Figure:
    """Draw each run's cross-entropy, averaged over `window` updates of `images` each, against the images seen."""
    figure, axes = new_figure()
    for color, (name, losses) in zip(COLORS * len(runs), runs.items()):
        means = _means(losses, window)
        updates = np.arange(len(losses) - len(means) + 1, len(losses) + 1)
        axes[0, 0].semilogy(updates * images[name], means, color=color, linewidth=1.3, label=name)
    label(axes[0, 0], "Loss while training", "images seen", "cross-entropy")
    return figure


def evaluations_while_training(
    runs: Mapping[str, Sequence[float]], images: Mapping[str, int], window: int = 20
) -> Figure:
    """Draw the evaluations of a forward pass, averaged over `window` updates of `images` each, against the images seen."""
    figure, axes = new_figure()
    styles = ("-", "--", ":", "-.")  # runs with fixed steps coincide
    for color, style, (name, counts) in zip(COLORS * len(runs), styles * len(runs), runs.items()):
        means = _means(counts, window)
        updates = np.arange(len(counts) - len(means) + 1, len(counts) + 1)
        axes[0, 0].plot(updates * images[name], means, color=color, linestyle=style, linewidth=1.8, label=name)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].margins(y=0.15)
    label(axes[0, 0], "Evaluations of the dynamics in a forward pass", "images seen", "evaluations")
    return figure


def memory_against_depth(
    depths: Sequence[int], peaks: Mapping[str, Sequence[float]], title: str = "Memory of one gradient"
) -> Figure:
    """Draw the peak memory (bytes) of a gradient by each network against its depth: steps, or residual blocks."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    for color, marker, (name, values) in zip(COLORS, MARKERS, peaks.items()):
        ax.plot(depths, np.asarray(values) / 1e6, marker=marker, color=color, markersize=5, label=name)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xticks(depths)
    label(ax, title, "steps, or residual blocks", "peak memory, MB")
    return figure


def error_against_parameters(
    ours: Mapping[str, tuple[int, float]], theirs: Mapping[str, tuple[float, float]]
) -> Figure:
    """Draw test errors (%) against parameter counts: name -> (count, error); open markers are published."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    for color, marker, (name, (count, error)) in zip(COLORS, MARKERS, ours.items()):
        ax.plot(count / 1e6, error, marker, color=color, markersize=8, linestyle="none", alpha=0.8, label=name)
    for marker, (name, (count, error)) in zip(MARKERS, theirs.items()):
        ax.plot(
            count / 1e6,
            error,
            marker,
            color=INK,
            markersize=8,
            markerfacecolor="none",
            clip_on=False,
            linestyle="none",
            label=name,
        )
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    label(ax, "Test error and size", "million parameters", "test images misclassified, %")
    return figure


def _means(values: Sequence[float], window: int) -> np.ndarray:
    """Return running means over `window` values, or over fewer where the series is short."""
    width = max(1, min(window, len(values) // 4))
    return np.convolve(np.asarray(values, dtype=float), np.full(width, 1 / width), mode="valid")
