"""Exponentials of whole vectors: straight-line arithmetic, accurate to a few units in the last place.

x = n log 2 + r with an integer n and |r| <= log(2) / 2; exp(r) is computed by its Taylor series, and 2^n by setting the
exponent's bits. The constant log 2 is split in two, so that n log 2 is subtracted without rounding (Cody and Waite
1980). Comparisons are written so that NaN is propagated. All functions take and return a `Number`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from .llvm_codegen import Number

# More terms would be below half a unit in the last place.
_TAYLOR = {double: [1 / math.factorial(n) for n in range(2, 14 if double else 9)] for double in (True, False)}
_AREA = {double: [2 / (2 * n + 1) for n in range(1, 17 if double else 9)] for double in (True, False)}


def _shift(x: Number) -> float:
    """Return the constant that, added to a small number, leaves the nearest integer in the last bits of the sum."""
    return 1.5 * 2.0 ** (52 if x.double else 23)


def polynomial(x: Number, coefficients: Sequence[float]) -> Number:
    """Return the value at x of the polynomial with these coefficients, starting with the constant term.

    Estrin's scheme combines pairs of terms, then pairs of pairs; its chains of dependent operations are shorter than
    those of Horner's scheme.
    """
    terms = [x.like(c) for c in coefficients]
    while len(terms) > 1:
        odd = terms[-1:] if len(terms) % 2 else []
        terms = [b * x + a for a, b in zip(terms[::2], terms[1::2])] + odd
        x = x * x
    return terms[0]


def split(x: Number) -> tuple[Number, Number]:
    """Split x = n log 2 + r; return `whole`, a number whose last bits are n, and exp(r) - 1."""
    high = round(Decimal(2).ln() * (2**32 if x.double else 2**9)) / (2**32 if x.double else 2**9)
    whole = x * (1 / math.log(2)) + _shift(x)
    n = whole - _shift(x)
    r = (x - n * high) - n * float(Decimal(2).ln() - Decimal(high))
    return whole, r * r * polynomial(r, _TAYLOR[x.double]) + r


def power(whole: Number) -> Number:
    """Return 2^n, where n is the integer in the last bits of `whole`.

    n must be the exponent of a normal number or one more than the largest such exponent, which gives infinity.
    """
    mantissa, bias = (52, 1023) if whole.double else (23, 127)
    add, shift = whole.builder.add, whole.builder.shl
    # The shift to the exponent's position drops the bits before n.
    return whole.bits(lambda constant, bits: shift(add(bits, constant(bias)), constant(mantissa)))


def halves(whole: Number) -> tuple[Number, Number]:
    """Return numbers whose last bits are n // 2 and n - n // 2, where n is the integer in the last bits of `whole`."""
    half = (whole - _shift(whole)) * 0.5 - 0.25 + _shift(whole)
    return half, whole - half + _shift(whole)


def exp(x: Number) -> Number:
    lowest, highest = (-746, 710) if x.double else (-104, 89)
    whole, rise = split(x.at_most(highest).at_least(lowest))
    # Multiply in two steps, as 2^n itself may overflow or be too small for a normal number.
    first, second = halves(whole)
    return (rise + 1) * power(first) * power(second)


def expm1(x: Number) -> Number:
    """Return exp(x) - 1 for |x| <= 60."""
    whole, rise = split(x)
    scale = power(whole)
    return scale * rise + (scale - 1)


def log1p(x: Number) -> Number:
    """Return log(1 + x) for x in [0, 1], as 2 artanh(s) with s = x / (2 + x)."""
    s = x / (x + 2)
    square = s * s
    return s * square * polynomial(square, _AREA[x.double]) + 2 * s


def tanh(x: Number) -> Number:
    rising = expm1(2 * abs(x).at_most(20))
    return (rising / (rising + 2)).with_sign_of(x)


def sigmoid(x: Number) -> Number:
    """Return 1 / (1 + exp(-x)), which is 0 for x below -88 in single precision or below -709 in double precision."""
    lowest, highest = (-708, 710) if x.double else (-87, 89)
    whole, rise = split((-x).at_most(highest).at_least(lowest))
    return 1 / ((rise + 1) * power(whole) + 1)
