"""Activation functions over arrays, each with its derivative in the same pass."""

import math
from functools import cache

import numpy as np
from numba import types
from numba.extending import overload

from ....fields import ACTIVATIONS
from .elementary import elementary
from .kernels import contracted, part

_REALS = {types.float64: np.float64, types.float32: np.float32}
IDENTITY, TANH, RELU, SWISH, SOFTPLUS, ELU, GELU, SIGMOID, SIN = range(len(ACTIVATIONS))


@cache
def _pairs(real: type) -> list:
    """Return for each of ACTIVATIONS a function from x to (value, derivative), scalars of type `real`."""
    tools = elementary(real)
    exp, expm1, log1p, tanh_, sigmoid_ = tools.exp, tools.expm1, tools.log1p, tools.tanh, tools.sigmoid
    zero, half, one = real(0), real(0.5), real(1)
    # Above 20 PyTorch's softplus is x itself; below -60 the negative branch of elu is -1 in either dtype.
    straight, bottom = real(20), real(-60)
    root_half, density = real(math.sqrt(0.5)), real(1 / math.sqrt(2 * math.pi))


    @contracted
    def identity(x):
        return x, one

    @contracted
    def tanh(x):
        value = tanh_(x)
        return value, one - value * value

    @contracted
    def relu(x):
        return zero if x <= zero else x, zero if x <= zero else one

    @contracted
    def swish(x):
        gate = sigmoid_(x)
        value = x * gate
        return value, gate + value * (one - gate)

    @contracted
    def softplus(x):
        small = exp(-abs(x))
        value = (x if x > zero else zero) + log1p(small)
        slope = (small if x < zero else one) / (one + small)
        return x if x > straight else value, one if x > straight else slope

    @contracted
    def elu(x):
        below = zero if x > zero else x
        below = bottom if below < bottom else below
        fall = expm1(below)
        return x if x > zero else fall, one if x > zero else one + fall

    @contracted
    def gelu(x):
        below = half * (one + math.erf(x * root_half))
        return x * below, below + x * density * exp(-half * x * x)

    @contracted
    def sigmoid(x):
        value = sigmoid_(x)
        return value, value * (one - value)

    @contracted
    def sin(x):
        return math.sin(x), math.cos(x)

    return [identity, tanh, relu, swish, softplus, elu, gelu, sigmoid, sin]


def _over_arrays(pair):
    """Return the loop that applies `pair` in place."""

    @part
    def loop(values, slopes):
        for i in range(len(values)):
            values[i], slopes[i] = pair(values[i])

    return loop


def activate(kind, values, slopes):
    """Apply the activation of number `kind` to `values` in place, and write its derivatives to `slopes`."""
    raise TypeError("activate runs in compiled code only")


@overload(activate)
def _activate(kind, values, slopes):
    loops = map(_over_arrays, _pairs(_REALS[values.dtype]))
    identity, tanh, relu, swish, softplus, elu, gelu, sigmoid, sin = loops

    def choose(kind, values, slopes):
        if kind == TANH:
            tanh(values, slopes)
        elif kind == SWISH:
            swish(values, slopes)
        elif kind == RELU:
            relu(values, slopes)
        elif kind == SOFTPLUS:
            softplus(values, slopes)
        elif kind == ELU:
            elu(values, slopes)
        elif kind == GELU:
            gelu(values, slopes)
        elif kind == SIGMOID:
            sigmoid(values, slopes)
        elif kind == SIN:
            sin(values, slopes)
        else:
            identity(values, slopes)

    return choose
