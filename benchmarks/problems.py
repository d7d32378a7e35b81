"""The problems that every library solves: initial states, times, parameters and tolerances."""

from __future__ import annotations

from typing import Any

import numpy as np

from .peers.interface import ProblemData
from .weights import COVID, FLAG, SPIRAL, TRAINED, stored

_REFERENCE = {"rtol": 1e-12, "atol": 1e-12, "dtype": "float64"}


def _trained(
    name: str, arrays: dict[str, np.ndarray], rtol: float, reference: dict[str, Any] = _REFERENCE
) -> ProblemData:
    """Return a float32 problem with the trained network `name`; atol = rtol."""
    settings = {"rtol": rtol, "atol": rtol, "dtype": "float32", "field": TRAINED[name]}
    parameters = stored(name)
    return ProblemData({**parameters, **arrays}, {**settings, "parameters": list(parameters)}, reference)


def spiral() -> ProblemData:
    """Return the cubic spiral as a 2-50-2 network; loss: the sum of squares of the states at 30 times on [0, 1.5]."""
    return _trained(SPIRAL, {"y0": np.array([2.0, 0.0]), "ts": np.linspace(0, 1.5, 30)}, 1e-6)


def covid() -> ProblemData:
    """Return the epidemic as a 4-100-50-4 network from state 0; loss: the sum of squares of the states on 56 days."""
    from pyneuralode.datasets import sweden

    days = sweden("report")["day"].to_numpy(float)
    return _trained(COVID, {"y0": np.zeros(4), "ts": days}, 1e-6)


def flag() -> ProblemData:
    """Return the flag as a hypernetwork flow; loss: minus the mean log density of 512 points, t from 10 to 0."""
    from pyneuralode.datasets.densities import flag

    points = np.asarray(flag().sample(512, np.random.default_rng(2022)))
    return _trained(FLAG, {"points": points, "ts": np.array([10.0, 0.0])}, 1e-5)


_RATES = np.array([0.04, 3e7, 1e4])


def robertson() -> ProblemData:
    """Return Robertson's reaction; loss: y1(40), differentiated with respect to the three rates."""
    rates = {f"k{i}": np.array(rate) for i, rate in enumerate(_RATES, start=1)}
    settings = {"rtol": 1e-8, "atol": 1e-10, "dtype": "float64", "parameters": list(rates)}
    arrays = {"y0": np.array([1.0, 0.0, 0.0]), "ts": np.array([0.0, 40.0]), **rates}
    return ProblemData(arrays, settings, {"rtol": 1e-12, "atol": 1e-16})


def oscillators(count: int = 256) -> ProblemData:
    """Return Van der Pol oscillators, mu in 1..100, each at 20 times over 10 to 30; loss: the mean sum of x^2."""
    rng = np.random.default_rng(2022)
    mu, spans = rng.uniform(1, 100, count), rng.uniform(10, 30, count)
    arrays = {"y0": np.tile([2.0, 0.0], (count, 1)), "ts": spans[:, None] * np.linspace(0, 1, 20), "mu": mu}
    settings = {"rtol": 1e-6, "atol": 1e-6, "dtype": "float64", "parameters": ["mu"]}
    return ProblemData(arrays, settings, {"rtol": 1e-12, "atol": 1e-12})


def odenet(batch: int = 128, channels: int = 64) -> ProblemData:
    """Return an untrained classifier of 28 x 28 images with an ODE block; loss: the cross-entropy of random images."""
    rng = np.random.default_rng(2022)
    arrays = {"images": rng.normal(size=(batch, 1, 28, 28)), "labels": rng.integers(10, size=batch)}
    n = channels
    shapes = {
        "stem.0.weight": (n, 1, 3, 3), "stem.0.bias": (n,),
        "stem.1.weight": (n,), "stem.1.bias": (n,),
        "stem.3.weight": (n, n, 4, 4), "stem.3.bias": (n,),
        "stem.4.weight": (n,), "stem.4.bias": (n,),
        "stem.6.weight": (n, n, 4, 4), "stem.6.bias": (n,),
        **{f"dynamics.convolutions.{k}.weight": (n, n + 1, 3, 3) for k in (0, 1)},
        **{f"dynamics.norms.{k}.{part}": (n,) for k in (0, 1) for part in ("weight", "bias")},
        "head.0.weight": (n,), "head.0.bias": (n,),
        "head.3.weight": (10, n), "head.3.bias": (10,),
    }  # fmt: skip
    parameters = {name: _initial_weights(name, shape, rng) for name, shape in shapes.items()}
    settings = {"rtol": 1e-3, "atol": 1e-3, "dtype": "float32", "channels": n, "parameters": list(parameters)}
    # No method keeps its order at the kinks of ReLU, so tighter tolerances would take hours.
    return ProblemData({**arrays, **parameters}, settings, {"rtol": 1e-6, "atol": 1e-6, "dtype": "float64"})


def _initial_weights(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return weights ~ U(-a, a), a = sqrt(1 / inputs); weights of normalizations are 1 and biases 0."""
    if name.endswith("bias"):
        return np.zeros(shape)
    if len(shape) == 1:
        return np.ones(shape)
    limit = np.sqrt(1 / np.prod(shape[1:]))
    return rng.uniform(-limit, limit, shape)


def large_state(rows: int = 1024) -> ProblemData:
    """Return a 16-64-16 network on a batch of states (rows, 16) over [0, 1] with fixed steps: 128 kB per state."""
    from pyneuralode.fields import MLP

    spec = {"sizes": [16, 64, 16], "activation": "tanh"}
    parameters = MLP(**spec).initial(0)
    y0 = np.random.default_rng(2022).normal(size=(rows, 16))
    settings = {"dtype": "float64", "field": spec, "state_bytes": y0.nbytes, "parameters": list(parameters)}
    return ProblemData({**parameters, "y0": y0, "ts": np.array([0.0, 1.0])}, settings)


_SYSTEMS = {
    "lotka_volterra": ([1.0, 1.0], np.linspace(0, 10, 21), [1.5, 1.0, 3.0, 1.0], 1.0),
    "van_der_pol": ([2.0, 0.0], np.linspace(0, 20, 21), [1.0], 1.0),
    "van_der_pol_stiff": ([2.0, 0.0], np.linspace(0, 2000, 21), [1000.0], 1.0),
    "robertson": ([1.0, 0.0, 0.0], np.concatenate([[0.0], np.geomspace(0.4, 4e4, 6)]), _RATES, 1e-4),
}


def system(name: str) -> ProblemData:
    """Return one of the systems of the work-precision figure, in float64."""
    y0, ts, p, atol_in_rtol = _SYSTEMS[name]
    settings = {
        "system": name.removesuffix("_stiff"),
        "dtype": "float64",
        "rtol": 1e-6,
        "atol": 1e-6 * atol_in_rtol,
        "atol_in_rtol": atol_in_rtol,
    }
    reference = {"rtol": 1e-13, "atol": 1e-13 * atol_in_rtol}
    return ProblemData({"y0": np.array(y0), "ts": np.array(ts), "p": np.array(p)}, settings, reference)
