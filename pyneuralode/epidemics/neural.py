"""A neural ODE fitted to an epidemic curve over growing time spans."""

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
    """Return a neural ODE for an epidemic curve: one observed component and three additional ones, all starting at 0.

    The network has widths 4-100-50-4 and tanh activations. Two choices make it train reliably. Its inputs are states in
    units of `size`, and an output of 1 means a change of `size` in `days`. Its biases are drawn at random, because a
    tanh network without biases is zero at the zero state, where the solve starts.

    Parameters
    ----------
    seed : int
        Seed of the initial parameters.
    size : float
        Typical size of the states, about the height of the curve, in the units of the data.
    days : float
        Time scale on which the epidemic changes, in the units of the data's times.
    **settings
        As in `NeuralODE`. The default tolerance is tight, because L-BFGS cannot get below the noise that adaptive steps
        add to the loss. The default solver is Tsit5, although Vern7 takes fewer steps: nearly every step contains an
        output time, and in such a step Vern7's interpolant costs six additional evaluations.

    Examples
    --------
    >>> from pyneuralode.epidemics import neural_model
    >>> sum(array.size for array in neural_model().arrays().values())
    5754
    """
    field = MLP((4, 100, 50, 4), "tanh", input_scale=size, output_scale=size / days, init_scale=2.0, init_bias=1.0)
    tight = {"solver": "Tsit5", "rtol": 1e-7, "atol": 1e-7 * size}
    return AugmentedNeuralODE(field, augment_dim=3, seed=seed, **(tight | settings))


def neural_plan(last: float, *, goal: float | None = None, adam: int = 100, finish: int = 2000) -> GrowingSpan:
    """Return the plan of `fit_neural`: Adam on growing spans up to day `last`, then L-BFGS on the whole span.

    Parameters
    ----------
    last : float
        Last day of the data.
    goal : float, optional
        Sum of squares at which L-BFGS stops, in the squared units of the data.
    adam, finish : int
        Number of Adam iterations per span, and of L-BFGS iterations at the end.

    Examples
    --------
    >>> from pyneuralode.epidemics import neural_plan
    >>> [stage.end for stage in neural_plan(100.0).stages()]
    [60.0, 91.0, 100.0, 100.0]
    """
    ends = [end for end in SPANS if end < last] + [last]
    growing = Adam(5e-3, schedule="cosine", final=0.05, clip=1.0)
    # The default history of 50 pairs saves only a tenth of the iterations, and with it the arithmetic of L-BFGS takes
    # longer than the solve.
    return GrowingSpan(ends, growing, adam, finish=[Stage(LBFGS(history=20), finish, goal=goal)])


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
    """Fit a neural ODE to an epidemic curve by least squares, starting from the zero state at day 0.

    Parameters
    ----------
    days, values : (T,)
        Days since the start of the model, and the values of the curve on these days.
    seed : int
        Seed of the initial parameters, if no `model` is given.
    plan : optional
        As in `pyneuralode.fit`; by default, `neural_plan` up to the last day.
    model : AugmentedNeuralODE, optional
        By default ``neural_model(seed)``.
    smoothness : float
        Weight of a penalty on the total variation of the curve from day to day, which keeps the curve from oscillating
        between the data. The days must then be integers.
    horizon : float, optional
        Day up to which the penalty applies; by default, the last day of the data. A later day keeps a forecast from
        diverging.
    **settings
        As in `pyneuralode.fit`.

    Raises
    ------
    ArgumentError
        If the days are not integers and `smoothness` is not 0.

    Examples
    --------
    >>> import numpy as np
    >>> from pyneuralode.epidemics import fit_neural, neural_curve
    >>> from pyneuralode.fitting import Adam, Stage
    >>> days = np.arange(0.0, 40.0, 4.0)
    >>> result = fit_neural(days, np.exp(-(((days - 20) / 8) ** 2)), plan=Stage(Adam(5e-3), 3))
    >>> neural_curve(result.model, days).shape
    (10,)
    """
    days, values = real_array("days", days), real_array("values", values)
    last = float(np.max(days) if horizon is None else horizon)
    plan = plan or neural_plan(last)
    if smoothness:
        if not np.array_equal(days, np.round(days)):
            raise ArgumentError("days contains fractions: give integer days, or smoothness=0.")
        grid = np.arange(0.0, last + 1)
        on_grid = np.full(len(grid), np.nan)
        on_grid[np.asarray(days, dtype=int)] = values
        days, values = grid, on_grid
        settings |= {"mask": "nan", "penalty": TotalVariation(smoothness)}
    return fit(model or neural_model(seed), days, values, y0=np.zeros(1), t0=0.0, plan=plan, **settings)


def neural_curve(model: AugmentedNeuralODE, days: np.ndarray, parameters: Any = None) -> np.ndarray:
    """Return the curve (T,) at nonnegative, increasing days (T,); `parameters` defaults to the model's own."""
    return model.solve(np.zeros(1), real_array("days", days).astype(float), t0=0.0, parameters=parameters).ys[:, 0]
