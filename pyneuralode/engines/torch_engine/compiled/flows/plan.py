"""Conversion of the fields of compiled flows to plain numeric arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .....fields import ACTIVATIONS, MLP, ConcatMLP, HyperMLP, VectorField

HYPERNETWORK, AFFINE = 0, 1
# Activations whose second derivative follows from the value and the first derivative.
SUPPORTED_ACTIVATIONS = ("identity", "tanh", "relu", "softplus", "elu", "sigmoid", "sin")


@dataclass(frozen=True)
class FlowPlan:
    """A field with one hidden layer: its `weights.FlowShape` as `head`, and the scales of time, input and output."""

    head: tuple[int, int, int, int, int]
    scales: np.ndarray
    shapes: dict[str, tuple[int, ...]]


@lru_cache(maxsize=64)
def flow_plan(field: VectorField) -> FlowPlan | None:
    """Return the plan of a field, or None if the field has no compiled kernels."""
    if type(field) is HyperMLP:
        head = HYPERNETWORK, ACTIVATIONS.index("tanh"), field.dim, field.width, field.hidden
        scales = [field.time_scale, 1.0, field.output_scale]
    elif (
        type(field) is MLP
        and len(field.sizes) == 3
        and field.input_map == "identity"
        and field.activation in SUPPORTED_ACTIVATIONS
    ):
        head = AFFINE, ACTIVATIONS.index(field.activation), field.dim, field.sizes[1], 0
        scales = [1.0, field.input_scale, field.output_scale]
    elif type(field) is ConcatMLP and len(field.sizes) == 3 and field.activation in SUPPORTED_ACTIVATIONS:
        head = AFFINE, ACTIVATIONS.index(field.activation), field.dim, field.sizes[1], 1
        scales = [field.time_scale, 1.0, field.output_scale]
    else:
        return None
    return FlowPlan(head, np.array(scales), field.shapes())
