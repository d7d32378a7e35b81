"""Vector fields: descriptions of what is integrated, which all engines share."""

from .base import (  # noqa: F401
    ACTIVATIONS,
    INPUT_MAPS,
    MLP,
    SEIR,
    Linear,
    Parameters,
    VectorField,
    _kinds,
    check_widths,
    from_description,
)
from .convolutions import ConcatConv  # noqa: F401
from .equations import Equations  # noqa: F401
from .time_networks import ConcatMLP, GatedMLP, HyperMLP  # noqa: F401
