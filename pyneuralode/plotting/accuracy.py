"""Figures of a classifier's training: accuracy by epoch, and the images that it misclassifies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .style import COLORS, INK, label, new_figure


def accuracy_curves(panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], y: str = "test accuracy") -> Figure:
    """Draw accuracies (0 to 1) against the epoch, by panel and by name, given a curve for each seed.

    A line shows the mean over the seeds, and a band shows their range.
    """
    figure, axes = new_figure(columns=len(panels), width=5.2 if len(panels) > 1 else 6.4)
    for ax, (title, runs) in zip(axes[0], panels.items()):
        for color, (name, curves) in zip(COLORS * len(runs), runs.items()):
            epochs = min(map(len, curves), default=0)
            if not epochs:
                continue
            values, x = np.array([curve[:epochs] for curve in curves]), np.arange(1, epochs + 1)
            marker = "o" if epochs < 4 else None
            ax.plot(x, values.mean(axis=0), color=color, linewidth=1.4, marker=marker, markersize=4, label=name)
            if len(values) > 1:
                ax.fill_between(x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        label(ax, title, "epoch", y)
    return figure


def image_table(images: np.ndarray, captions: Sequence[str], title: str = "", columns: int = 8) -> Figure:
    """Draw images uint8 (n, channels, height, width), with one or three channels, each with a caption above it."""
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(1.15 * columns, 1.3 * rows + 0.4), layout="constrained")
    figure.suptitle(title, color=INK, fontsize=11, x=0.01, ha="left")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    for ax, image, caption in zip(axes, images, captions):
        if len(image) == 1:
            ax.imshow(image[0], cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        else:
            ax.imshow(np.moveaxis(image, 0, -1), interpolation="nearest")
        ax.set_title(caption, color=INK, fontsize=8)
    return figure
