"""Fields and tableaus as plain arrays of numbers, the form in which compiled code takes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ....fields import ACTIVATIONS, INPUT_MAPS, MLP, SEIR, Field, Linear
from ..tableaus import Tableau

VECTOR_BYTES = 64
NETWORK, COMPARTMENTS = 0, 1

# Columns of FieldPlan.layers, one row a layer of values (the input is layer 0): its width; the width in whole
# vectors; where its values and its slopes lie in a row of the tape; where the weights that lead to it and
# their biases lie among the parameters (-1: none); where the padded weights lie, transposed and as they are.
WIDTH, PADDED, VALUES, SLOPES, WEIGHTS, BIASES, FORWARD, BACKWARD = range(8)
# Entries of FieldPlan.head.
KIND, ACTIVATION, INPUT_MAP, VALUES_WIDTH, SLOPES_WIDTH, PACKED, WIDEST = range(7)

# How a march ends.
DONE, BAD_START, TOO_MANY, TOO_SMALL, NOT_FINITE = range(5)
# Entries of a march's `controls`.
FIRST_STEP, MIN_STEP, MAX_STEP, MAX_STEPS = range(4)


@dataclass(frozen=True)
class FieldPlan:
    """A described field: `head` and `layers` say what and where, `scales` are those of input and output."""

    head: np.ndarray
    layers: np.ndarray
    scales: np.ndarray
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class TableauPlan:
    """A tableau: `rows` of all stages, `ends` (weights of the solution, then of the error estimates), ..."""

    rows: np.ndarray
    ends: np.ndarray
    interpolant: np.ndarray
    numbers: np.ndarray


@lru_cache(maxsize=64)
def field_plan(field: Field, itemsize: int) -> FieldPlan | None:
    """Return the plan of a field for numbers of `itemsize` bytes, or None where no kernel knows the field."""
    if type(field) is MLP:
        sizes, kind, activation = field.sizes, NETWORK, ACTIVATIONS.index(field.activation)
        scales = (field.input_scale, field.output_scale)
    elif type(field) is Linear:
        sizes, kind, activation, scales = (field.dim, field.dim), NETWORK, 0, (1.0, 1.0)
    elif type(field) is SEIR:
        sizes, kind, activation, scales = (field.dim, field.dim), COMPARTMENTS, 0, (1.0, 1.0)
    else:
        return None
    lanes = VECTOR_BYTES // itemsize
    layers = np.zeros((len(sizes), 8), dtype=np.int64)
    layers[:, WIDTH] = sizes
    layers[:, PADDED] = -(-layers[:, WIDTH] // lanes) * lanes
    layers[1:, SLOPES] = layers[:-1, PADDED].cumsum()
    layers[:, VALUES] = layers[:, SLOPES]
    used = packed = 0
    for above, below in zip(layers[1:], layers):
        above[WEIGHTS], used = used, used + above[WIDTH] * below[WIDTH]
        above[BIASES] = used if type(field) is MLP else -1
        used += above[WIDTH] if type(field) is MLP else 0
        above[FORWARD], packed = packed, packed + (below[WIDTH] + 1) * above[PADDED]
        above[BACKWARD], packed = packed, packed + above[WIDTH] * below[PADDED]
    input_map = getattr(field, "input_map", "identity")
    padded = layers[:, PADDED]
    enter = INPUT_MAPS.index(input_map)
    head = [kind, activation, enter, padded[:-1].sum(), padded.sum(), packed, padded.max()]
    return FieldPlan(np.array(head, dtype=np.int64), layers, np.array(scales), field.shapes())


@lru_cache(maxsize=64)
def tableau_plan(tableau: Tableau) -> TableauPlan:
    s, all_stages = tableau.stages, len(tableau.interpolant)
    rows = np.zeros((all_stages, all_stages))
    rows[:s, :s] = tableau.A
    if tableau.extra_A is not None:
        rows[s:] = tableau.extra_A
    estimates = [] if tableau.error is None else list(tableau.error)
    ends = np.stack([tableau.b, *estimates])
    end_stage = -1 if tableau.end_stage is None else tableau.end_stage
    numbers = [s, tableau.order, end_stage, tableau.error_order or 0]
    return TableauPlan(rows, ends, np.array(tableau.interpolant), np.array(numbers, dtype=np.int64))
