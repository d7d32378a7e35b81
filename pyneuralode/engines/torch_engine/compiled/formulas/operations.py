"""The operations in formulas: the value and the first and second derivatives of each, in compiled code.

A step computes z = op(x, y), in float64 regardless of the state's dtype. For a unary operation, y is 0 and unused.
"""

import math

import numpy as np

from .compilation import inlined_function, inner_function
from .program import CODES

ADD, SUBTRACT, MULTIPLY, DIVIDE, NEGATE, RAISE, POWER = range(7)
ABS, ACOS, ASIN, ATAN, COS, COSH, EXP, EXPM1, LOG, LOG10, LOG1P, SIGMOID, SIN, SINH, SQRT, TAN, TANH = (
    CODES[name]
    for name in (
        "abs", "acos", "asin", "atan", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "sigmoid", "sin",
        "sinh", "sqrt", "tan", "tanh",
    )
)  # fmt: skip
MAX, MIN = CODES["max"], CODES["min"]
LN_10 = math.log(10)


@inner_function
def sigmoid(x):
    grown = math.exp(-abs(x))  # never overflows
    return 1 / (1 + grown) if x >= 0 else grown / (1 + grown)


@inlined_function
def _scaled_power(scale, x, exponent):
    """Return scale * x**exponent, or 0 if the scale is 0, even at x = 0."""
    return scale * x**exponent if scale != 0 else 0.0


@inlined_function
def value(code, x, y):
    """Return the result z = op(x, y) of the operation with this code."""
    if code == MULTIPLY:
        return x * y
    elif code == ADD:
        return x + y
    elif code == SUBTRACT:
        return x - y
    elif code == DIVIDE:
        return x / y
    elif code == NEGATE:
        return -x
    elif code == RAISE or code == POWER:
        return x**y
    elif code == ABS:
        return abs(x)
    elif code == ACOS:
        return math.acos(x)
    elif code == ASIN:
        return math.asin(x)
    elif code == ATAN:
        return math.atan(x)
    elif code == COS:
        return math.cos(x)
    elif code == COSH:
        return math.cosh(x)
    elif code == EXP:
        return math.exp(x)
    elif code == EXPM1:
        return math.expm1(x)
    elif code == LOG:
        return math.log(x)
    elif code == LOG10:
        return math.log10(x)
    elif code == LOG1P:
        return math.log1p(x)
    elif code == SIGMOID:
        return sigmoid(x)
    elif code == SIN:
        return math.sin(x)
    elif code == SINH:
        return math.sinh(x)
    elif code == SQRT:
        return math.sqrt(x)
    elif code == TAN:
        return math.tan(x)
    elif code == TANH:
        return math.tanh(x)
    elif code == MAX:
        return x if x > y or math.isnan(x) else y  # NaN is returned, as in torch
    else:
        return x if x < y or math.isnan(x) else y


@inlined_function
def slopes(code, x, y, z):
    """Return the derivatives dz/dx and dz/dy of an operation z = op(x, y)."""
    if code == MULTIPLY:
        return y, x
    elif code == ADD:
        return 1.0, 1.0
    elif code == SUBTRACT:
        return 1.0, -1.0
    elif code == DIVIDE:
        return 1 / y, -z / y
    elif code == NEGATE:
        return -1.0, 0.0
    elif code == RAISE:
        # If the base is not positive, the derivative with respect to the exponent is undefined; torch returns NaN for a
        # negative base and 0 for a zero base.
        return _scaled_power(y, x, y - 1), z * math.log(x) if x > 0 else 0.0
    elif code == POWER:
        return _scaled_power(y, x, y - 1), 0.0
    elif code == ABS:
        return np.sign(x), 0.0
    elif code == ACOS:
        return -1 / math.sqrt(1 - x * x), 0.0
    elif code == ASIN:
        return 1 / math.sqrt(1 - x * x), 0.0
    elif code == ATAN:
        return 1 / (1 + x * x), 0.0
    elif code == COS:
        return -math.sin(x), 0.0
    elif code == COSH:
        return math.sinh(x), 0.0
    elif code == EXP:
        return z, 0.0
    elif code == EXPM1:
        return z + 1, 0.0
    elif code == LOG:
        return 1 / x, 0.0
    elif code == LOG10:
        return 1 / (x * LN_10), 0.0
    elif code == LOG1P:
        return 1 / (1 + x), 0.0
    elif code == SIGMOID:
        return z * sigmoid(-x), 0.0
    elif code == SIN:
        return math.cos(x), 0.0
    elif code == SINH:
        return math.cosh(x), 0.0
    elif code == SQRT:
        return 0.5 / z, 0.0
    elif code == TAN:
        return 1 + z * z, 0.0
    elif code == TANH:
        return 1 - z * z, 0.0
    # max and min: if both numbers are equal, each has derivative 1/2, as in torch.
    elif x == y:
        return 0.5, 0.5
    elif z == x:
        return 1.0, 0.0
    else:
        return 0.0, 1.0


@inlined_function
def curvatures(code, x, y, z):
    """Return the second derivatives of an operation z = op(x, y): d2z/dx2, d2z/(dx dy) and d2z/dy2."""
    if code == MULTIPLY:
        return 0.0, 1.0, 0.0
    elif code == DIVIDE:
        return 0.0, -1 / (y * y), 2 * z / (y * y)
    elif code == RAISE:
        log = math.log(x) if x > 0 else 0.0
        mixed = x ** (y - 1) * (1 + y * log) if x > 0 else 0.0
        return _scaled_power(y * (y - 1), x, y - 2), mixed, z * log * log
    elif code == POWER:
        return _scaled_power(y * (y - 1), x, y - 2), 0.0, 0.0
    elif code == ACOS:
        return -x * (1 - x * x) ** -1.5, 0.0, 0.0
    elif code == ASIN:
        return x * (1 - x * x) ** -1.5, 0.0, 0.0
    elif code == ATAN:
        return -2 * x / (1 + x * x) ** 2, 0.0, 0.0
    elif code == COS or code == SIN:
        return -z, 0.0, 0.0
    elif code == COSH or code == SINH or code == EXP:
        return z, 0.0, 0.0
    elif code == EXPM1:
        return z + 1, 0.0, 0.0
    elif code == LOG:
        return -1 / (x * x), 0.0, 0.0
    elif code == LOG10:
        return -1 / (x * x * LN_10), 0.0, 0.0
    elif code == LOG1P:
        return -1 / (1 + x) ** 2, 0.0, 0.0
    elif code == SIGMOID:
        return z * sigmoid(-x) * (1 - 2 * z), 0.0, 0.0
    elif code == SQRT:
        return -0.25 / (x * z), 0.0, 0.0
    elif code == TAN:
        return 2 * z * (1 + z * z), 0.0, 0.0
    elif code == TANH:
        return -2 * z * (1 - z * z), 0.0, 0.0
    else:
        return 0.0, 0.0, 0.0
