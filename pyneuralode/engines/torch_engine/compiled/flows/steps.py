"""The arithmetic of Runge-Kutta steps on flat arrays, for the marches of flows."""

from typing import NamedTuple

import numpy as np

from ..compilation import allocating_function, inner_function
from ..vectors import add_rows, aligned, copy, fill, lanes


class FlowScheme(NamedTuple):
    """A tableau in the dtype of the state, and the working memory of one step.

    `n` counts the state's components, `padded` those up to a whole vector; `k` holds the stages, a row each;
    `end_stage` is the stage that is the slope at the step's end, -1 where there is none.
    """

    rows: np.ndarray
    ends: np.ndarray
    interpolant: np.ndarray
    stages: int
    order: int
    end_stage: int
    error_order: int
    n: int
    padded: int
    k: np.ndarray
    weights: np.ndarray
    point: np.ndarray


@allocating_function
def make_scheme(rows, ends, interpolant, numbers, y0):
    padded = -(-y0.size // lanes(y0)) * lanes(y0)
    k = aligned(len(rows) * padded, y0)
    fill(k, 0)
    point = aligned(padded, y0)
    fill(point, 0)
    return FlowScheme(
        rows.astype(y0.dtype),
        ends.astype(y0.dtype),
        interpolant,
        numbers[0],
        numbers[1],
        numbers[2],
        numbers[3],
        y0.size,
        padded,
        k,
        np.empty(len(rows), y0.dtype),
        point,
    )


@inner_function
def combine(scheme, out, y, coefficients, count, h):
    """out = y + h sum over i < count of coefficients[i] k[i]."""
    for i in range(count):
        scheme.weights[i] = coefficients[i] * h
    copy(out, y, scheme.padded)
    none, one = np.intp(0), np.intp(1)
    add_rows(out, none, scheme.weights, none, one, scheme.k, none, scheme.padded, count, scheme.padded)


@inner_function
def add_to_stages(scheme, bars, adjoint, count):
    """bars[i] += weights[i] adjoint for the stages i < count."""
    for i in range(count):
        weight = scheme.weights[i]
        for j in range(scheme.padded):
            bars[i * scheme.padded + j] += weight * adjoint[j]
