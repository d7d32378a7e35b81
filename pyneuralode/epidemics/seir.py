"""The SEIR model fitted to an epidemic curve, as prevalence or as incidence, its initial conditions free or not."""

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
    """The initial state (1 - e0 - i0, e0, i0, 0) of a fit's parameters `e0` and `i0`, each of shape ()."""

    def __call__(self, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        i0, e0 = (parameters[name] for name in INITIAL)
        return torch.stack([1 - e0 - i0, e0, i0, torch.zeros_like(i0)])


@dataclass(frozen=True)
class Incidence(Serializable):
    """New cases a day (T, 1) in states (T, 4), ``factor * sigma * e``; both are parameters of the fit."""

    def __call__(self, ts: Any, ys: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (parameters["factor"] * parameters["sigma"] * ys[:, 1])[:, None]


@dataclass
class EpidemicFit:
    """A fitted epidemic: the `FitResult`, and the curve that was compared with the data.

    ``states(days)`` gives the model's states (T, 4) and ``curve(days)`` the observed quantity (T,), both from day 0.
    """

    result: FitResult
    observable: str

    def states(self, days: np.ndarray) -> np.ndarray:
        p = {name: torch.as_tensor(value) for name, value in self.result.parameters.items()}
        return self.result.model.solve(SEIRStart()(p).numpy(), real_array("days", days).astype(float), t0=0.0).ys

    def curve(self, days: np.ndarray) -> np.ndarray:
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
    """Fit the SEIR model to values at given days by least squares.

    Parameters
    ----------
    days, values : (T,)
        Days since the start of the model (day 0), and the observed quantity then.
    field : SEIR
        Holds the starting values of gamma, R0 and sigma.
    i0, e0 : float
        Infectious and exposed parts of the population at day 0; the rest is susceptible.
    fit_initial : bool
        Fit these two as well, from the given values.
    observable : {"infectious", "incidence"}
        What the values are: the infectious part i, or new cases a day, ``factor * sigma * e``, whose `factor` is
        fitted too.
    bounded : bool
        Keep rates positive and parts of the population between 0 and 1, by a change of variables.
    engine : {"auto", "torch", "julia"}
    plan, **settings
        As in `pyneuralode.fit`.
    """
    if observable not in OBSERVABLES:
        raise unknown_name("observable", observable, OBSERVABLES)
    model = NeuralODE(field, rtol=1e-8, atol=1e-10, engine=engine)
    extra: dict[str, float] = {"i0": i0, "e0": e0}
    observe = None
    if observable == "incidence":
        extra["factor"] = factor
        observe = Incidence()
    fixed = () if fit_initial else INITIAL
    free = [name for name in (*model.tensors(), *extra) if name not in fixed]
    result = fit(
        model,
        days,
        values,
        y0=SEIRStart(),
        t0=0.0,
        plan=plan,
        observed=None if observe else [2],
        observe=observe,
        extra=extra,
        fixed=fixed,
        bounds={name: (0.0, 1.0 if name in INITIAL else None) for name in free} if bounded else None,
        **settings,
    )
    return EpidemicFit(result, observable)
