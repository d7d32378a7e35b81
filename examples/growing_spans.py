"""Growing spans by hand: a fit of a long oscillation at once ends in its mean, one that grows does not.

The data is a damped oscillation. Each call of `pn.fit` goes on from the parameters that the one before left in
the model, so what happens between two spans is yours to write; `pn.GrowingSpan` does it in one call.
"""

import argparse
from pathlib import Path

import numpy as np

import pyneuralode as pn

ENDS = (2.5, 5.0, 7.5, 10.0)


def new_model():
    return pn.NeuralODE(pn.MLP((2, 32, 2), "tanh", output_scale=3.0, init_bias=1.0), solver="Tsit5", seed=1)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer iterations")
    arguments.add_argument("--figure", type=Path, help="where to save a figure")
    options = arguments.parse_args()
    each = 100 if options.quick else 400

    ts = np.linspace(0, ENDS[-1], 101)
    data = pn.solve(pn.Linear(((-0.1, 3.0), (-3.0, -0.1))), np.array([2.0, 0.0]), ts, rtol=1e-9).ys

    def stage(end, iterations):
        return pn.Stage(pn.Adam(0.02, schedule="cosine"), iterations, end=end)

    at_once = new_model()
    once = pn.fit(at_once, ts, data, y0=data[0], plan=stage(ENDS[-1], each * len(ENDS)), reduction="mean")
    print(f"all at once: mean square {once.loss:.2e}")

    growing = new_model()
    for end in ENDS:
        result = pn.fit(growing, ts, data, y0=data[0], plan=stage(end, each), reduction="mean")
        print(f"t up to {end:g}: mean square {result.loss:.2e}")
    print(f"growing is better by a factor of {once.loss / result.loss:.0f} after as many iterations")

    if options.figure:
        from pyneuralode.plotting.fits import fitted_columns

        curve = growing.solve(data[0], ts).ys
        fitted_columns(ts, data, ts, curve, ["position", "velocity"], "time").savefig(options.figure)


if __name__ == "__main__":
    main()
