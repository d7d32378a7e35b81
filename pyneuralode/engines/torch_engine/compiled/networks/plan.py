"""Conversion of small described fields (`VectorField`) and tableaus to numeric arrays, the input of compiled code."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .....fields import MLP, SEIR, Linear, VectorField
from .....tableaus import Tableau
from ..constants import MAP_NAMES, MAX_DOT_ROWS, VECTOR_BYTES
from ..tableau_plan import TableauPlan, tableau_plan

NETWORK, COMPARTMENTS = 0, 1

# Entries of a plan's table. For the field: its kind, its maps (as in MAP_NAMES), the number of samples in the state,
# the number of components of each sample, the index of the last layer, and the length of the record of one sample's
# evaluation.
KIND, INPUT_MAP, ACTIVATION, SAMPLES, DIM, LAST, RECORD = range(7)
# For the method: see NetworkScheme in .steps; `LEAD` is the length of a state in memory.
STAGES, ALL_STAGES, END_STAGE, ORDER, ERROR_ORDER, ESTIMATES, DEGREE, N, LEAD = range(7, 16)
# Offsets in the working memory: the scaled weights of the stages, for the forward pass, the backward pass and an
# output; the stages, their cotangents and the cotangents of their arguments; three states; scratch memory for one
# layer, the same number of zeros, and the number 1; and the end of the memory.
WEIGHTS, WEIGHTS_BACK, MIX, K, BARS, ARGUMENT_BARS, START, END, POINT, SCRATCH, ZEROS, ONE, WORK = range(16, 29)
# The rest of the table has one row for each layer of values (the input is layer 0).
LAYERS, COLUMNS = 29, 15
# The columns of a row: the width; the width padded to whole vectors, in numbers and in vectors; the offsets of its
# values and slopes in a record; the offsets of its weights and biases among the parameters (-1: none); the offsets in
# the working memory of the biases, of the weights by columns (one for each input) and by rows (one for each output),
# and of the sums of their gradients; whether the layer is computed by dot products with the rows, and the cotangent of
# its input by dot products with the columns; and whether the gradient is stored by columns.
(
    WIDTH, PADDED, VECTORS, VALUES, SLOPES, THETA, THETA_BIASES, BIASES, COLUMN_WEIGHTS, ROW_WEIGHTS, SUMS, BIAS_SUMS,
    BY_DOTS, VJP_BY_DOTS, GRADIENT_IN_COLUMNS,
) = range(COLUMNS)  # fmt: skip


class _Memory:
    """Allocates offsets in the working memory, each at the start of a vector."""

    def __init__(self, lanes: int):
        self.lanes, self.used = lanes, 0

    def take(self, count: int) -> int:
        start, self.used = self.used, self.used + -(-int(count) // self.lanes) * self.lanes
        return start


def has_kernels(field: object) -> bool:
    """Return whether a field has compiled kernels."""
    return type(field) in (MLP, Linear, SEIR)


@lru_cache(maxsize=64)
def solve_plan(field: VectorField, tableau: Tableau, dtype: np.dtype, samples: int) -> tuple[np.ndarray, ...]:
    """Return (table, scales, coefficients, interpolant), which encode the field, the method and the memory layout.

    `scales` are the scales of the field's input and output. `coefficients` contains the tableau in the state's dtype,
    in the layout of `NetworkScheme`; `interpolant` contains the polynomial coefficients of its interpolant.
    """
    lanes = VECTOR_BYTES // dtype.itemsize
    memory = _Memory(lanes)
    scales = (field.input_scale, field.output_scale) if type(field) is MLP else (1.0, 1.0)
    layers, record = _layers(field, memory, samples)
    method, rows = tableau_plan(tableau), len(tableau.interpolant)
    head = np.zeros(LAYERS, dtype=np.int64)
    head[KIND] = COMPARTMENTS if type(field) is SEIR else NETWORK
    head[[SAMPLES, DIM, LAST, RECORD]] = samples, field.dim, len(layers) - 1, record
    head[INPUT_MAP] = MAP_NAMES.index(getattr(field, "input_map", "identity"))
    head[ACTIVATION] = MAP_NAMES.index(getattr(field, "activation", "identity"))
    head[[STAGES, ORDER, END_STAGE, ERROR_ORDER]] = method.numbers
    head[[ALL_STAGES, ESTIMATES, DEGREE]] = rows, len(method.ends) - 1, method.interpolant.shape[1]
    # Kernels write whole vectors, starting at the first component of each sample.
    head[[N, LEAD]] = samples * field.dim, -(-(field.dim * (samples - 1)) // lanes) * lanes + layers[0, PADDED]
    widest = max(head[LEAD], layers[:, PADDED].max())
    sizes = {
        WEIGHTS: (rows + len(method.ends)) * rows, WEIGHTS_BACK: rows * (rows + 1), MIX: rows,
        K: rows * head[LEAD], BARS: rows * head[LEAD], ARGUMENT_BARS: (rows + 1) * head[LEAD],
        START: head[LEAD], END: head[LEAD], POINT: head[LEAD], SCRATCH: widest, ZEROS: widest, ONE: 1,
    }  # fmt: skip
    for place, size in sizes.items():
        head[place] = memory.take(size)
    head[WORK] = memory.used
    backward_weights = [_backward_weights(method, count) for count in (tableau.stages, rows)]
    coefficients = np.concatenate([table.ravel() for table in (method.rows, method.ends, *backward_weights)])
    table = np.concatenate([head, layers.ravel()])
    return table, np.array(scales), coefficients.astype(dtype), method.interpolant.ravel()


def _layers(field: VectorField, memory: _Memory, samples: int) -> tuple[np.ndarray, int]:
    """Return the rows of the table for the layers, and the length of a record."""
    lanes = memory.lanes
    biased, sizes = type(field) is MLP, field.sizes if type(field) is MLP else (field.dim, field.dim)
    layers = np.zeros((len(sizes), COLUMNS), dtype=np.int64)
    layers[:, WIDTH] = sizes
    layers[:, VECTORS] = -(-layers[:, WIDTH] // lanes)
    layers[:, PADDED] = layers[:, VECTORS] * lanes
    record, used = _Memory(lanes), 0
    for layer in layers[:-1]:
        layer[VALUES] = record.take(layer[PADDED])
    for layer in layers:
        layer[SLOPES] = record.take(layer[PADDED])
    for l, (below, layer) in enumerate(zip(layers, layers[1:]), start=1):
        layer[THETA], used = used, used + layer[WIDTH] * below[WIDTH]
        layer[THETA_BIASES] = used if biased else -1
        used += layer[WIDTH] if biased else 0
        across = layer[PADDED] * below[WIDTH] <= below[PADDED] * layer[WIDTH]
        layer[BIASES] = memory.take(layer[PADDED])
        layer[COLUMN_WEIGHTS] = memory.take(layer[PADDED] * below[WIDTH])
        layer[ROW_WEIGHTS] = memory.take(below[PADDED] * layer[WIDTH])
        layer[SUMS] = memory.take(layer[PADDED] * below[WIDTH] if across else below[PADDED] * layer[WIDTH])
        layer[BIAS_SUMS] = memory.take(layer[PADDED])
        # The padding of the input and the output in a record is not zero, so dot products cannot read it.
        layer[BY_DOTS] = l > 1 and _dots_pay(layer, below)
        layer[VJP_BY_DOTS] = l == 1 < len(sizes) - 1 and _dots_pay(below, layer)
        layer[GRADIENT_IN_COLUMNS] = across
    return layers, record.used


def _dots_pay(outputs: np.ndarray, inputs: np.ndarray) -> bool:
    """Return whether a matrix-vector product is faster as dot products; each final sum costs about two vectors."""
    return outputs[WIDTH] <= MAX_DOT_ROWS and outputs[WIDTH] * (inputs[VECTORS] + 2) < inputs[WIDTH] * (
        outputs[VECTORS] + 1
    )


def _backward_weights(method: TableauPlan, count: int) -> np.ndarray:
    """Return a table whose row i contains the weights of stage i in the rest of a step of `count` stages.

    The first column contains its weight in the state at the end of the step, the next columns its weights in the
    arguments of the stages, from the last stage down to stage i + 1. If a stage is evaluated at the state at the end,
    its column is zero, since the first column already contains these weights.
    """
    rows, end_stage = len(method.rows), method.numbers[2]
    table = np.zeros((rows, rows + 1))
    table[:, 0] = method.ends[0]
    for i in range(count):
        for j in range(i + 1, count):
            table[i, count - j] = 0 if j == end_stage else method.rows[j, i]
    return table
