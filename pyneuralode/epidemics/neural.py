"""A neural ODE fitted to an epidemic curve, over growing time spans."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import real_array
from ..errors import ArgumentError
from ..fields import MLP
from ..fitting import LBFGS, Adam, FitResult, GrowingSpan, Stage, TotalVariation, fit
from ..models import AugmentedNeuralODE

SPANS = (60.0, 91.0, 103.0, 134.0, 149.0, 170.0)


def neural_model(seed: int = 0, *, size: float = 0.2, days: float = 20.0, **settings: Any) -> AugmentedNeuralODE:
    """Return the neural ODE for an epidemic curve: one observed component and three added ones, all from zero.

    The net is 4-100-50-4 with tanh. What makes it train reliably is scaling: the net sees states in units of
    `size` (about the height of the curve) and its outputs mean changes by `size` in `days`; and its biases
    start spread out, since at the zero state, where the solve starts, a tanh net without them is zero.

    Parameters
    ----------
    seed : int
        Seed of the initial parameters.
    size : float
        Size of the states, in the unit of the data.
    days : float
        The epidemic's own unit of time, in the unit of the data's times.
    **settings
        As in `NeuralODE`. The tolerance is tight because L-BFGS stops at the noise that the choice of steps puts on
        the loss. Tsit5 is the default solver although Vern7 takes fewer steps: curves are wanted on every day, inside
        nearly every step, and Vern7's interpolant asks for six more evaluations there.
    """
    field = MLP((4, 100, 50, 4), "tanh", input_scale=size, output_scale=size / days, init_scale=2.0, init_bias=1.0)
    tight = {"solver": "Tsit5", "rtol": 1e-7, "atol": 1e-7 * size}
    return AugmentedNeuralODE(field, augment_dim=3, seed=seed, **(tight | settings))


def neural_plan(last: float, *, goal: float | None = None, adam: int = 100, finish: int = 2000) -> GrowingSpan:
    """Return the plan of `fit_neural`: growing spans up to day `last` by Adam, then L-BFGS on the whole span.

    `goal` is the sum of squares at which L-BFGS stops, in the squared unit of the data.
    """
    ends = [end for end in SPANS if end < last] + [last]
    # 20 pairs: the arithmetic on L-BFGS's usual 50 takes longer than the solve, and saves a tenth of the iterations.
    return GrowingSpan(
        ends,
        Adam(5e-3, schedule="cosine", final=0.05, clip=1.0),
        adam,
        finish=[Stage(LBFGS(history=20), finish, goal=goal)],
    )


def fit_neural(
    days: np.ndarray,
    values: np.ndarray,
    *,
    seed: int = 0,
    plan: Any = None,
    model: AugmentedNeuralODE | None = None,
    smoothness: float = 0.0,
    horizon: float | None = None,
    **settings: Any,
) -> FitResult:
    """Fit a neural ODE to values (T,) at given days (T,) by least squares, from the zero state at day 0.

    `plan` defaults to `neural_plan`, `model` to `neural_model(seed)`; `**settings` go to `pyneuralode.fit`. With
    `smoothness` the total variation of the curve on a one-day grid, times `smoothness`, is added to what is
    minimized, so that the curve does not swing between the points; the days must then be whole numbers. With a
    `horizon`, a day after the last point, that holds up to there: for a forecast that does not run away.
    """
    days, values = real_array("days", days), real_array("values", values)
    last = float(np.max(days) if horizon is None else horizon)
    plan = plan or neural_plan(last)
    if smoothness:
        if not np.array_equal(days, np.round(days)):
            raise ArgumentError("days holds fractions: give whole days, or smoothness=0.")
        grid = np.arange(0.0, last + 1)
        on_grid = np.full(len(grid), np.nan)
        on_grid[np.asarray(days, dtype=int)] = values
        days, values = grid, on_grid
        settings |= {"mask": "nan", "penalty": TotalVariation(smoothness)}
    return fit(model or neural_model(seed), days, values, y0=np.zeros(1), t0=0.0, plan=plan, **settings)


def neural_curve(model: AugmentedNeuralODE, days: np.ndarray, parameters: Any = None) -> np.ndarray:
    """Return the observed component (T,) at rising days of at least 0; `parameters` stand in for the model's own."""
    return model.solve(np.zeros(1), real_array("days", days).astype(float), t0=0.0, parameters=parameters).ys[:, 0]
