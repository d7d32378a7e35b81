"""Flat arrays that are read and written in whole vectors, and a vector type for Numba."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from .compilation import allocating_function, inner_function
from .constants import VECTOR_BYTES
from .llvm_codegen import at, pointer
from .products import column


class Vector(types.Type):
    """A vector of `lanes` numbers of the Numba type `real`."""

    def __init__(self, real):
        self.real, self.lanes = real, VECTOR_BYTES * 8 // real.bitwidth
        super().__init__(name=f"Vector({real}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.real).get_value_type(), kind.lanes))


def lanes(array):
    """Return how many numbers of the array's dtype make a vector."""
    return VECTOR_BYTES // array.itemsize


@overload(lanes)  # not inline: after inlining, Numba would take stores through pointers for dead code
def _lanes(array):
    count = VECTOR_BYTES * 8 // array.dtype.bitwidth
    return lambda array: count


def _address(context, builder, kind, array, index):
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


@intrinsic
def load(typing, array, index):
    """Return the vector at `index` of a flat array."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, signature.args[0], *arguments)
        address = builder.bitcast(address, context.get_value_type(vector).as_pointer())
        return builder.load(address, align=array.dtype.bitwidth // 8)

    return vector(array, types.intp), generate


@intrinsic
def store(typing, array, index, vector):
    """Write a vector to `index` of a flat array."""

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, signature.args[0], *arguments[:2])
        address = builder.bitcast(address, context.get_value_type(vector).as_pointer())
        builder.store(arguments[2], address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def muladd(typing, a, b, c):
    """Return a b + c, in one rounding where the processor can."""

    def generate(context, builder, signature, arguments):
        product = builder.fmul(*arguments[:2], flags=["contract"])
        return builder.fadd(product, arguments[2], flags=["contract"])

    return a(a, b, c), generate


@allocating_function
def aligned(size, like):
    """Return `size` uninitialized numbers of the dtype of `like`, starting on a whole vector."""
    buffer = np.empty(size + lanes(like), like.dtype)
    skip = (-buffer.ctypes.data) % VECTOR_BYTES // buffer.itemsize
    return buffer[skip : skip + size]


@inner_function
def fill(array, number):
    for i in range(array.size):
        array[i] = number


@inner_function
def copy(out, array, size):
    """out[:size] = array[:size]; Numba's own slice assignment takes a second to compile, for its error messages."""
    for i in range(size):
        out[i] = array[i]


@inner_function
def add_rows(out, o, weights, w, dw, matrix, m, dm, rows, width):
    """out[o + j] += sum over i < rows of weights[w + i dw] matrix[m + i dm + j], for j < width.

    All arrays are flat; `width` counts whole vectors.
    """
    sums = at(pointer(out), o)
    column(sums, sums, at(pointer(matrix), m), dm, at(pointer(weights), w), dw, rows, width // lanes(out))
