"""Figures of image models: grids of images, and curves of bits per dim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import COLORS, INK, label, new_figure, running_means


def image_grid(groups: Mapping[str, np.ndarray], columns: int = 8) -> Figure:
    """Draw groups of gray images side by side: name -> (n, height, width) or (n, 1, ...), from 0 to 255."""
    rows = max(math.ceil(len(images) / columns) for images in groups.values())
    side = 0.45
    figure = Figure(figsize=(len(groups) * (columns + 0.5) * side, rows * side + 0.5), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for ax, (name, images) in zip(axes, groups.items()):
        ax.imshow(_tiled(np.asarray(images), rows, columns), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        ax.set_title(name, color=INK, fontsize=10, loc="left")
        ax.set_axis_off()
    return figure


def bits_curve(
    runs: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    title: str = "Bits per dim during training",
    window: int = 20,
) -> Figure:
    """Draw each run's bits per dim, averaged over `window` updates, and reference levels as lines."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    top = []
    for color, (name, bits) in zip(COLORS * len(runs), runs.items()):
        updates, means = running_means(bits, min(window, len(bits)))
        ax.plot(updates, means, color=color, linewidth=1.3, label=name)
        top.append(np.nanpercentile(means, 90))
    for style, (name, level) in zip(("--", ":", "-.") * len(levels), levels.items()):
        ax.axhline(level, color=INK, linewidth=1.0, linestyle=style, label=name)
    ax.set_ylim(top=1.1 * max([*top, *levels.values()]))
    label(ax, title, "update", "bits per dim")
    return figure


def _tiled(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return one picture of images (n, ..., height, width) arranged row by row, with white lines between them."""
    height, width = images.shape[-2:]
    picture = np.zeros((rows * (height + 1), columns * (width + 1)))
    for place, image in enumerate(images.reshape(-1, height, width)[: rows * columns]):
        row, column = divmod(place, columns)
        picture[row * (height + 1) :, column * (width + 1) :][:height, :width] = image
    return picture
