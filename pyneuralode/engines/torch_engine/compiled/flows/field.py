"""The slope of a flow and the trace of its Jacobian for all samples at one time, and their vector-Jacobian product.

States are stored by component, each padded to whole vectors: z[j p + s] is component j of sample s < p. The trace
follows as one more component. Samples are processed in blocks, so that their hidden units stay in a core's L1 or L2
cache.
"""

from typing import NamedTuple

import numpy as np

from ..activations import ELU, SIGMOID, SIN, SOFTPLUS, TANH, activate_array
from ..compilation import allocating_function, fma_function, inner_function
from ..vectors import add_products, add_rows, aligned, fill, lanes

BLOCK = 64


class BlockWorkspace(NamedTuple):
    """Working memory of a block: the hidden units' values, first and second derivatives and cotangents (w, BLOCK).

    `sums`, (w, 2 d + 2) vectors, contains for each hidden unit the sums over samples that form the weights' cotangents.
    """

    values: np.ndarray
    derivatives: np.ndarray
    second_derivatives: np.ndarray
    preactivation_bars: np.ndarray
    trace_bars: np.ndarray
    sums: np.ndarray


@allocating_function
def make_workspace(shape, like, backward):
    size = shape.width * BLOCK
    more = size if backward else 0
    sums = aligned(shape.width * (2 * shape.dim + 2) * lanes(like) if backward else 0, like)
    values = aligned(size, like)
    fill(values, 0)  # since the last block may write only a part of the array
    return BlockWorkspace(
        values, aligned(size, like), aligned(more, like), aligned(more, like), aligned(BLOCK, like), sums
    )


@inner_function
def hidden_units(shape, p, row, z, first, count, workspace):
    """Set the values and derivatives of the hidden units for `count` samples, starting at `first`."""
    d, w = shape.dim, shape.width
    one = np.intp(1)
    for k in range(w):
        fill(workspace.values[k * BLOCK : k * BLOCK + count], row[w * d + k])
        add_rows(workspace.values, k * BLOCK, row, k * d, one, z, first, p, d, count)
    activate_array(shape.activation, workspace.values, workspace.derivatives)


@inner_function
def evaluate(shape, p, row, z, out, o, workspace):
    """Write the slope and the trace (d + 1, p) at the states z (d, p) to out[o:]."""
    d, w = shape.dim, shape.width
    outward, along, last = w * (d + 1), w * (2 * d + 1), 2 * w * (d + 1)
    none, one = np.intp(0), np.intp(1)
    for j in range(d):
        fill(out[o + j * p : o + (j + 1) * p], row[last + j])
    fill(out[o + d * p : o + (d + 1) * p], 0)
    for first in range(0, p, BLOCK):
        count = min(BLOCK, p - first)
        hidden_units(shape, p, row, z, first, count, workspace)
        for j in range(d):
            add_rows(out, o + j * p + first, row, outward + j, d, workspace.values, none, BLOCK, w, count)
        add_rows(out, o + d * p + first, row, along, one, workspace.derivatives, none, BLOCK, w, count)


@inner_function
def vjp(shape, p, row, z, bars, b, trace_bar, trace_share, z_bar, row_bar, workspace):
    """Add the cotangents of the states to `z_bar` and write those of the weights to `row_bar`.

    bars[b:] (d, p) are the cotangents of the slope, and `trace_share` times `trace_bar` (p,) those of the trace.
    """
    d, w, n = shape.dim, shape.width, lanes(z)
    outward, along, last = w * (d + 1), w * (2 * d + 1), 2 * w * (d + 1)
    none, one = np.intp(0), np.intp(1)
    values, derivatives, bends, preactivation_bars, trace_bars, sums = workspace
    fill(sums, 0)
    for first in range(0, p, BLOCK):
        count = min(BLOCK, p - first)
        hidden_units(shape, p, row, z, first, count, workspace)
        second_derivatives(shape.activation, values, derivatives, bends)
        for s in range(count):
            trace_bars[s] = trace_share * trace_bar[first + s]
        for k in range(w):
            at, total = k * BLOCK, k * (2 * d + 2) * n
            fill(preactivation_bars[at : at + count], 0)
            add_rows(preactivation_bars, at, row, outward + k * d, one, bars, b + first, p, d, count)
            before_activation(preactivation_bars, derivatives, bends, at, row[along + k], trace_bars, count)
            for j in range(d):
                add_products(sums, total, preactivation_bars, at, z, j * p + first, count)
                add_products(sums, total + n, values, at, bars, b + j * p + first, count)
                total += 2 * n
            add_products(sums, total, derivatives, at, trace_bars, none, count)
            add_values(sums, total + n, preactivation_bars, at, count)
        for j in range(d):
            add_rows(z_bar, j * p + first, row, j, d, preactivation_bars, none, BLOCK, w, count)
    for k in range(w):
        total = k * (2 * d + 2) * n
        for j in range(d):
            row_bar[k * d + j] = sum_lanes(sums, total)
            row_bar[outward + k * d + j] = sum_lanes(sums, total + n)
            total += 2 * n
        row_bar[along + k] = sum_lanes(sums, total)
        row_bar[w * d + k] = sum_lanes(sums, total + n)
    for j in range(d):
        total_bar = 0.0
        for s in range(p):
            total_bar += bars[b + j * p + s]
        row_bar[last + j] = total_bar


@fma_function
def before_activation(preactivation_bars, derivatives, second_derivatives, at, along, trace_bars, count):
    """Convert cotangents of activations to cotangents of preactivations in place, and add the trace's contribution."""
    for s in range(count):
        preactivation_bars[at + s] = (
            preactivation_bars[at + s] * derivatives[at + s] + along * trace_bars[s] * second_derivatives[at + s]
        )


@inner_function
def add_values(sums, o, a, i, count):
    """Add a[i:], `count` numbers (whole vectors), to the vector at sums[o:], lane by lane."""
    for s in range(0, count, lanes(sums)):
        for lane in range(lanes(sums)):
            sums[o + lane] += a[i + s + lane]


@inner_function
def sum_lanes(sums, o):
    """Return the sum of the lanes of the vector at sums[o:]."""
    total = 0.0
    for lane in range(lanes(sums)):
        total += sums[o + lane]
    return total


@fma_function
def second_derivatives(kind, values, derivatives, out):
    """Write the second derivatives of an activation, computed from its values and first derivatives, to `out`."""
    if kind == TANH:
        for s in range(len(out)):
            out[s] = -(values[s] + values[s]) * derivatives[s]
    elif kind == SIGMOID:
        for s in range(len(out)):
            out[s] = derivatives[s] - (values[s] + values[s]) * derivatives[s]
    elif kind == SOFTPLUS:
        for s in range(len(out)):
            out[s] = derivatives[s] - derivatives[s] * derivatives[s]
    elif kind == ELU:
        for s in range(len(out)):
            out[s] = derivatives[s] if values[s] < 0 else out.dtype.type(0)
    elif kind == SIN:
        for s in range(len(out)):
            out[s] = -values[s]
    else:  # piecewise linear activations
        fill(out, 0)
