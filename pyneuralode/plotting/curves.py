"""Loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import COLORS, label, new_figure


def loss_curve(runs: Mapping[str, Sequence[float]], title: str = "Loss", y: str = "sum of squares") -> Figure:
    """Draw the loss of each run (name -> loss of every iteration) against the iteration."""
    figure, axes = new_figure()
    for color, (name, losses) in zip(COLORS * len(runs), runs.items()):
        axes[0, 0].semilogy(np.arange(1, len(losses) + 1), losses, color=color, linewidth=1.2, label=name)
    label(axes[0, 0], title, "iteration", y)
    return figure
