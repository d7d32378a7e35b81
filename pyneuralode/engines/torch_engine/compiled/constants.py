"""Constants shared by compiled code and Python code; nothing here needs Numba."""

from ....fields import ACTIVATIONS, INPUT_MAPS

VECTOR_BYTES = 64
# The largest number of rows that dot products process at once.
MAX_DOT_ROWS = 8
# The index of an activation or an input map here is its number in compiled code.
MAP_NAMES = (*ACTIVATIONS, *(name for name in INPUT_MAPS if name not in ACTIVATIONS))
