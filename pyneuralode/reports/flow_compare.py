"""Report `flow-compare`: continuous flows of width M and planar flows of depth M, compared on given densities.

Both minimize the reverse divergence KL(q || p) from a density known up to a constant, using their own samples. The
constant is computed by quadrature, so the divergence itself is known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..fields import HyperMLP
from ..fitting import Adam
from ..fitting.schedules import OneCycle
from ..flows import ContinuousFlow
from ..flows.initialization import spread_units
from ..flows.planar import PlanarFlow
from ..flows.plots import grid_points
from ..plotting.flows import density_panels, divergences
from .base import Context, Findings, Row, Table
from .parallel import Job, completed

EXTENT = (-5.0, 5.0, -5.0, 5.0)
SIZES = (2, 8, 32)
KINDS = {"cnf": "continuous, width M", "planar": "planar, depth M"}


def two_moons(z: Tensor) -> Tensor:
    """Return the log density (n,), up to a constant, of two arcs of a ring."""
    ring = -0.5 * ((z.norm(dim=-1) - 2) / 0.4) ** 2
    return ring + torch.logaddexp(-0.5 * ((z[:, 0] - 2) / 0.6) ** 2, -0.5 * ((z[:, 0] + 2) / 0.6) ** 2)


def wave(z: Tensor) -> Tensor:
    """Return the log density (n,), up to a constant, of a band along a sine curve; soft edges limit it to |z_1| < 4."""
    return -0.5 * ((z[:, 1] - _sine(z)) / 0.4) ** 2 + _confined(z)


def split_wave(z: Tensor) -> Tensor:
    """Return the log density (n,), up to a constant, of a wave with a second arm around z_1 = 1."""
    arm = 3 * torch.exp(-0.5 * ((z[:, 0] - 1) / 0.6) ** 2)
    first = z[:, 1] - _sine(z)
    return torch.logaddexp(-0.5 * (first / 0.35) ** 2, -0.5 * ((first + arm) / 0.35) ** 2) + _confined(z)


def forked_wave(z: Tensor) -> Tensor:
    """Return the log density (n,), up to a constant, of a wave that forks at z_1 = 1."""
    arm = 3 * torch.sigmoid((z[:, 0] - 1) / 0.3)
    first = z[:, 1] - _sine(z)
    return torch.logaddexp(-0.5 * (first / 0.4) ** 2, -0.5 * ((first + arm) / 0.35) ** 2) + _confined(z)


def _sine(z: Tensor) -> Tensor:
    return torch.sin(0.5 * math.pi * z[:, 0])


def _confined(z: Tensor) -> Tensor:
    return -0.5 * (torch.relu(z[:, 0].abs() - 4) / 0.2) ** 2


DENSITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "two moons": two_moons,
    "wave": wave,
    "split wave": split_wave,
    "forked wave": forked_wave,
}


@dataclass(frozen=True)
class MeasuredFlow:
    """Results of a trained flow: KL(q || p) with its standard error, seconds and updates, log densities on the grid."""

    divergence: float
    error: float
    seconds: float
    updates: int
    log_density: np.ndarray


Flows = dict[tuple[str, int, str], MeasuredFlow]  # by density, size and kind


def run(context: Context) -> Findings:
    """Compute the report.

    Quick scale: two densities, M = 2 and 8, 150 updates. Full scale: four densities, M = 2, 8 and 32, 6,000 updates.
    Planar flows get twice as many updates.
    """
    names = list(DENSITIES)[: 2 if context.quick else None]
    sizes = SIZES[: 2 if context.quick else None]
    updates = 150 if context.quick else 6000
    # At M = 32, two updates of a planar flow take about as long as one update of a continuous flow.
    many = {"cnf": updates, "planar": 2 * updates}
    pixels = 60 if context.quick else 120
    # A flow of either kind may permanently miss a part of the density, so the best of three seeds is used.
    seeds = context.seeds(1, 3)

    def job(flow: tuple[str, int, str], seed: int) -> Job:
        name, size, kind = flow
        words = f"{name}, {KINDS[kind].replace('M', str(size))}, seed {seed}"
        return Job(words, compare, (name, kind, size, many[kind], seed, context.engine, pixels), many[kind])

    flows = [(name, size, kind) for size in reversed(sizes) for kind in KINDS for name in names]
    trained = context.run_seeds(flows, seeds, job)
    found: Flows = {flow: min(runs, key=lambda run: run.divergence) for flow, runs in trained.items()}
    panels = {n: {KINDS[kind]: [found[n, m, kind].divergence for m in sizes] for kind in KINDS} for n in names}
    return Findings(
        rows=_rows(found, names, sizes),
        tables=[_table(trained, names, sizes, seeds)],
        figures={
            "densities": density_panels(_panels(found, names, sizes, pixels), EXTENT, 1 + 2 * len(sizes)),
            "divergences": divergences(sizes, panels),
        },
        captions={
            "densities": "The given density, and the densities of the continuous and planar flows; the numbers are "
            "KL(q || p) in nats.",
            "divergences": "Divergence from each given density against the size of the flow.",
        },
        notes=[
            "Both kinds start from a standard normal and minimize E_q[log q - log p] over batches of 512 of their own "
            "samples by Adam with the same schedule (one cycle of the learning rate, up to 0.01 for continuous flows "
            "and 0.02 for planar flows). The continuous flow is a hypernetwork of width M with 32 hidden units, solved "
            f"by Tsit5 at tolerance 1e-3 in training and 1e-5 for the results. Continuous flows get {many['cnf']:,} "
            f"updates, and planar flows, whose updates take less time, {many['planar']:,}: at M = 32, the total times, "
            f"which the table lists, are about the same. Each flow is trained with {len(seeds)} "
            f"seed{'s' * (len(seeds) > 1)}, and the best result is used.",
            "The densities are those of Rezende and Mohamed (2015), Fig. 3; the last three are confined to |z1| < 4 "
            "with soft edges, since their integrals would not be finite otherwise. Their constants are computed by "
            "quadrature, and the divergence is estimated from 50,000 samples.",
            "The reverse divergence hardly penalizes a missing part of the density: for a flow that misses one of k "
            "equal parts and is otherwise exact, it is only log(k/(k-1)).",
        ],
    )


def log_constant(log_density: Callable[[Tensor], Tensor], half: float = 8.0, count: int = 1600) -> float:
    """Return the logarithm of the integral of exp(log_density), by the midpoint rule on [-half, half]^2."""
    step = 2 * half / count
    axis = -half + step * (torch.arange(count, dtype=torch.float64) + 0.5)
    lines = [torch.logsumexp(log_density(torch.cartesian_prod(x[None], axis)), 0) for x in axis]
    return float(torch.logsumexp(torch.stack(lines), 0)) + 2 * math.log(step)


def compare(
    name: str, kind: str, size: int, updates: int, seed: int, engine: str, pixels: int, advance, samples: int = 50_000
) -> MeasuredFlow:
    """Train one flow ("cnf" or "planar") of the given size on the named density, and measure it."""
    log_density = DENSITIES[name]
    if kind == "cnf":
        field = HyperMLP(2, size, 32, output_scale=8.0)
        rate = 0.01
        flow = ContinuousFlow(field, solver="Tsit5", rtol=1e-3, atol=1e-3, engine=engine)
        flow.set_arrays(spread_units(field, seed))
    else:
        rate = 0.02
        flow = PlanarFlow(2, size, seed=seed)
    fit = flow.fit(
        log_density=log_density,
        updates=updates,
        optimizer=Adam(rate, betas=(0.9, 0.99), clip=10.0),
        schedule=OneCycle(rate, updates),
        seed=seed,
        callback=lambda update, loss: advance(1, f"loss {loss:.3f}"),
    )
    completed(fit)
    if kind == "cnf":
        parameters = flow.arrays()
        flow = ContinuousFlow(field, engine=engine)
        flow.set_arrays(parameters)
    with torch.no_grad():
        parts = [flow.sample_and_log_prob(5_000, seed=10_000 + k) for k in range(samples // 5_000)]
        differences = torch.cat([log_q - log_density(x) for x, log_q in parts]).double() + log_constant(log_density)
        drawn = flow.log_prob(_grid(pixels)).reshape(pixels, pixels).numpy()
    error = float(differences.std()) / math.sqrt(len(differences))
    return MeasuredFlow(float(differences.mean()), error, fit.seconds, updates, drawn)


def _grid(pixels: int) -> Tensor:
    return torch.as_tensor(grid_points(EXTENT, pixels), dtype=torch.float32).reshape(-1, 2)


def _rows(found: Flows, names: list[str], sizes: tuple[int, ...]) -> list[Row]:
    rows = []
    for name in names:
        for size in sizes:
            cnf, planar = (found[name, size, kind].divergence for kind in KINDS)
            target = planar if size == SIZES[-1] else None
            words = f"{name}, M = {size}: KL of the continuous flow, next to the planar flow's"
            rows.append(Row(words, cnf, planar, "nats", source="our planar flow", target=target))
    return rows


def _table(
    trained: dict[tuple[str, int, str], list[MeasuredFlow]], names: list[str], sizes: tuple[int, ...], seeds: list[int]
) -> Table:
    rows = [
        [name, size, KINDS[kind], seed, one.divergence, one.error, one.updates, round(one.seconds, 1)]
        for name, size, kind in itertools.product(names, sizes, KINDS)
        for seed, one in zip(seeds, trained[name, size, kind])
    ]
    columns = ["density", "M", "flow", "seed", "KL(q || p), nats", "standard error", "updates", "seconds"]
    return Table("Divergence from the given density, every run", columns, rows)


def _panels(found: Flows, names: list[str], sizes: tuple[int, ...], pixels: int) -> list[tuple[str, np.ndarray]]:
    panels = []
    for name in names:
        truth = DENSITIES[name](_grid(pixels)).double() - log_constant(DENSITIES[name])
        panels.append((name, truth.exp().reshape(pixels, pixels).numpy()))
        for kind, words in (("cnf", "CNF, width"), ("planar", "planar, depth")):
            for size in sizes:
                one = found[name, size, kind]
                panels.append((f"{words} {size}\n{one.divergence:.3f}", np.exp(one.log_density)))
    return panels
