"""Solves of continuous flows, for states only or with the integrals of the trace and of the penalties."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
from torch import Tensor

from ..engines.registry import prepare
from ..models import NeuralODE
from ..problem import PathIntegrals, Solution

TRACES = ("exact", "hutchinson")
NOISES = ("rademacher", "gaussian")


def draw_noise(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return noise for Hutchinson's estimator, with mean 0 and identity covariance."""
    if kind == "rademacher":
        return rng.integers(0, 2, size=shape) * 2.0 - 1.0
    return rng.normal(size=shape)


def solve_integrals(
    flow: NeuralODE,
    state: Tensor,
    span: tuple[float, float],
    noise: Tensor | None,
    kinetic: bool = False,
    jacobian: bool = False,
) -> Solution:
    """Solve from `state` (n, d) over the times `span`, and compute the requested integrals along the way.

    `noise` (n, d) is used by Hutchinson's estimator; None selects the exact trace. The solution's `ys` (1, n, d) and
    `integrals` are differentiable in the state and in the flow's parameters.
    """
    settings = flow.settings()._replace(integrals=_KINDS[noise is not None, kinetic, jacobian])
    parameters, times = flow.tensors(), np.array(span)
    return flow.prepared.find(settings, flow.engine, parameters, state, times).run(parameters, state, times, noise)


def solve_states(flow: NeuralODE, state: Tensor, times: np.ndarray) -> Tensor:
    """Return the states (T, n, d) at `times` (T,), from `state` (n, d) at the first time."""
    # Every state must be accurate by itself; in training, only the mean over the samples matters.
    settings = flow.settings()._replace(control=replace(flow.control, norm="samples"))
    parameters = flow.tensors()
    return prepare(settings.problem(parameters, state, times), flow.engine).run(parameters, state, times).ys


# One object for each combination of flags, because prepared solves are looked up by these objects.
_KINDS = {flags: PathIntegrals(*flags) for flags in product((False, True), repeat=3)}
