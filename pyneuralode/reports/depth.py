"""Report `depth`: the layers of a residual network as Euler steps of an ODE, and their distance from its solution."""

from __future__ import annotations

import numpy as np
import torch

from ..models import solve
from ..plotting.trajectories import depth_errors, residual_and_ode
from .base import Context, Findings, Row, Table

SPAN = 5.0
STARTS = np.linspace(-4.5, 4.5, 11)
SHALLOW, DEEP = 5, 50
DEPTHS = (5, 10, 20, 50, 100, 200, 500, 1000)


def field(t, y):
    """Return dy/dt = cos t - sin(1.3 y + t) for torch tensors; its derivative with respect to y is at least -1.3."""
    return torch.cos(t) - torch.sin(1.3 * y + t)


def run(context: Context) -> Findings:
    """Compute the report, which takes a second; both scales are the same."""
    ends = ode(np.array([0.0, SPAN]))[-1]
    layers = {depth: residual_network(depth) for depth in DEPTHS}
    distances = {depth: float(np.sqrt(np.mean((states[-1] - ends) ** 2))) for depth, states in layers.items()}
    times = np.linspace(0, SPAN, 401)
    paths = ode(times)
    slope = order(distances, 100, 1000)
    return Findings(
        rows=[
            Row(f"distance of {SHALLOW} layers from the ODE at the end", distances[SHALLOW]),
            Row(f"distance of {DEEP} layers from the ODE at the end", distances[DEEP]),
            Row("order of the distance in 1 / depth, 100 to 1,000 layers", slope, better="match"),
            Row(f"pairs of neighbors that change places, {SHALLOW} layers", swaps(layers[SHALLOW])),
            Row(f"pairs of neighbors that change places, {DEEP} layers", swaps(layers[DEEP])),
            Row("pairs of neighbors that change places, ODE", swaps(paths)),
        ],
        figures={
            "trajectories": residual_and_ode(
                [(np.linspace(0, SPAN, depth + 1), layers[depth]) for depth in (SHALLOW, DEEP)], (times, paths), _slopes
            ),
            "distance": depth_errors(distances),
        },
        tables=[
            Table(
                "Residual networks compared with the ODE",
                ["layers", "distance at the end", "pairs that change places"],
                [[depth, distances[depth], swaps(states)] for depth, states in layers.items()],
                note="Distance is the root mean square over the initial states, in units of the state.",
            )
        ],
        captions={
            "trajectories": "States against depth, from the same initial states. Arrows show the field's direction, at "
            "the layers of the five-layer network and everywhere in the other panels (R Fig. 1).",
            "distance": "The residual network converges to the ODE as 1 / depth: Euler's method has order 1.",
        },
        notes=[
            "The source shows a picture without numbers. The field here is fixed, dy/dt = cos t - sin(1.3 y + t), "
            "and a residual network of n layers applies y + (5 / n) f(t, y) n times. The ODE is solved by Tsit5 at "
            "tolerance 1e-10.",
            "Trajectories of an ODE never cross. Those of a residual network may, if its step (1 for five layers) "
            "times df/dy is below -1: five layers change the order of neighbors, fifty do not.",
        ],
    )


def residual_network(depth: int) -> np.ndarray:
    """Return the states (depth + 1, starts) of a residual network at its input and after every layer."""
    return solve(field, STARTS, np.linspace(0, SPAN, depth + 1), solver="Euler").ys


def ode(ts: np.ndarray) -> np.ndarray:
    """Return the states (T, starts) of the ODE at the times (T,)."""
    return solve(field, STARTS, ts, rtol=1e-10, atol=1e-10).ys


def swaps(states: np.ndarray) -> int:
    """Return the number of neighboring pairs among states (T, starts) whose order changes at some time."""
    return int((np.diff(states, axis=1) < 0).any(axis=0).sum())


def order(distances: dict[int, float], low: int, high: int) -> float:
    """Return p in distance ~ depth^-p, by a least-squares fit to the logarithms, for depths from `low` to `high`."""
    depths = [depth for depth in distances if low <= depth <= high]
    return -float(np.polyfit(np.log(depths), np.log([distances[depth] for depth in depths]), 1)[0])


def _slopes(ts: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Return the field's slopes (T, Y) at every time and state."""
    return field(torch.as_tensor(ts)[:, None], torch.as_tensor(ys)).numpy()
