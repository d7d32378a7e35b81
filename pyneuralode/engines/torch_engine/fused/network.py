"""Kernels of the fields: slope, vector-Jacobian product, and the parameters' gradient from the tape.

An evaluation leaves one row a sample on the tape. `values` holds the input and each hidden layer's output,
`slopes` the derivatives of the input map and of the activations; the vector-Jacobian product turns the slopes
into the cotangents of the pre-activations, and the gradient of each weight matrix is then one product of the
cotangents with the values, over all rows at once.
"""

from typing import NamedTuple

import numpy as np

from .activations import activate
from .kernels import maker, part
from .plan import (
    ACTIVATION, BACKWARD, BIASES, COMPARTMENTS, FORWARD, INPUT_MAP, KIND, PACKED, PADDED, SLOPES,
    SLOPES_WIDTH, VALUES, VALUES_WIDTH, WEIGHTS, WIDEST, WIDTH,
)
from .vectors import add_rows, aligned, fill

SQUARE, CUBE = 1, 2
ROWS_AT_ONCE = 32


class Net(NamedTuple):
    """A field and its parameters, as compiled code passes them around."""

    head: np.ndarray
    layers: np.ndarray
    scales: np.ndarray
    theta: np.ndarray
    packed: np.ndarray
    scratch: np.ndarray
    samples: int


@maker
def make_net(head, layers, scales, theta, samples):
    """Return the net with its weights padded to whole vectors, transposed and as they are."""
    packed = aligned(head[PACKED], theta)
    fill(packed, 0)
    if head[KIND] != COMPARTMENTS:
        for l in range(1, len(layers)):
            n_in, n_out = layers[l - 1, WIDTH], layers[l, WIDTH]
            p_in, p_out = layers[l - 1, PADDED], layers[l, PADDED]
            ahead, back = layers[l, FORWARD], layers[l, BACKWARD]
            weights, biases = layers[l, WEIGHTS], layers[l, BIASES]
            for j in range(n_out):
                for i in range(n_in):
                    weight = theta[weights + j * n_in + i]
                    packed[back + j * p_in + i] = weight
                    packed[ahead + i * p_out + j] = weight
                if biases >= 0:
                    packed[ahead + n_in * p_out + j] = theta[biases + j]
    scratch = aligned(head[WIDEST], theta)
    return Net(head, layers, scales.astype(theta.dtype), theta, packed, scratch, samples)


@part
def evaluate(net, y, k, at, values, slopes, row):
    """k[at:] = f(y), leaving the evaluation's rows on the tape."""
    if net.head[KIND] == COMPARTMENTS:
        _compartments(net, y, k, at, values, row)
        return
    layers, packed = net.layers, net.packed
    none, one = np.intp(0), np.intp(1)
    last = len(layers) - 1
    dim, kind, enter = layers[0, WIDTH], net.head[ACTIVATION], net.head[INPUT_MAP]
    scale_in, scale_out = net.scales[0], net.scales[1]
    for sample in range(net.samples):
        v = (row * net.samples + sample) * net.head[VALUES_WIDTH]
        s = (row * net.samples + sample) * net.head[SLOPES_WIDTH]
        for i in range(dim):
            x = y[sample * dim + i]
            if enter == CUBE:
                values[v + i], slopes[s + i] = x * x * x / scale_in, (x + x + x) * x / scale_in
            elif enter == SQUARE:
                values[v + i], slopes[s + i] = x * x / scale_in, (x + x) / scale_in
            else:
                values[v + i] = x / scale_in
        for l in range(1, last + 1):
            width, padded, ahead = layers[l - 1, WIDTH], layers[l, PADDED], layers[l, FORWARD]
            out, o = (values, v + layers[l, VALUES]) if l < last else (net.scratch, none)
            bias = ahead + width * padded
            for j in range(padded):
                out[o + j] = packed[bias + j]
            add_rows(out, o, values, v + layers[l - 1, VALUES], one, packed, ahead, padded, width, padded)
            if l < last:
                d = s + layers[l, SLOPES]
                activate(kind, values[o : o + padded], slopes[d : d + padded])
        for i in range(dim):
            k[at + sample * dim + i] = net.scratch[i] * scale_out


@part
def pull_back(net, cotangent, at, adjoint, values, slopes, row, rates):
    """adjoint += J^T cotangent[at:] with the Jacobian J of the evaluation that left `row`."""
    if net.head[KIND] == COMPARTMENTS:
        _pull_back_compartments(net, cotangent, at, adjoint, values, row, rates)
        return
    none, one = np.intp(0), np.intp(1)
    layers, packed, scratch = net.layers, net.packed, net.scratch
    last = len(layers) - 1
    dim, enter = layers[0, WIDTH], net.head[INPUT_MAP]
    for sample in range(net.samples):
        s = (row * net.samples + sample) * net.head[SLOPES_WIDTH]
        delta = s + layers[last, SLOPES]
        for i in range(dim):
            slopes[delta + i] = cotangent[at + sample * dim + i] * net.scales[1]
        for l in range(last, 0, -1):
            width, padded, back = layers[l, WIDTH], layers[l - 1, PADDED], layers[l, BACKWARD]
            above, below = s + layers[l, SLOPES], s + layers[l - 1, SLOPES]
            for j in range(padded):
                scratch[j] = 0
            add_rows(scratch, none, slopes, above, one, packed, back, padded, width, padded)
            if l > 1:
                for j in range(padded):
                    slopes[below + j] *= scratch[j]
        for i in range(dim):
            factor = slopes[s + i] if enter == CUBE or enter == SQUARE else 1 / net.scales[0]
            adjoint[sample * dim + i] += scratch[i] * factor


@maker
def add_gradient(net, values, slopes, rows, gradient, unit):
    """gradient += the parameters' gradient from the tape's first `rows` rows; `unit` is an array of one 1."""
    layers = net.layers
    if net.head[KIND] == COMPARTMENTS:
        return
    none = np.intp(0)
    across, down = net.head[VALUES_WIDTH], net.head[SLOPES_WIDTH]
    for l in range(1, len(layers)):
        n_in, n_out = layers[l - 1, WIDTH], layers[l, WIDTH]
        p_in, p_out = layers[l - 1, PADDED], layers[l, PADDED]
        total = aligned(n_out * p_in, gradient)
        fill(total, 0)
        v, d = layers[l - 1, VALUES], layers[l, SLOPES]
        for first in range(0, rows, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, rows - first)
            a, b = first * down + d, first * across + v
            for j in range(n_out):
                add_rows(total, j * p_in, slopes, a + j, down, values, b, across, count, p_in)
        for j in range(n_out):
            for i in range(n_in):
                gradient[layers[l, WEIGHTS] + j * n_in + i] += total[j * p_in + i]
        if layers[l, BIASES] >= 0:
            total = aligned(p_out, gradient)
            fill(total, 0)
            add_rows(total, none, unit, none, none, slopes, d, down, rows, p_out)
            for j in range(n_out):
                gradient[layers[l, BIASES] + j] += total[j]


@part
def _compartments(net, y, k, at, values, row):
    gamma, ratio, sigma = net.theta[0], net.theta[1], net.theta[2]
    for sample in range(net.samples):
        first = (row * net.samples + sample) * net.head[VALUES_WIDTH]
        for i in range(4):
            values[first + i] = y[4 * sample + i]
        exposed, infectious = y[4 * sample + 1], y[4 * sample + 2]
        infected = gamma * ratio * y[4 * sample] * infectious
        o = at + 4 * sample
        k[o] = -infected
        k[o + 1] = infected - sigma * exposed
        k[o + 2] = sigma * exposed - gamma * infectious
        k[o + 3] = gamma * infectious


@part
def _pull_back_compartments(net, cotangent, at, adjoint, values, row, rates):
    gamma, ratio, sigma = net.theta[0], net.theta[1], net.theta[2]
    for sample in range(net.samples):
        first = (row * net.samples + sample) * net.head[VALUES_WIDTH]
        susceptible, exposed, infectious = values[first], values[first + 1], values[first + 2]
        a = at + 4 * sample
        infection = cotangent[a + 1] - cotangent[a]
        onset = cotangent[a + 2] - cotangent[a + 1]
        recovery = cotangent[a + 3] - cotangent[a + 2]
        adjoint[4 * sample] += infection * gamma * ratio * infectious
        adjoint[4 * sample + 1] += onset * sigma
        adjoint[4 * sample + 2] += infection * gamma * ratio * susceptible + recovery * gamma
        rates[0] += infection * ratio * susceptible * infectious + recovery * infectious
        rates[1] += infection * gamma * susceptible * infectious
        rates[2] += onset * exposed
