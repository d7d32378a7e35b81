"""Numbers that compiled code and the Python code beside it share; nothing here needs Numba."""

from ....fields import ACTIVATIONS, INPUT_MAPS

VECTOR_BYTES = 64
# Most rows of a product that dot products take at once.
MAX_DOT_ROWS = 8
# The position of an activation or an input map here is its number in compiled code.
MAP_NAMES = (*ACTIVATIONS, *(name for name in INPUT_MAPS if name not in ACTIVATIONS))
