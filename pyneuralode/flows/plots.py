"""Data for figures of a flow in the plane: its density on a grid at any time, and the trajectories of samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .continuous import ContinuousFlow

Extent = tuple[float, float, float, float]
_ROWS = 20_000


def grid_points(extent: Extent, pixels: int) -> np.ndarray:
    """Return the points (rows, columns, 2) of a grid on `extent`, with `pixels` points along its longer side.

    `extent` is (left, right, bottom, top), as in matplotlib.
    """
    left, right, bottom, top = extent
    spacing = max(right - left, top - bottom) / (pixels - 1)
    counts = [round(side / spacing) + 1 for side in (right - left, top - bottom)]
    axes = (np.linspace(left, right, counts[0]), np.linspace(bottom, top, counts[1]))
    return np.stack(np.meshgrid(*axes), axis=-1)


@torch.no_grad()
def log_density_at(flow: ContinuousFlow, points: np.ndarray, time: float | None = None) -> np.ndarray:
    """Return the log density (...,) in nats at points (..., 2), of the data or of the states at `time`."""
    rows = torch.as_tensor(points, dtype=torch.float32).reshape(-1, points.shape[-1])
    if time == flow.times[0]:
        return flow.base.log_prob(rows).reshape(points.shape[:-1]).numpy()
    if time is not None:
        arrays = flow.arrays()
        flow = ContinuousFlow(flow.field, times=(flow.times[0], time), base=flow.base, engine=flow.engine)
        flow.set_arrays(arrays)
    found = [flow.log_prob(part) for part in rows.split(_ROWS)]
    return torch.cat(found).reshape(points.shape[:-1]).numpy()


def density_frames(
    flow: ContinuousFlow,
    count: int,
    extent: Extent,
    pixels: int = 120,
    samples: int = 1500,
    seed: int = 1,
    advance: Callable[[int, str], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `count` times from base to data, with densities (count, rows, columns) and samples (count, n, 2) at each.

    ``advance(1, note)`` is called after each time.
    """
    times, grid = np.linspace(*flow.times, count), grid_points(extent, pixels)
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        paths = flow.transform(flow.base.sample((samples,)), times).numpy()
    densities = []
    for time in times:
        densities.append(np.exp(log_density_at(flow, grid, float(time))))
        if advance is not None:
            advance(1, f"t = {time:.2f}")
    return times, np.stack(densities), paths
