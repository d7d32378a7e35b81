"""Networks that do not depend on time, and code shared by all networks: activations, initial weights, layer shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..arguments import checked, known_name, nonnegative_number, positive_number, real_array, whole_numbers
from ..errors import ArgumentError
from .base import Parameters, VectorField

ACTIVATIONS = ("identity", "tanh", "relu", "swish", "softplus", "elu", "gelu", "sigmoid", "sin")
INPUT_MAPS = ("identity", "square", "cube")
INITIALIZATIONS = ("glorot_uniform", "normal", "lecun_uniform", "torch")
_ALIASES = {"silu": "swish", "logistic": "sigmoid", "linear": "identity", "none": "identity"}


def known_activation(name: str, value: str) -> str:
    """Return the name of an activation as spelled in `ACTIVATIONS`."""
    return known_name(name, value, ACTIVATIONS, _ALIASES)


def known_input_map(name: str, value: str) -> str:
    """Return the name of an input map as spelled in `INPUT_MAPS`."""
    return known_name(name, value, INPUT_MAPS, _ALIASES)


def layer_widths(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Check the widths of all layers of a network, and return them as a tuple."""
    remedy = "give at least two positive widths, such as (2, 50, 2)"
    widths = whole_numbers(name, sizes, remedy)
    if len(widths) < 2:
        raise ArgumentError(f"{name} is {sizes!r}: {remedy}.")
    if widths[0] != widths[-1]:
        raise ArgumentError(
            f"{name} is {widths}: give the state's dimension as both the first and the last width, such as "
            f"({widths[0]}, ..., {widths[0]})."
        )
    return widths


class Network(VectorField, abstract=True):
    """Base class of fields with random initial weights, as set by `init`, `init_scale` and `init_bias`; see `MLP`."""

    def initial(self, seed: int = 0) -> Parameters:
        return _draw(self.shapes(), self.init, self.init_scale, self.init_bias, seed)


@dataclass(frozen=True)
class Layers(Network, abstract=True):
    """Base class of the fully connected networks."""

    sizes: tuple[int, ...] = checked(layer_widths)
    activation: str = checked(known_activation, "tanh")

    @property
    def dim(self) -> int:
        return self.sizes[0]


@dataclass(frozen=True)
class MLP(Layers):
    """A fully connected network of the state, ``f(y) = output_scale * net(map(y) / input_scale)``.

    Parameters
    ----------
    sizes : sequence of int
        Widths of all layers; the first and the last are both the dimension of the state.
    activation : str
        One of `ACTIVATIONS`, applied between layers; the last layer is linear.
    input_map : {"identity", "square", "cube"}
        Fixed map applied to each component of the state before the first layer.
    input_scale, output_scale : float
        Fixed scales: the input of the net is ``map(y) / input_scale``, and an output of 1 means a derivative of
        `output_scale` (state units per unit of time).
    init : {"glorot_uniform", "normal", "lecun_uniform", "torch"}
        Distribution of the initial weights: U(-a, a) with a = sqrt(6 / (in + out)) (Glorot and Bengio 2010), N(0, 1),
        or U(-a, a) with a = sqrt(1 / in); each is multiplied by `init_scale`. "torch" draws weights and biases as
        PyTorch's linear and convolutional layers do, U(-a, a) with a = sqrt(1 / in), and ignores `init_bias`.
    init_scale : float
        Factor by which the initial weights are multiplied.
    init_bias : float
        Initial biases are drawn from U(-init_bias, init_bias). With zero biases a tanh net is zero at the zero state,
        and a solve that starts there stays there until training has changed the last bias.

    The parameters are ``weight_1`` (out, in), ``bias_1`` (out,), ``weight_2``, ... in that order.

    Raises
    ------
    ArgumentError
        If a value is invalid.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> field = pn.MLP((2, 50, 2), "tanh", input_map="cube", init_scale=0.1)
    >>> field.dim, field.shapes()["weight_1"]
    (2, (50, 2))
    >>> pn.NeuralODE(field, engine="torch")([2.0, 0.0], [0.0, 0.5, 1.0]).shape
    (3, 2)
    """

    input_map: str = checked(known_input_map, "identity")
    input_scale: float = checked(positive_number, 1.0)
    output_scale: float = checked(positive_number, 1.0)
    init: str = checked(known_name, "glorot_uniform", known=INITIALIZATIONS)
    init_scale: float = checked(positive_number, 1.0)
    init_bias: float = checked(nonnegative_number, 0.0)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return layer_shapes(self.sizes)


def _square_matrix(name: str, value: object) -> tuple[tuple[float, ...], ...]:
    matrix = real_array(name, value)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ArgumentError(
            f"{name} has shape {matrix.shape}: give a square matrix of finite numbers, such as ((0, 1), (-1, 0))."
        )
    return tuple(tuple(map(float, row)) for row in matrix)


@dataclass(frozen=True)
class Linear(VectorField):
    """The linear field ``dy/dt = A map(y)``; its parameter is ``A`` (d, d), initially `matrix`.

    Parameters
    ----------
    matrix : array (d, d)
        Initial value of ``A``, per unit of time.
    input_map : {"identity", "square", "cube"}
        Fixed map, applied first to each component of the state.

    Raises
    ------
    ArgumentError
        If the matrix is not square and finite, or the map is unknown.

    Examples
    --------
    The cubic spiral of Chen et al. 2018:

    >>> import pyneuralode as pn
    >>> spiral = pn.Linear(((-0.1, 2.0), (-2.0, -0.1)), input_map="cube")
    >>> pn.solve(spiral, [2.0, 0.0], [0.0, 10.0, 25.0], engine="torch").ys.shape
    (3, 2)
    """

    matrix: tuple[tuple[float, ...], ...] = checked(_square_matrix)
    input_map: str = checked(known_input_map, "identity")

    @property
    def dim(self) -> int:
        return len(self.matrix)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"A": (self.dim, self.dim)}

    def initial(self, seed: int = 0) -> Parameters:
        return {"A": np.array(self.matrix)}


def layer_shapes(widths: Sequence[int], extra: int = 0, kernel: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Return the shapes of ``weight_1``, ``bias_1``, ``weight_2``, ... of layers with `extra` additional inputs each."""
    shapes = {}
    for layer, (n_in, n_out) in enumerate(zip(widths, widths[1:]), start=1):
        shapes[f"weight_{layer}"] = (n_out, n_in + extra, *kernel)
        shapes[f"bias_{layer}"] = (n_out,)
    return shapes


def _draw(shapes: Mapping[str, tuple[int, ...]], init: str, scale: float, bias: float, seed: int) -> Parameters:
    """Return random initial weights (out, in, ...) and biases (out,) by name; each bias follows its weight."""
    rng = np.random.default_rng(seed)
    parameters = {}
    bound = bias
    for name, shape in shapes.items():
        if len(shape) == 1:
            parameters[name] = rng.uniform(-bound, bound, size=shape)
            continue
        pixels = int(np.prod(shape[2:]))  # number of pixels of a convolution's kernel; 1 for a matrix
        n_out, n_in = shape[0] * pixels, shape[1] * pixels
        if init == "normal":
            parameters[name] = scale * rng.normal(size=shape)
        else:
            limit = np.sqrt(6 / (n_in + n_out)) if init == "glorot_uniform" else np.sqrt(1 / n_in)
            parameters[name] = scale * rng.uniform(-limit, limit, size=shape)
        if init == "torch":
            bound = scale * np.sqrt(1 / n_in)
    return parameters
