"""The arithmetic of Runge-Kutta steps on flat arrays, for solves of flows."""

from typing import NamedTuple

import numpy as np

from ..compilation import allocating_function, inner_function
from ..vectors import add_rows, aligned, copy, fill


class FlowScheme(NamedTuple):
    """A tableau in the dtype of the state, and the working memory of one step.

    `padded` is the length of a state, padded to a whole number of vectors; `k` contains the stages, one row each;
    `end_stage` is the stage that equals the slope at the step's end, or -1 if there is none. The last four fields are
    the `numbers` of a `TableauPlan`.
    """

    rows: np.ndarray
    places: np.ndarray
    ends: np.ndarray
    padded: int
    k: np.ndarray
    weights: np.ndarray
    point: np.ndarray
    stages: int
    order: int
    end_stage: int
    error_order: int


@allocating_function
def make_scheme(method, y0):
    rows, places, ends, numbers = method
    k, point = aligned(len(rows) * y0.size, y0), aligned(y0.size, y0)
    fill(k, 0)
    fill(point, 0)
    rows, ends, weights = rows.astype(y0.dtype), ends.astype(y0.dtype), np.empty(len(rows), y0.dtype)
    return FlowScheme(rows, places, ends, y0.size, k, weights, point, *numbers)


@inner_function
def combine(scheme, out, y, coefficients, count, h):
    """Set out = y + h times the sum over i < count of coefficients[i] k[i]."""
    for i in range(count):
        scheme.weights[i] = coefficients[i] * h
    copy(out, y, scheme.padded)
    none, one = np.intp(0), np.intp(1)
    add_rows(out, none, scheme.weights, none, one, scheme.k, none, scheme.padded, count, scheme.padded)


@inner_function
def add_to_stages(scheme, bars, adjoint, count):
    """Add weights[i] * adjoint to bars[i] for the stages i < count."""
    for i in range(count):
        weight = scheme.weights[i]
        for j in range(scheme.padded):
            bars[i * scheme.padded + j] += weight * adjoint[j]
