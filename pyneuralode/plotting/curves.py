"""Loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import COLOURS, label, new_figure


def loss_curve(runs: Mapping[str, Sequence[float]], title: str = "Loss", y: str = "sum of squares") -> Figure:
    """Draw the loss of each run (name -> loss of every iteration) against the iteration."""
    figure, axes = new_figure()
    for colour, (name, losses) in zip(COLOURS * len(runs), runs.items()):
        axes[0, 0].semilogy(np.arange(1, len(losses) + 1), losses, color=colour, linewidth=1.2, label=name)
    label(axes[0, 0], title, "iteration", y)
    return figure


def stage_losses(stages: Sequence, title: str = "Loss, stage by stage") -> Figure:
    """Draw a small panel for each `StageResult` of a fit with growing spans."""
    columns = min(3, len(stages))
    rows = -(-len(stages) // columns)
    figure, axes = new_figure(columns, rows, width=3.4, height=2.5)
    for ax, stage, colour in zip(axes.flat, stages, COLOURS * len(stages)):
        ax.semilogy(np.arange(1, len(stage.losses) + 1), stage.losses, color=colour, linewidth=1.0)
        end = "all data" if stage.end is None else f"days 0 to {stage.end:g}"
        label(ax, f"{end}: {stage.best_loss:.2e}", "iteration", "sum of squares")
    for ax in list(axes.flat)[len(stages):]:
        ax.set_visible(False)
    figure.suptitle(title, fontsize=12)
    return figure
