"""Your own model as formulas: solved, fitted to data, saved.

Noisy data are made from a known model of hares and lynxes. The fit then recovers the parameters from wrong initial
values. The formulas are text, so they are saved with the model, and every engine evaluates them without calling Python.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import pyneuralode as pn

EQUATIONS = {"hares": "growth*hares - eaten", "lynxes": "gain*eaten - death*lynxes"}
TERMS = {"eaten": "hunting*hares*lynxes"}
TRUTH = {"growth": 1.1, "hunting": 0.4, "gain": 0.25, "death": 0.4}
START = {"growth": 0.8, "hunting": 0.3, "gain": 0.4, "death": 0.6}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer iterations")
    arguments.add_argument("--figure", type=Path, help="where to save a figure")
    options = arguments.parse_args()

    years, y0 = np.linspace(0, 15, 61), np.array([10.0, 5.0])
    truth = pn.solve(pn.Equations(EQUATIONS, TRUTH, TERMS), y0, years).ys
    data = truth + 0.2 * np.random.default_rng(0).normal(size=truth.shape)

    model = pn.NeuralODE(pn.Equations(EQUATIONS, START, TERMS))
    plan = pn.GrowingSpan([4, 8, 15], pn.LBFGS(), 15 if options.quick else 40)
    result = pn.fit(model, years, data, y0=y0, plan=plan, bounds=dict.fromkeys(START, (0, None)))
    for name, value in TRUTH.items():
        print(f"{name}: true value {value}, fitted {float(result.parameters[name]):.3f}")

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "hares.safetensors")
        again = pn.load(Path(folder) / "hares.safetensors")
    fitted = again(y0, years)
    print(f"root mean square error {np.sqrt(np.mean((fitted - data) ** 2)):.3f}")

    if options.figure:
        from pyneuralode.plotting.fits import fitted_columns

        fitted_columns(years, data, years, fitted, again.field.components, "year").savefig(options.figure)


if __name__ == "__main__":
    main()
