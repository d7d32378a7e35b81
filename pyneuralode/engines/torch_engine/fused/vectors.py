"""SIMD vectors for Numba: a 64-byte vector type, and the one loop nest of all the linear algebra here.

LLVM's automatic vectoriser leaves up to a factor of two on matrices of some tens of rows: it checks for
overlap and treats the last few columns one by one. Here rows are padded to whole vectors and sums stay in
registers. On processors with shorter vectors LLVM splits each into several.
"""

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from .kernels import maker, part

BYTES = 64


class Vector(types.Type):
    """A vector of `lanes` numbers of the Numba type `real`."""

    def __init__(self, real):
        self.real, self.lanes = real, BYTES * 8 // real.bitwidth
        super().__init__(name=f"Vector({real}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.real).get_value_type(), kind.lanes))


def lanes(array):
    """Return how many numbers of the array's dtype make a vector."""
    return BYTES // array.itemsize


@overload(lanes, inline="always")
def _lanes(array):
    count = BYTES * 8 // array.dtype.bitwidth
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
def spread(typing, array, index):
    """Return a vector that holds ``array[index]`` in every lane."""
    vector = Vector(array.dtype)

    def generate(context, builder, signature, arguments):
        number = builder.load(_address(context, builder, signature.args[0], *arguments))
        kind, integer = context.get_value_type(vector), ir.IntType(32)
        nothing = ir.Constant(kind, ir.Undefined)
        lane = builder.insert_element(nothing, number, ir.Constant(integer, 0))
        return builder.shuffle_vector(lane, nothing, ir.Constant(ir.VectorType(integer, vector.lanes), None))

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


@intrinsic
def plus(typing, a, b):
    return a(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def times(typing, a, b):
    return a(a, b), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@maker
def aligned(size, like):
    """Return `size` uninitialised numbers of the dtype of `like`, starting on a whole vector."""
    room = np.empty(size + lanes(like), like.dtype)
    skip = (-room.ctypes.data) % BYTES // room.itemsize
    return room[skip : skip + size]


@part
def fill(array, number):
    for i in range(array.size):
        array[i] = number


@part
def copy(out, array, size):
    """out[:size] = array[:size]; Numba's own compiles for a second, for its error messages."""
    for i in range(size):
        out[i] = array[i]


@part
def add_rows(out, o, weights, w, dw, matrix, m, dm, rows, width):
    """out[o + j] += sum over i < rows of weights[w + i dw] matrix[m + i dm + j], for j < width.

    All arrays are flat; `width` counts whole vectors.
    """
    n = lanes(out)
    j = 0
    while j + 4 * n <= width:
        a, b = load(out, o + j), load(out, o + j + n)
        c, d = load(out, o + j + 2 * n), load(out, o + j + 3 * n)
        p, q = m + j, w
        for _ in range(rows):
            x = spread(weights, q)
            a = muladd(x, load(matrix, p), a)
            b = muladd(x, load(matrix, p + n), b)
            c = muladd(x, load(matrix, p + 2 * n), c)
            d = muladd(x, load(matrix, p + 3 * n), d)
            p += dm
            q += dw
        store(out, o + j, a)
        store(out, o + j + n, b)
        store(out, o + j + 2 * n, c)
        store(out, o + j + 3 * n, d)
        j += 4 * n
    # The further sums of narrow matrices hide the latency of the additions.
    while j + 2 * n <= width:
        a, b = load(out, o + j), load(out, o + j + n)
        p, q, i = m + j, w, 0
        if rows > 3:
            x, y = spread(weights, q), spread(weights, q + dw)
            a, b = muladd(x, load(matrix, p), a), muladd(x, load(matrix, p + n), b)
            c, d = times(y, load(matrix, p + dm)), times(y, load(matrix, p + dm + n))
            p, q, i = p + 2 * dm, q + 2 * dw, 2
            while i + 1 < rows:
                x, y = spread(weights, q), spread(weights, q + dw)
                a, b = muladd(x, load(matrix, p), a), muladd(x, load(matrix, p + n), b)
                c, d = muladd(y, load(matrix, p + dm), c), muladd(y, load(matrix, p + dm + n), d)
                p, q, i = p + 2 * dm, q + 2 * dw, i + 2
            a, b = plus(a, c), plus(b, d)
        while i < rows:
            x = spread(weights, q)
            a, b = muladd(x, load(matrix, p), a), muladd(x, load(matrix, p + n), b)
            p, q, i = p + dm, q + dw, i + 1
        store(out, o + j, a)
        store(out, o + j + n, b)
        j += 2 * n
    if j < width:
        a = load(out, o + j)
        p, q, i = m + j, w, 0
        if rows > 3:
            b = times(spread(weights, q), load(matrix, p))
            c = times(spread(weights, q + dw), load(matrix, p + dm))
            d = times(spread(weights, q + 2 * dw), load(matrix, p + 2 * dm))
            p, q, i = p + 3 * dm, q + 3 * dw, 3
            while i + 3 < rows:
                a = muladd(spread(weights, q), load(matrix, p), a)
                b = muladd(spread(weights, q + dw), load(matrix, p + dm), b)
                c = muladd(spread(weights, q + 2 * dw), load(matrix, p + 2 * dm), c)
                d = muladd(spread(weights, q + 3 * dw), load(matrix, p + 3 * dm), d)
                p, q, i = p + 4 * dm, q + 4 * dw, i + 4
            a = plus(plus(a, b), plus(c, d))
        while i < rows:
            a = muladd(spread(weights, q), load(matrix, p), a)
            p, q, i = p + dm, q + dw, i + 1
        store(out, o + j, a)
