"""The weights of the hidden layer as a function of time, and the adjoint of that function.

A row of weights contains W (w, d), b (w), V (w, d), C (w) and c (d), so that f(z) = c + sum_k V_k a(W_k . z + b_k); the
trace of its Jacobian is sum_k C_k a'(W_k . z + b_k), with C_k = V_k . W_k. Each kind of field also stores the
intermediates that its adjoint needs.
"""

from typing import NamedTuple

import numpy as np

from ..activations import SIGMOID, TANH, activate_array
from ..compilation import fma_function, inner_function
from ..vectors import copy, fill
from .compilation import reassociated_function
from .plan import HYPERNETWORK


class FlowShape(NamedTuple):
    """Kind, activation, dimension d and width w of a flow, and the number of hypernetwork units or time columns."""

    kind: int
    activation: int
    dim: int
    width: int
    hidden: int


@inner_function
def row_size(shape):
    """Return the length of a row of weights."""
    return 2 * shape.width * (shape.dim + 1) + shape.dim


@inner_function
def intermediates_size(shape):
    """Return the number of intermediate values that the adjoint of the weights needs."""
    if shape.kind == HYPERNETWORK:
        return 2 * shape.hidden + (3 * shape.dim + 1) * shape.width + 1
    return 1


@inner_function
def scratch_size(shape):
    """Return the length of the scratch memory that `weights_at` and `weights_vjp` need."""
    return (3 * shape.dim + 1) * shape.width + 2 * max(shape.width * shape.dim, shape.hidden)


@reassociated_function
def dot(a, i, b, j, count):
    """Return the sum of a[i + s] b[j + s] over s < count."""
    total = a[i] * b[j]
    for s in range(1, count):
        total += a[i + s] * b[j + s]
    return total


@fma_function
def add_multiple(out, o, factor, a, i, count):
    """Add factor * a[i + s] to out[o + s] for s < count."""
    for s in range(count):
        out[o + s] += factor * a[i + s]


@inner_function
def weights_at(shape, theta, scales, t, row, intermediates, scratch):
    """Write the weights at time t to `row`; `scratch` is at least as long as `intermediates`."""
    d, w = shape.dim, shape.width
    if shape.kind == HYPERNETWORK:
        _hypernetwork(shape, theta, scales, t, row, intermediates, scratch)
    else:
        _affine(shape, theta, scales, t, row, intermediates)
    for k in range(w):
        row[w * (2 * d + 1) + k] = dot(row, k * d, row, w * (d + 1) + k * d, d)


@inner_function
def _hypernetwork(shape, theta, scales, t, row, intermediates, scratch):
    d, w, h = shape.dim, shape.width, shape.hidden
    outputs = (3 * d + 1) * w
    time, factor = theta.dtype.type(t / scales[0]), theta.dtype.type(scales[2] / w)
    first, second, third = np.intp(0), 2 * h, 2 * h + h * h + h
    intermediates[intermediates.size - 1] = time
    for i in range(h):
        intermediates[i] = theta[first + i] * time + theta[h + i]
    activate_array(TANH, intermediates[:h], scratch[:h])
    for i in range(h):
        intermediates[h + i] = dot(theta, second + i * h, intermediates, first, h) + theta[second + h * h + i]
    activate_array(TANH, intermediates[h : 2 * h], scratch[:h])
    for i in range(outputs):
        intermediates[2 * h + i] = dot(theta, third + i * h, intermediates, h, h) + theta[third + outputs * h + i]
    out, size = 2 * h, w * d
    for i in range(size):
        row[i] = intermediates[out + i]
        scratch[i] = intermediates[out + 2 * size + i]
    activate_array(SIGMOID, scratch[:size], scratch[size : 2 * size])
    for i in range(size):
        row[size + w + i] = intermediates[out + size + i] * scratch[i] * factor
    copy(row[size : size + w], intermediates[out + 3 * size :], w)
    fill(row[2 * size + 2 * w :], theta.dtype.type(0))


@inner_function
def _affine(shape, theta, scales, t, row, intermediates):
    d, w, columns = shape.dim, shape.width, shape.hidden
    time = theta.dtype.type(t / scales[0])
    inward, outward = theta.dtype.type(1 / scales[1]), theta.dtype.type(scales[2])
    bias = w * (d + columns)
    last = bias + w
    last_bias = last + d * (w + columns)
    intermediates[0] = time
    for k in range(w):
        for j in range(d):
            row[k * d + j] = theta[k * (d + columns) + j] * inward
            row[w * (d + 1) + k * d + j] = theta[last + j * (w + columns) + k] * outward
        row[w * d + k] = theta[bias + k]
        if columns:
            row[w * d + k] += time * theta[k * (d + 1) + d]
    for j in range(d):
        total = theta[last_bias + j]
        if columns:
            total += time * theta[last + j * (w + 1) + w]
        row[2 * w * (d + 1) + j] = total * outward


@inner_function
def weights_vjp(shape, theta, scales, row, intermediates, bar, theta_bar, scratch):
    """Add the parameter gradient from the cotangents `bar` of a row of weights to `theta_bar`; overwrite `bar`."""
    d, w = shape.dim, shape.width
    for k in range(w):
        along = bar[w * (2 * d + 1) + k]
        for j in range(d):
            bar[k * d + j] += along * row[w * (d + 1) + k * d + j]
            bar[w * (d + 1) + k * d + j] += along * row[k * d + j]
    if shape.kind == HYPERNETWORK:
        _hypernetwork_vjp(shape, theta, scales, intermediates, bar, theta_bar, scratch)
    else:
        _affine_vjp(shape, scales, intermediates, bar, theta_bar)


@inner_function
def _hypernetwork_vjp(shape, theta, scales, intermediates, bar, theta_bar, scratch):
    d, w, h = shape.dim, shape.width, shape.hidden
    outputs, size = (3 * d + 1) * w, w * d
    one = theta.dtype.type(1)
    factor = theta.dtype.type(scales[2] / w)
    second, third = 2 * h, 2 * h + h * h + h
    out, gates = (
        2 * h,
        outputs,
    )  # offsets in `intermediates` and in `scratch`; `scratch` starts with the outputs' cotangents
    for i in range(size):
        scratch[i] = bar[i]
        scratch[gates + i] = intermediates[out + 2 * size + i]
    activate_array(SIGMOID, scratch[gates : gates + size], scratch[gates + size : gates + 2 * size])
    for i in range(size):
        value = bar[size + w + i] * factor
        scratch[size + i] = value * scratch[gates + i]
        scratch[2 * size + i] = value * intermediates[out + size + i] * scratch[gates + size + i]
    for k in range(w):
        scratch[3 * size + k] = bar[size + k]
    first_bar, second_bar = gates, gates + h
    fill(scratch[gates : gates + 2 * h], theta.dtype.type(0))
    for i in range(outputs):
        value = scratch[i]
        add_multiple(theta_bar, third + i * h, value, intermediates, h, h)
        theta_bar[third + outputs * h + i] += value
        add_multiple(scratch, second_bar, value, theta, third + i * h, h)
    for i in range(h):
        value = scratch[second_bar + i] * (one - intermediates[h + i] * intermediates[h + i])
        add_multiple(theta_bar, second + i * h, value, intermediates, np.intp(0), h)
        theta_bar[second + h * h + i] += value
        add_multiple(scratch, first_bar, value, theta, second + i * h, h)
    time = intermediates[intermediates.size - 1]
    for i in range(h):
        value = scratch[first_bar + i] * (one - intermediates[i] * intermediates[i])
        theta_bar[i] += value * time
        theta_bar[h + i] += value


@inner_function
def _affine_vjp(shape, scales, intermediates, bar, theta_bar):
    d, w, columns = shape.dim, shape.width, shape.hidden
    time = intermediates[0]
    inward, outward = bar.dtype.type(1 / scales[1]), bar.dtype.type(scales[2])
    bias = w * (d + columns)
    last = bias + w
    last_bias = last + d * (w + columns)
    for k in range(w):
        for j in range(d):
            theta_bar[k * (d + columns) + j] += bar[k * d + j] * inward
            theta_bar[last + j * (w + columns) + k] += bar[w * (d + 1) + k * d + j] * outward
        theta_bar[bias + k] += bar[w * d + k]
        if columns:
            theta_bar[k * (d + 1) + d] += bar[w * d + k] * time
    for j in range(d):
        value = bar[2 * w * (d + 1) + j] * outward
        theta_bar[last_bias + j] += value
        if columns:
            theta_bar[last + j * (w + 1) + w] += value * time
