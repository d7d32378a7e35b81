"""Kernels for network fields: the slope, its vector-Jacobian product, and the parameter gradient from the tape.

`net` is the table of a plan and `work` the working memory. An evaluation writes a record of each sample to the tape:
the values of the input map and of each hidden layer, and their derivatives. The vector-Jacobian product turns the
derivatives into the cotangents of the pre-activations. The gradient of each weight matrix is then one product of the
cotangents with the values, over many records at once.
"""

from ..activations import activate
from ..compilation import inner_function
from ..llvm_codegen import at
from ..products import column, copy_numbers, dots, outer, times_plus
from . import compartments
from .plan import (
    ACTIVATION,
    BIAS_SUMS,
    BIASES,
    BY_DOTS,
    COLUMN_WEIGHTS,
    COLUMNS,
    COMPARTMENTS,
    DIM,
    GRADIENT_IN_COLUMNS,
    INPUT_MAP,
    KIND,
    LAST,
    LAYERS,
    PADDED,
    RECORD,
    ROW_WEIGHTS,
    SAMPLES,
    SCRATCH,
    SLOPES,
    SUMS,
    THETA,
    THETA_BIASES,
    VALUES,
    VECTORS,
    VJP_BY_DOTS,
    WIDTH,
    ZEROS,
)  # fmt: skip


@inner_function
def layer_of(net, l):
    """Return a pointer to the row of layer l in the table."""
    return at(net, LAYERS + COLUMNS * l)


@inner_function
def scales_of(net, scales, l):
    """Return the factors for the weights and for the biases of layer l, which include the field's scales."""
    outward = scales[1] if l == net[LAST] else 1.0
    return outward / scales[0] if l == 1 else outward, outward


@inner_function
def load_parameters(net, work, scales, theta):
    """Copy the parameters to padded vectors, the weights both by columns and by rows."""
    if net[KIND] == COMPARTMENTS:
        copy_numbers(work, theta, 3)
        return
    for l in range(1, net[LAST] + 1):
        below, layer = layer_of(net, l - 1), layer_of(net, l)
        n_in, n_out = below[WIDTH], layer[WIDTH]
        scale, bias_scale = scales_of(net, scales, l)
        for j in range(n_out):
            row, row_weights = at(theta, layer[THETA] + j * n_in), at(work, layer[ROW_WEIGHTS] + j * below[PADDED])
            for i in range(n_in):
                row_weights[i] = row[i] * scale
        for i in range(n_in):
            row, column_weights = at(work, layer[ROW_WEIGHTS] + i), at(work, layer[COLUMN_WEIGHTS] + i * layer[PADDED])
            step = below[PADDED]
            for j in range(n_out):
                column_weights[j] = row[j * step]
        if layer[THETA_BIASES] >= 0:
            for j in range(n_out):
                work[layer[BIASES] + j] = theta[layer[THETA_BIASES] + j] * bias_scale


@inner_function
def evaluate(net, work, y, k, record):
    """Set k = f(y), and write a record of each sample's evaluation."""
    if net[KIND] == COMPARTMENTS:
        compartments.evaluate(net, work, y, k, record)
        return
    last = net[LAST]
    for _ in range(net[SAMPLES]):
        layer = layer_of(net, 0)
        activate(net[INPUT_MAP], y, record, at(record, layer[SLOPES]), layer[PADDED])
        for l in range(1, last + 1):
            below, layer = layer, at(layer, COLUMNS)
            inputs, out = at(record, below[VALUES]), k if l == last else at(record, layer[VALUES])
            biases = at(work, layer[BIASES])
            if layer[BY_DOTS] != 0:
                dots(out, biases, at(work, layer[ROW_WEIGHTS]), below[PADDED], inputs, below[VECTORS], layer[WIDTH])
            else:
                column(
                    out, biases, at(work, layer[COLUMN_WEIGHTS]), layer[PADDED], inputs, 1, below[WIDTH], layer[VECTORS]
                )
            if l < last:
                activate(net[ACTIVATION], out, out, at(record, layer[SLOPES]), layer[PADDED])
        y, k, record = at(y, net[DIM]), at(k, net[DIM]), at(record, net[RECORD])


@inner_function
def vjp(net, work, record, bar, init, out):
    """Set out = init + J^T bar, with the Jacobian J of the evaluation that wrote the records; overwrite the records."""
    if net[KIND] == COMPARTMENTS:
        compartments.vjp(net, work, record, bar, init, out)
        return
    scratch, zeros = at(work, net[SCRATCH]), at(work, net[ZEROS])
    for _ in range(net[SAMPLES]):
        layer = layer_of(net, net[LAST])
        copy_numbers(at(record, layer[SLOPES]), bar, layer[PADDED])
        for l in range(net[LAST], 0, -1):
            below, bars = at(layer, -COLUMNS), at(record, layer[SLOPES])
            if l == 1 and layer[VJP_BY_DOTS] != 0:
                dots(scratch, zeros, at(work, layer[COLUMN_WEIGHTS]), layer[PADDED], bars, layer[VECTORS], below[WIDTH])
            else:
                column(
                    scratch, zeros, at(work, layer[ROW_WEIGHTS]), below[PADDED], bars, 1, layer[WIDTH], below[VECTORS]
                )
            slopes = at(record, below[SLOPES])
            if l > 1:
                times_plus(slopes, slopes, scratch, zeros, below[PADDED])
            else:
                times_plus(out, slopes, scratch, init, below[PADDED])
            layer = below
        bar, init, out, record = at(bar, net[DIM]), at(init, net[DIM]), at(out, net[DIM]), at(record, net[RECORD])


@inner_function
def add_gradient(net, work, record, count, ones):
    """Add the contributions of `count` records to the sums for the parameter gradient; `ones` points to a 1."""
    if net[KIND] == COMPARTMENTS:
        compartments.add_gradient(net, work, record, count)
        return
    size = net[RECORD]
    for l in range(1, net[LAST] + 1):
        below, layer = layer_of(net, l - 1), layer_of(net, l)
        values, bars, sums = at(record, below[VALUES]), at(record, layer[SLOPES]), at(work, layer[SUMS])
        if layer[GRADIENT_IN_COLUMNS] != 0:
            outer(sums, layer[PADDED], bars, size, values, size, count, layer[VECTORS], below[WIDTH])
        else:
            outer(sums, below[PADDED], values, size, bars, size, count, below[VECTORS], layer[WIDTH])
        if layer[THETA_BIASES] >= 0:
            total = at(work, layer[BIAS_SUMS])
            column(total, total, bars, size, ones, 0, count, layer[VECTORS])


@inner_function
def store_gradient(net, work, scales, gradient):
    """Write the parameter gradient to `gradient`, in the layout of theta."""
    if net[KIND] == COMPARTMENTS:
        copy_numbers(gradient, at(work, layer_of(net, 1)[SUMS]), 3)
        return
    for l in range(1, net[LAST] + 1):
        below, layer = layer_of(net, l - 1), layer_of(net, l)
        n_in, n_out = below[WIDTH], layer[WIDTH]
        scale, bias_scale = scales_of(net, scales, l)
        down, right = (1, layer[PADDED]) if layer[GRADIENT_IN_COLUMNS] != 0 else (below[PADDED], 1)
        for j in range(n_out):
            to, sums = at(gradient, layer[THETA] + j * n_in), at(work, layer[SUMS] + j * down)
            for i in range(n_in):
                to[i] = sums[i * right] * scale
        if layer[THETA_BIASES] >= 0:
            for j in range(n_out):
                gradient[layer[THETA_BIASES] + j] = work[layer[BIAS_SUMS] + j] * bias_scale
