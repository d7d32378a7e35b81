"""Vector fields: descriptions of the right-hand side dy/dt = f(t, y), shared by all engines."""

from .base import Parameters, VectorField, from_description, registered_fields
from .convolutions import ConcatConv
from .equations import Equations
from .formulas import FUNCTIONS
from .mechanisms import SEIR
from .networks import ACTIVATIONS, INPUT_MAPS, MLP, Linear
from .time_networks import ConcatMLP, GatedMLP, HyperMLP

__all__ = [
    "ACTIVATIONS",
    "FUNCTIONS",
    "INPUT_MAPS",
    "MLP",
    "SEIR",
    "ConcatConv",
    "ConcatMLP",
    "Equations",
    "GatedMLP",
    "HyperMLP",
    "Linear",
    "Parameters",
    "VectorField",
    "from_description",
    "registered_fields",
]
