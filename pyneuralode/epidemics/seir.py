"""The SEIR model, fitted to the infectious fraction or to new cases, with known or fitted initial conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..arguments import real_array
from ..errors import unknown_name
from ..fields import SEIR
from ..fitting import LBFGS, FitResult, Stage, fit
from ..fitting.specs import Serializable
from ..models import NeuralODE

OBSERVABLES = ("infectious", "incidence")
INITIAL = ("i0", "e0")


@dataclass(frozen=True)
class SEIRStart(Serializable):
    """The initial state (1 - e0 - i0, e0, i0, 0), computed from the fit parameters `e0` and `i0`, each of shape ()."""

    def __call__(self, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        i0, e0 = (parameters[name] for name in INITIAL)
        return torch.stack([1 - e0 - i0, e0, i0, torch.zeros_like(i0)])


@dataclass(frozen=True)
class Incidence(Serializable):
    """New cases per day (T, 1) from states (T, 4): ``factor * sigma * e``; `factor` and `sigma` are fit parameters."""

    def __call__(self, ts: Any, ys: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (parameters["factor"] * parameters["sigma"] * ys[:, 1])[:, None]


@dataclass
class EpidemicFit:
    """The result of `fit_seir`.

    Attributes
    ----------
    result : FitResult
        The fit; its parameters include `i0` and `e0`.
    observable : {"infectious", "incidence"}
        The quantity that was compared with the data.
    """

    result: FitResult
    observable: str

    def states(self, days: np.ndarray) -> np.ndarray:
        """Return the population fractions S, E, I and R (T, 4) at nonnegative, increasing days (T,)."""
        p = {name: torch.as_tensor(value) for name, value in self.result.parameters.items()}
        return self.result.model.solve(SEIRStart()(p).numpy(), real_array("days", days).astype(float), t0=0.0).ys

    def curve(self, days: np.ndarray) -> np.ndarray:
        """Return the observed quantity (T,) at nonnegative, increasing days (T,)."""
        states, p = self.states(days), self.result.parameters
        return states[:, 2] if self.observable == "infectious" else p["factor"] * p["sigma"] * states[:, 1]


def fit_seir(
    days: np.ndarray,
    values: np.ndarray,
    *,
    field: SEIR = SEIR(),
    i0: float = 1e-7,
    e0: float = 4e-7,
    observable: str = "infectious",
    factor: float = 1.0,
    fit_initial: bool = False,
    bounded: bool = True,
    engine: str = "auto",
    plan: Any = Stage(LBFGS(), 300),
    **settings: Any,
) -> EpidemicFit:
    """Fit the SEIR model to an epidemic curve by least squares.

    Parameters
    ----------
    days, values : (T,)
        Days since the start of the model, and the observed quantity on these days.
    field : SEIR
        The model; its gamma, R0 and sigma are the initial values of the fit.
    i0, e0 : float
        Infectious and exposed fractions of the population at day 0; the rest is susceptible.
    observable : {"infectious", "incidence"}
        The observed quantity: the infectious fraction i, or new cases per day, ``factor * sigma * e``.
    factor : float
        Initial value of `factor`, which is also fitted if new cases are observed.
    fit_initial : bool
        Also fit `i0` and `e0`, starting from the given values.
    bounded : bool
        Keep rates positive and fractions between 0 and 1 by a change of variables.
    engine : {"auto", "torch", "julia"}
    plan, **settings
        As in `pyneuralode.fit`.

    Raises
    ------
    ArgumentError
        If `observable` is unknown, or an argument of `pyneuralode.fit` is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from pyneuralode.epidemics import fit_seir
    >>> from pyneuralode.fitting import LBFGS, Stage
    >>> days = np.arange(0.0, 60.0, 3.0)
    >>> fit = fit_seir(days, 0.05 * np.exp(-(((days - 40) / 12) ** 2)), i0=1e-3, plan=Stage(LBFGS(), 5))
    >>> fit.curve(days).shape
    (20,)
    """
    if observable not in OBSERVABLES:
        raise unknown_name("observable", observable, OBSERVABLES)
    model = NeuralODE(field, rtol=1e-8, atol=1e-10, engine=engine)
    extra = {"i0": i0, "e0": e0} | ({"factor": factor} if observable == "incidence" else {})
    compared = {"observe": Incidence()} if observable == "incidence" else {"observed": [2]}
    fixed = () if fit_initial else INITIAL
    free = [name for name in (*model.tensors(), *extra) if name not in fixed]
    bounds = {name: (0.0, 1.0 if name in INITIAL else None) for name in free} if bounded else None
    run = {"plan": plan, "extra": extra, "fixed": fixed, "bounds": bounds}
    result = fit(model, days, values, y0=SEIRStart(), t0=0.0, **compared, **run, **settings)
    return EpidemicFit(result, observable)
