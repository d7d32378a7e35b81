"""Julia's stiff solvers for your own Python function, and for a differential-algebraic equation.

Robertson's chemical reactions run from microseconds to 1e11 seconds; explicit methods cannot follow them. The
right-hand side is a Python function here, so every evaluation is a call from Julia to Python. This is slow; use it only
for equations that cannot be described as a field. It needs Julia and `pyneuralode setup-julia --with-diffeqpy`.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import pyneuralode as pn

START = np.array([1.0, 0.0, 0.0])
# The solution at 1e11 s, from the test set for IVP solvers.
END = np.array([0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050])


def reactions(t, y):
    slow, back, fast = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return np.array([back - slow, slow - back - fast, fast])


def with_conservation(t, y):
    """The same reactions, with the last equation replaced by a constraint: the three amounts always add up to 1."""
    return np.append(reactions(t, y)[:2], y.sum() - 1)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer times")
    arguments.add_argument("--figure", type=Path, help="where to save a figure")
    options = arguments.parse_args()

    ts = np.concatenate([[0.0], np.logspace(-6, 11, 18 if options.quick else 171)])
    settings = {"solver": "Rodas5P", "rtol": 1e-8, "atol": 1e-14}
    problems = {
        "ODE": lambda: pn.solve(reactions, START, ts, engine="julia", **settings),
        "DAE": lambda: pn.solve_dae(with_conservation, START, ts, mass_matrix=np.diag([1, 1, 0]), **settings),
    }
    for name, solve in problems.items():
        solve()  # Julia compiles during the first solve
        began = time.perf_counter()
        solution = solve()
        each = (time.perf_counter() - began) / solution.nfev
        error = np.abs(solution.ys[-1] / END - 1).max()
        print(f"{name}: {solution.nfev} evaluations of {1e6 * each:.1f} us each, relative error at the end {error:.1e}")

    if options.figure:
        from pyneuralode.plotting.style import COLORS, label, new_figure

        figure, axes = new_figure()
        for amount, color, name in zip((solution.ys * [1, 1e4, 1]).T, COLORS, ("A", "10000 B", "C")):
            axes[0, 0].semilogx(ts[1:], amount[1:], color=color, label=name)
        label(axes[0, 0], "", "time (s)", "amount")
        figure.savefig(options.figure)


if __name__ == "__main__":
    main()
