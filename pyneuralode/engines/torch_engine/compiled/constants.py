"""Constants shared by compiled code and Python code; this module does not need Numba."""

from ....fields import ACTIVATIONS, INPUT_MAPS

VECTOR_BYTES = 64
# The largest number of rows that dot products process at once.
MAX_DOT_ROWS = 8
# Compiled code identifies an activation or an input map by its index in this tuple.
MAP_NAMES = (*ACTIVATIONS, *(name for name in INPUT_MAPS if name not in ACTIVATIONS))
