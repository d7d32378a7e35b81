"""Vector fields of mechanistic models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arguments import checked, nonnegative_number
from .base import Parameters, VectorField


def _rate(default: float) -> float:
    return checked(nonnegative_number, default, remedy=f"give a finite, nonnegative number, such as {default}")


@dataclass(frozen=True)
class SEIR(VectorField):
    """The SEIR epidemic model in fractions of the population (Kermack and McKendrick 1927; Hethcote 2000).

    ::

        ds/dt = -gamma R0 s i      de/dt = gamma R0 s i - sigma e
        di/dt = sigma e - gamma i  dr/dt = gamma i

    The state (..., 4) is (s, e, i, r). The parameters are ``gamma``, ``R0`` and ``sigma``, each of shape ().

    Parameters
    ----------
    gamma, sigma : float
        Initial values of the rates (1/day) of recovery (`gamma`) and of leaving the exposed state (`sigma`).
    R0 : float
        Initial value of the basic reproduction number (dimensionless).

    Raises
    ------
    ArgumentError
        If a value is negative or not finite.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> days = [0.0, 30.0, 60.0]
    >>> pn.solve(pn.SEIR(gamma=0.2, R0=3.0, sigma=0.4), [0.99, 0.0, 0.01, 0.0], days, engine="torch").ys.shape
    (3, 4)
    """

    gamma: float = _rate(0.17)
    R0: float = _rate(5.7)
    sigma: float = _rate(0.17)

    @property
    def dim(self) -> int:
        return 4

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gamma": (), "R0": (), "sigma": ()}

    def initial(self, seed: int = 0) -> Parameters:
        return {name: np.array(getattr(self, name)) for name in self.shapes()}
