"""A normalizing flow for the two-moons density: fit it to points, draw samples, and evaluate its density."""

import argparse
from pathlib import Path

import numpy as np

import pyneuralode as pn
from pyneuralode.datasets import moons
from pyneuralode.fitting.schedules import OneCycle
from pyneuralode.flows.initialization import spread_units

SEED = 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer updates")
    arguments.add_argument("--figure", type=Path, help="where to save a figure")
    options = arguments.parse_args()
    updates = 150 if options.quick else 1000

    density = moons()
    points, unseen = density.sample(5000, rng=1), density.sample(5000, rng=2)

    field = pn.HyperMLP(dim=2, width=32, hidden=16, output_scale=8.0)
    flow = pn.ContinuousFlow(field)
    flow.set_arrays(spread_units(field, SEED))
    flow.fit(points, updates=updates, batch=256, schedule=OneCycle(0.01, updates), seed=SEED)

    loss = -flow.log_prob(unseen).mean().item()
    print(f"loss on unseen points: {loss:.3f} nats")
    print(f"loss of the true density: {-density.log_density(unseen).mean():.3f} nats")

    samples = flow.sample(5000, seed=3).numpy()
    there = flow.inverse(samples).detach().numpy()
    back = flow.transform(there).detach().numpy()
    print(f"error after mapping to the base and back: {np.abs(back - samples).max():.1e}")

    if options.figure:
        from pyneuralode.flows.plots import grid_points, log_density_at
        from pyneuralode.plotting.flows import fitted_density

        logs = log_density_at(flow, grid_points(density.extent, 150))
        fitted_density(points, logs, samples, density.extent).savefig(options.figure)


if __name__ == "__main__":
    main()
