"""Activation functions and input maps for arrays; values and derivatives are computed in one pass."""

from functools import partial

from .compilation import inner_function
from .constants import MAP_NAMES
from .elementary import exp, expm1, log1p, sigmoid, tanh
from .llvm_codegen import choose, emitted_function, for_each_vector, load, pointer, store

ELU, SIGMOID, SIN, SOFTPLUS, TANH = map(MAP_NAMES.index, ("elu", "sigmoid", "sin", "softplus", "tanh"))
ROOT_HALF, DENSITY = 0.5**0.5, 0.3989422804014327  # 1 / sqrt(2 pi)


def _tanh(x):
    value = tanh(x)
    return value, 1 - value * value


def _relu(x):
    return x.at_least(0), x.pick(0, x.like(1), x.like(0))


def _swish(x):
    gate = sigmoid(x)
    value = x * gate
    return value, gate + value * (1 - gate)


def _softplus(x):
    small = exp(-abs(x))
    value, slope = x.at_least(0) + log1p(small), x.pick(0, x.like(1), small) / (1 + small)
    # Above 20, PyTorch's softplus returns x itself.
    return x.pick(20, x, value), x.pick(20, x.like(1), slope)


def _elu(x):
    fall = expm1(x.at_most(0).at_least(-60))  # expm1(-60) is -1 in either dtype
    return x.pick(0, x, fall), x.pick(0, x.like(1), 1 + fall)


def _gelu(x):
    below = 0.5 * (1 + (x * ROOT_HALF).lane_by_lane("erf", "erff"))
    return x * below, below + x * DENSITY * exp(-0.5 * x * x)


def _sigmoid(x):
    value = sigmoid(x)
    return value, value * (1 - value)


def _sin(x):
    return x.function("sin"), x.function("cos")


PAIRS = {
    "identity": lambda x: (x, x.like(1)),
    "tanh": _tanh,
    "relu": _relu,
    "swish": _swish,
    "softplus": _softplus,
    "elu": _elu,
    "gelu": _gelu,
    "sigmoid": _sigmoid,
    "sin": _sin,
    "square": lambda x: (x * x, x + x),
    "cube": lambda x: (x * x * x, 3 * x * x),
}


@emitted_function
def activate(builder, kind, x, values, slopes, count):
    """Emit code that computes the activation MAP_NAMES[kind] and its derivatives (`slopes`) at `count` numbers x."""

    def apply(pair):
        def write(places, lanes):
            source, *targets = places
            for target, result in zip(targets, pair(load(builder, source, lanes))):
                store(builder, target, result)

        for_each_vector(builder, count, (x, values, slopes), write)

    choose(builder, kind, [partial(apply, PAIRS[name]) for name in MAP_NAMES])


@inner_function
def activate_array(kind, values, slopes):
    """Apply an activation to `values` in place, and write its derivatives to `slopes`."""
    activate(kind, pointer(values), pointer(values), pointer(slopes), len(values))
