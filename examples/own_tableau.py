"""Your own Runge-Kutta method: write down its coefficients and measure its order.

Ralston's methods of order two and three solve an oscillation with a known solution: halving the step divides the error
by 2**order. With weights for an error estimate, a method can also choose its own steps.
"""

import argparse
from pathlib import Path

import numpy as np

import pyneuralode as pn

RALSTON_2 = pn.Tableau("Ralston2", 2, A=[[0, 0], [2 / 3, 0]], b=[1 / 4, 3 / 4], source="Ralston 1962")
RALSTON_3 = pn.Tableau(
    "Ralston3",
    3,
    A=[[0, 0, 0], [1 / 2, 0, 0], [0, 3 / 4, 0]],
    b=[2 / 9, 1 / 3, 4 / 9],
    error=[2 / 9, 1 / 3 - 1, 4 / 9],  # difference from the second-order midpoint rule of the first two stages
    source="Ralston 1962",
)


def error_at_end(**settings):
    """Return the error after one period of dx/dt = v, dv/dt = -x, whose solution is (cos t, -sin t)."""
    turn = np.array([0.0, 2 * np.pi])
    solution = pn.solve(pn.Linear(((0.0, 1.0), (-1.0, 0.0))), np.array([1.0, 0.0]), turn, **settings)
    return np.abs(solution.ys[-1] - [1.0, 0.0]).max(), solution


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer step sizes")
    arguments.add_argument("--figure", type=Path, help="where to save a figure")
    options = arguments.parse_args()

    steps = 2 * np.pi / 2.0 ** np.arange(5, 9 if options.quick else 13)
    errors = {}
    for method in (RALSTON_2, RALSTON_3):
        errors[method.name] = [error_at_end(solver=method, step_size=step)[0] for step in steps]
        order = np.polyfit(np.log(steps), np.log(errors[method.name]), 1)[0]
        print(f"{method.name}: order {method.order} expected, {order:.2f} measured")

    error, solution = error_at_end(solver=RALSTON_3, rtol=1e-6, atol=1e-6)
    print(f"Ralston3 with adaptive steps: {solution.accepted} steps, error {error:.1e}")

    if options.figure:
        from pyneuralode.plotting.style import COLORS, label, new_figure

        figure, axes = new_figure()
        for (name, values), color in zip(errors.items(), COLORS):
            axes[0, 0].loglog(steps, values, "o-", color=color, label=name)
        label(axes[0, 0], "", "step", "error after one period")
        figure.savefig(options.figure)


if __name__ == "__main__":
    main()
