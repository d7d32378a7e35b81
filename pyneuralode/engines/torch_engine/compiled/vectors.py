"""Functions on flat arrays that are read and written in whole SIMD vectors."""

import numpy as np
from numba.extending import overload

from .compilation import allocating_function, inner_function
from .constants import VECTOR_BYTES
from .llvm_codegen import at, pointer
from .products import accumulate, column


def lanes(array):
    """Return the number of SIMD lanes for the array's dtype."""
    return VECTOR_BYTES // array.itemsize


@overload(lanes)  # not inline: after inlining, Numba would remove stores through pointers as dead code
def _lanes(array):
    count = VECTOR_BYTES * 8 // array.dtype.bitwidth
    return lambda array: count


@allocating_function
def aligned(size, like):
    """Return an uninitialized array of `size` numbers with the dtype of `like`, aligned to the size of a vector."""
    buffer = np.empty(size + lanes(like), like.dtype)
    skip = (-buffer.ctypes.data) % VECTOR_BYTES // buffer.itemsize
    return buffer[skip : skip + size]


@inner_function
def fill(array, number):
    for i in range(array.size):
        array[i] = number


@inner_function
def copy(out, array, size):
    """Copy array[:size] to out[:size] in a loop.

    Numba takes about a second to compile a slice assignment, because of its checks and error handling.
    """
    for i in range(size):
        out[i] = array[i]


@inner_function
def add_rows(out, o, weights, w, dw, matrix, m, dm, rows, width):
    """Add the sum over i < rows of weights[w + i dw] matrix[m + i dm + j] to out[o + j], for j < width.

    All arrays are flat; `width` is a multiple of the vector length.
    """
    sums = at(pointer(out), o)
    column(sums, sums, at(pointer(matrix), m), dm, at(pointer(weights), w), dw, rows, width // lanes(out))


@inner_function
def add_products(sums, o, a, i, b, j, count):
    """Add the products of a[i:] and b[j:], `count` numbers (whole vectors), to the vector at sums[o:], lane by lane."""
    accumulate(at(pointer(sums), o), at(pointer(a), i), at(pointer(b), j), count // lanes(sums))
