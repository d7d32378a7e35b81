"""Exponentials that LLVM vectorises: straight-line arithmetic, good to a few units in the last place.

x = n log 2 + r with a whole n and |r| <= log(2) / 2; exp(r) from its Taylor series, 2^n made from its bits.
The constant log 2 is split in two, so that n log 2 is subtracted without rounding (Cody and Waite 1980).
Comparisons are written so that a NaN passes through.
"""

import math
from decimal import Decimal
from functools import cache
from types import SimpleNamespace

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic

from .kernels import contracted

_INTEGERS = {types.float64: types.int64, types.float32: types.int32}
_REALS = {integer: real for real, integer in _INTEGERS.items()}


@intrinsic
def _bits(typing, x):
    """Return the integer with the bits of a float."""
    integer = _INTEGERS[x]
    return integer(x), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], ir.IntType(integer.bitwidth)
    )


@intrinsic
def _real(typing, bits):
    """Return the float with the bits of an integer."""
    real = _REALS[bits]
    return real(bits), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], context.get_value_type(real)
    )


@cache
def elementary(real: type) -> SimpleNamespace:
    """Return the functions exp, expm1 (good for |x| <= 60), log1p (good on [0, 1]), tanh and sigmoid.

    `real` is np.float64 or np.float32; arguments and values are scalars of that type.
    """
    double = real is np.float64
    integer = np.int64 if double else np.int32
    mantissa = integer(52 if double else 23)
    bias = integer(1023 if double else 127)
    one, two = real(1), real(2)
    per_log2 = real(1 / math.log(2))
    # Added to a small number, it leaves the nearest whole number in the last bits.
    shift = real(1.5 * 2.0**mantissa)
    shift_bits = integer(shift.view(integer))
    log2 = Decimal(2).ln()
    high = round(log2 * (2**32 if double else 2**9)) / (2**32 if double else 2**9)
    log2_high, log2_low = real(high), real(float(log2 - Decimal(high)))
    lowest, highest = (real(-746), real(710)) if double else (real(-104), real(89))
    flat = real(20)
    # Further terms are below half a unit in the last place.
    powers = tuple(real(1 / math.factorial(n)) for n in range(13 if double else 8, 1, -1))
    odd = tuple(real(2 / (2 * n + 1)) for n in range(16 if double else 8, 0, -1))
    series, more_powers = powers[0], powers[1:]
    area, more_odd = odd[0], odd[1:]


    @contracted
    def split(x):
        whole = x * per_log2 + shift
        n = whole - shift
        return _bits(whole) - shift_bits, (x - n * log2_high) - n * log2_low

    @contracted
    def rise(r):
        """exp(r) - 1 for small r."""
        total = series
        for term in more_powers:
            total = total * r + term
        return r + r * r * total

    @contracted
    def power(n):
        """2^n for n in the range of normal numbers."""
        return _real(integer((n + bias) << mantissa))

    @contracted
    def exp(x):
        x = highest if x > highest else x
        x = lowest if x < lowest else x
        n, r = split(x)
        half = integer(n >> integer(1))
        # In two steps, as 2^n itself may overflow.
        return (one + rise(r)) * power(half) * power(integer(n - half))

    @contracted
    def expm1(x):
        n, r = split(x)
        scale = power(n)
        return scale * rise(r) + (scale - one)

    @contracted
    def log1p(x):
        """2 artanh(s) with s = x / (2 + x)."""
        s = x / (two + x)
        square = s * s
        total = area
        for term in more_odd:
            total = total * square + term
        return two * s + s * square * total

    @contracted
    def tanh(x):
        size = abs(x)
        size = flat if size > flat else size
        rising = expm1(two * size)
        return math.copysign(rising / (rising + two), x)

    @contracted
    def sigmoid(x):
        return one / (one + exp(-x))

    return SimpleNamespace(exp=exp, expm1=expm1, log1p=log1p, tanh=tanh, sigmoid=sigmoid)
