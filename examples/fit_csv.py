"""Fit a neural ODE to a table: read it, scale it, fit it over growing spans, and save the model.

If you do not pass a file, the script generates a noisy table of hares and lynxes.
The command line does the same with any table: `pyneuralode fit DATA.csv --out fit`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pyneuralode as pn

NOISE = 0.2


def make_table(path):
    """Write a table of hares and lynxes over twenty years (Lotka and Volterra's model), with noise and gaps."""

    def hares_and_lynxes(t, y):
        hares, lynxes = y
        return torch.stack([1.1 * hares - 0.4 * hares * lynxes, 0.1 * hares * lynxes - 0.4 * lynxes])

    years = np.linspace(0, 20, 81)
    truth = pn.solve(hares_and_lynxes, np.array([10.0, 5.0]), years, rtol=1e-8).ys
    values = truth + NOISE * np.random.default_rng(0).normal(size=truth.shape)
    values[5::10, 0] = np.nan
    pd.DataFrame({"year": years, "hares": values[:, 0], "lynxes": values[:, 1]}).to_csv(path, index=False)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("table", nargs="?", type=Path, help="CSV: a column of times, then columns of values")
    arguments.add_argument("--quick", action="store_true", help="fewer iterations")
    arguments.add_argument("--figure", type=Path, help="where to save a figure")
    options = arguments.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = options.table or Path(folder) / "hares.csv"
        if options.table is None:
            make_table(path)
        table = pd.read_csv(path)
        names = list(table.columns[1:])
        ts, values = np.array(table.iloc[:, 0], float), np.array(table.iloc[:, 1:], float)

        # A network trains best on values of order 1, so its output is scaled by the typical time derivative.
        mean, size = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        z = (values - mean) / size
        slope = np.nanstd(np.diff(z, axis=0) / np.diff(ts)[:, None])
        net = pn.MLP((len(names), 32, 32, len(names)), "tanh", output_scale=slope, init_bias=1.0)
        model = pn.NeuralODE(net, solver="Tsit5")

        iterations, finish = (150, 60) if options.quick else (300, 300)
        plan = pn.GrowingSpan(
            [np.quantile(ts, part) for part in (0.25, 0.5, 0.75, 1.0)],
            pn.Adam(0.01, schedule="cosine"),
            iterations,
            finish=[pn.Stage(pn.LBFGS(), finish)],
        )
        result = pn.fit(model, ts, z, y0=z[0], plan=plan, mask="nan", reduction="mean", progress=True)
        model.save(Path(folder) / "model.safetensors")
        again = pn.load(Path(folder) / "model.safetensors")

    fitted = mean + size * again.solve(z[0], ts).ys
    print(f"{result.message}: {result.evaluations} evaluations in {result.seconds:.1f} s")
    for name, error in zip(names, np.sqrt(np.nanmean((fitted - values) ** 2, axis=0))):
        print(f"{name}: root mean square error {error:.3f}")

    if options.figure:
        from pyneuralode.plotting.fits import fitted_columns

        fitted_columns(ts, values, ts, fitted, names, table.columns[0]).savefig(options.figure)


if __name__ == "__main__":
    main()
