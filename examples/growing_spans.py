"""A hand-written fit over growing time spans; a fit to a long oscillation all at once gets stuck near its mean.

Each call of `pn.fit` starts from the parameters that the previous call left in the model, so you can run your own code
between two spans. `pn.GrowingSpan` does it all in one call.
"""

import argparse
from pathlib import Path

import numpy as np

import pyneuralode as pn

ENDS = (2.5, 5.0, 7.5, 10.0, 12.5, 15.0, 17.5, 20.0)

SEED = 1


def new_model():
    return pn.NeuralODE(pn.MLP((2, 32, 2), "tanh"), solver="Tsit5", seed=SEED)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer iterations")
    arguments.add_argument("--figure", type=Path, help="where to save a figure")
    options = arguments.parse_args()
    each = 150 if options.quick else 250

    ts = np.linspace(0, ENDS[-1], 121)
    data = pn.solve(pn.Linear(((-0.05, 3.0), (-3.0, -0.05))), np.array([2.0, 0.0]), ts, rtol=1e-9).ys

    def stage(end, iterations):
        return pn.Stage(pn.Adam(0.01), iterations, end=end)

    at_once = new_model()
    once = pn.fit(at_once, ts, data, y0=data[0], plan=stage(ENDS[-1], each * len(ENDS)), reduction="mean")
    print(f"the data itself: mean square {np.square(data).mean():.2e}")
    print(f"all at once: mean square {once.loss:.2e}")

    growing = new_model()
    for end in ENDS:
        result = pn.fit(growing, ts, data, y0=data[0], plan=stage(end, each), reduction="mean")
        print(f"t up to {end:g}: mean square {result.loss:.2e}")
    print(f"after the same number of iterations, growing spans are better by a factor of {once.loss / result.loss:.1f}")

    if options.figure:
        from pyneuralode.plotting.fits import fitted_columns

        curve = growing.solve(data[0], ts).ys
        fitted_columns(ts, data, ts, curve, ["position", "velocity"], "time").savefig(options.figure)


if __name__ == "__main__":
    main()
