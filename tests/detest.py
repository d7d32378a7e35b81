"""DETEST, the non-stiff test set: 25 initial-value problems on [0, 20] in five classes.

Every right-hand side is written once, for Python floats, and converted for torch and for NumPy, so that solvers
compared on a problem use the same arithmetic.

T. E. Hull, W. H. Enright, B. M. Fellen, A. E. Sedgwick, Comparing numerical methods for ordinary differential
equations, SIAM J. Numer. Anal. 9 (1972) 603-637.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin, sqrt

import numpy as np
import torch

END = 20.0


@dataclass(frozen=True)
class Problem:
    """dy/dt = rhs(t, y), y(0) = y0: `rhs` maps a list of n floats to a list of n floats; y0 has shape (n,)."""

    name: str
    rhs: Callable[[float, list[float]], list[float]]
    y0: np.ndarray

    def torch_field(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.rhs(float(t), y.tolist()), dtype=y.dtype)

    def numpy_field(self, t: float, y: np.ndarray) -> np.ndarray:
        return np.array(self.rhs(t, y.tolist()))


PROBLEMS: dict[str, Problem] = {}


def problem(name: str, *y0: float) -> Callable:
    def register(rhs: Callable) -> Callable:
        PROBLEMS[name] = Problem(name, rhs, np.array(y0, dtype=float))
        return rhs

    return register


# Class A: single equations.

problem("A1", 1)(lambda t, y: [-y[0]])
problem("A2", 1)(lambda t, y: [-(y[0] ** 3) / 2])
problem("A3", 1)(lambda t, y: [y[0] * cos(t)])
problem("A4", 1)(lambda t, y: [y[0] / 4 * (1 - y[0] / 20)])
problem("A5", 4)(lambda t, y: [(y[0] - t) / (y[0] + t)])

# Class B: small systems.

problem("B1", 1, 3)(lambda t, y: [2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])])
problem("B2", 2, 0, 1)(lambda t, y: [-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2]])
problem("B3", 1, 0, 0)(lambda t, y: [-y[0], y[0] - y[1] ** 2, y[1] ** 2])
problem("B5", 0, 1, 1)(lambda t, y: [y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])


@problem("B4", 3, 0, 0)
def torus(t, y):
    r = sqrt(y[0] ** 2 + y[1] ** 2)
    return [-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r]


# Class C: moderate systems.

problem("C1", 1, *[0] * 9)(lambda t, y: [-y[0], *(y[i - 1] - y[i] for i in range(1, 9)), y[8]])
problem("C2", 1, *[0] * 9)(lambda t, y: [-y[0], *(i * y[i - 1] - (i + 1) * y[i] for i in range(1, 9)), 9 * y[8]])


@problem("C4", 1, *[0] * 50)
@problem("C3", 1, *[0] * 9)
def heat(t, y):
    padded = [0.0, *y, 0.0]
    return [left - 2 * middle + right for left, middle, right in zip(padded, y, padded[2:])]


# Jupiter to Pluto: masses (SUN is the mass of the sun and the inner planets), positions and velocities.
# The unit of time is 100 days.
GRAVITY, SUN = 2.95912208286, 1.00000597682
MASSES = [0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778]


@problem(
    "C5",
    3.42947415189, 3.35386959711, 1.35494901715,
    6.64145542550, 5.97156957878, 2.18231499728,
    11.2630437207, 14.6952576794, 6.27960525067,
    -30.1552268759, 1.65699966404, 1.43785752721,
    -21.1238353380, 28.4465098142, 15.3882659679,
    -0.557160570446, 0.505696783289, 0.230578543901,
    -0.415570776342, 0.365682722812, 0.169143213293,
    -0.325325669158, 0.189706021964, 0.0877265322780,
    -0.0240476254170, -0.287659532608, -0.117219543175,
    -0.176860753121, -0.216393453025, -0.0148647893090,
)  # fmt: skip
def planets(t, y):
    places = [y[3 * j : 3 * j + 3] for j in range(5)]
    cubes = [sum(x * x for x in place) ** 1.5 for place in places]
    pulls = []
    for j, here in enumerate(places):
        pull = [-(SUN + MASSES[j]) * x / cubes[j] for x in here]
        for k, there in enumerate(places):
            if k != j:
                gap = [b - a for a, b in zip(here, there)]
                cube = sum(x * x for x in gap) ** 1.5
                pull = [p + MASSES[k] * (g / cube - b / cubes[k]) for p, g, b in zip(pull, gap, there)]
        pulls += [GRAVITY * p for p in pull]
    return y[15:] + pulls


# Class D: the two-body problem with eccentricities 0.1 to 0.9.


def kepler(t, y):
    cube = (y[0] ** 2 + y[1] ** 2) ** 1.5
    return [y[2], y[3], -y[0] / cube, -y[1] / cube]


ECCENTRICITIES = {"D1": 0.1, "D2": 0.3, "D3": 0.5, "D4": 0.7, "D5": 0.9}
for name, e in ECCENTRICITIES.items():
    problem(name, 1 - e, 0, 0, sqrt((1 + e) / (1 - e)))(kepler)

# Class E: second-order equations.

BESSEL_AT_1 = sqrt(2 / pi) * sin(1)  # the Bessel function J of order 1/2; the next line is its derivative
BESSEL_SLOPE_AT_1 = sqrt(2 / pi) * (cos(1) - sin(1) / 2)

problem("E1", BESSEL_AT_1, BESSEL_SLOPE_AT_1)(lambda t, y: [y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])])
problem("E2", 2, 0)(lambda t, y: [y[1], (1 - y[0] ** 2) * y[1] - y[0]])
problem("E3", 0, 0)(lambda t, y: [y[1], y[0] ** 3 / 6 - y[0] + 2 * sin(2.78535 * t)])
problem("E4", 30, 0)(lambda t, y: [y[1], 0.032 - 0.4 * y[1] ** 2])
problem("E5", 0, 0)(lambda t, y: [y[1], sqrt(1 + y[1] ** 2) / (25 - t)])


SAMPLES = np.array([0.0, *np.linspace(0, END, 24)[1:-1] + 0.137, END])


@cache
def reference(name: str) -> np.ndarray:
    """Return the states (len(SAMPLES), n) by SciPy's DOP853 at 1e-13, restarted at each time to avoid interpolation."""
    from scipy.integrate import solve_ivp

    field, states = PROBLEMS[name].numpy_field, [PROBLEMS[name].y0]
    for start, end in zip(SAMPLES, SAMPLES[1:]):
        part = solve_ivp(field, (start, end), states[-1], "DOP853", rtol=1e-13, atol=1e-13)
        states.append(part.y[:, -1])
    return np.array(states)
