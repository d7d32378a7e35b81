"""Vector fields: what is integrated, described without any engine.

A field is a small frozen dataclass. It knows the shape of the state, the names, shapes and order of its
parameters, and their initial values (seeded NumPy, so that every engine starts from the same numbers).
The engines build the function that is integrated from this description.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arguments import real_array, real_number, whole_number
from ..errors import ArgumentError, unknown_name

ACTIVATIONS = ("identity", "tanh", "relu", "swish", "softplus", "elu", "gelu", "sigmoid", "sin")
INPUT_MAPS = ("identity", "square", "cube")
INITIALIZATIONS = ("glorot_uniform", "normal", "lecun_uniform", "torch")
_ALIASES = {"silu": "swish", "logistic": "sigmoid", "linear": "identity", "none": "identity"}

Parameters = dict[str, np.ndarray]


def canonical(argument: str, value: str, known: tuple[str, ...]) -> str:
    """Return the catalog's own spelling of a name."""
    name = str(value).lower()
    name = _ALIASES.get(name, name)
    if name not in known:
        raise unknown_name(argument, value, known)
    return name


@dataclass(frozen=True)
class VectorField:
    """Base of all vector fields ``dy/dt = f(t, y; parameters)``.

    A subclass is a frozen dataclass of plain values (so that it can be written as JSON) and gives

    1. ``dim``: number of state components, the last axis of the state;
    2. ``shapes()``: parameter names and shapes, in the order every engine keeps;
    3. ``initial(seed)``: the initial parameters as float64 arrays of those shapes.

    Each engine has a builder for each subclass.
    """

    @property
    def dim(self) -> int:
        raise ArgumentError(f"{type(self).__name__} does not say its dimension: give it a property `dim`.")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the parameters' shapes by name, in the documented order."""
        return {}

    def initial(self, seed: int = 0) -> Parameters:
        """Return the initial parameters, float64 arrays of `shapes()`."""
        return {}

    def describe(self) -> dict:
        """Return the description as JSON values; `from_description` reads it back."""
        values = dataclasses.asdict(self)
        return {"kind": type(self).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def check_widths(name: str, widths, remedy: str) -> tuple[int, ...]:
    """Return the widths of layers, checked to be positive whole numbers."""
    try:
        return tuple(whole_number(name, width) for width in widths)
    except (TypeError, ArgumentError):
        raise ArgumentError(f"{name} is {widths!r}: {remedy}.") from None


def check_sizes(sizes) -> tuple[int, ...]:
    """Return the widths of a network of the state, checked."""
    remedy = "give at least two positive widths, such as (2, 50, 2)"
    widths = check_widths("sizes", sizes, remedy)
    if len(widths) < 2:
        raise ArgumentError(f"sizes is {sizes!r}: {remedy}.")
    if widths[0] != widths[-1]:
        raise ArgumentError(
            f"sizes is {widths}: the first and the last width are both the state's dimension, "
            f"write ({widths[0]}, ..., {widths[0]})."
        )
    return widths


def check_scales(field: VectorField, *names: str) -> None:
    """Make the named settings of `field` floats, checked to be positive."""
    for name in names:
        value = real_number(name, getattr(field, name), "give a positive number, such as 1.0")
        if value <= 0:
            raise ArgumentError(f"{name} is {value}: give a positive number, such as 1.0.")
        object.__setattr__(field, name, value)


def check_counts(field: VectorField, example: int, *names: str) -> None:
    """Raise unless the settings named are positive whole numbers, and make them int."""
    for name in names:
        object.__setattr__(field, name, whole_number(name, getattr(field, name), 1, example))


def check_drawing(field: VectorField) -> None:
    """Check a field's `init`, `init_scale` and `init_bias`."""
    object.__setattr__(field, "init", canonical("init", field.init, INITIALIZATIONS))
    check_scales(field, "init_scale")
    if real_number("init_bias", field.init_bias) < 0:
        raise ArgumentError(f"init_bias is {field.init_bias}: give a number of at least 0, such as 1.0.")


def draw(shapes: dict[str, tuple[int, ...]], init: str, init_scale: float, init_bias: float, seed: int) -> Parameters:
    """Return initial weights (out, in, ...) and biases (out,), each after its weight; see `MLP` for the settings."""
    rng = np.random.default_rng(seed)
    parameters = {}
    bound = init_bias
    for name, shape in shapes.items():
        if len(shape) == 1:
            parameters[name] = rng.uniform(-bound, bound, size=shape)
            continue
        window = int(np.prod(shape[2:]))  # a kernel's pixels; 1 for a matrix
        n_out, n_in = shape[0] * window, shape[1] * window
        if init == "normal":
            parameters[name] = init_scale * rng.normal(size=shape)
        else:
            limit = np.sqrt(6 / (n_in + n_out)) if init == "glorot_uniform" else np.sqrt(1 / n_in)
            parameters[name] = init_scale * rng.uniform(-limit, limit, size=shape)
        if init == "torch":
            bound = init_scale * np.sqrt(1 / n_in)
    return parameters


def layer_shapes(widths: Sequence[int], joined: int = 0, window: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Return the shapes of weight_1, bias_1, weight_2, ... of a network whose layers take `joined` more inputs."""
    shapes = {}
    for layer, (n_in, n_out) in enumerate(zip(widths, widths[1:]), start=1):
        shapes[f"weight_{layer}"] = (n_out, n_in + joined, *window)
        shapes[f"bias_{layer}"] = (n_out,)
    return shapes


class Network(VectorField):
    """Base of the fields that start from drawn weights: they have `init`, `init_scale` and `init_bias`, see `MLP`."""

    def initial(self, seed: int = 0) -> Parameters:
        return draw(self.shapes(), self.init, self.init_scale, self.init_bias, seed)


@dataclass(frozen=True)
class MLP(Network):
    """A fully connected network of the state, ``f(y) = output_scale * net(map(y) / input_scale)``.

    Parameters
    ----------
    sizes : sequence of int
        Widths of all layers; the first and the last are the dimension of the state.
    activation : str
        One of `ACTIVATIONS`, between layers; the last layer is linear.
    input_map : {"identity", "square", "cube"}
        Fixed map of the state before the first layer, component by component.
    input_scale, output_scale : float
        Fixed scales: states of size `input_scale` reach the net as ones, and the net's ones mean a slope
        of `output_scale` (state units per unit of time).
    init : {"glorot_uniform", "normal", "lecun_uniform", "torch"}
        Weights ~ U(-a, a) with a = sqrt(6 / (in + out)) (Glorot and Bengio 2010), N(0, 1), or U(-a, a) with
        a = sqrt(1 / in) (as PyTorch's linear layer); each times `init_scale`. "torch" draws the biases so too, in place
        of `init_bias`: what PyTorch's linear and convolutional layers start from.
    init_bias : float
        Biases ~ U(-init_bias, init_bias). With zero biases a tanh net is zero at the zero state, and a solve
        that starts there stays there until the last bias moves.

    The parameters are ``weight_1`` (out, in), ``bias_1`` (out,), ``weight_2``, ... in that order.
    """

    sizes: tuple[int, ...]
    activation: str = "tanh"
    input_map: str = "identity"
    input_scale: float = 1.0
    output_scale: float = 1.0
    init: str = "glorot_uniform"
    init_scale: float = 1.0
    init_bias: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "sizes", check_sizes(self.sizes))
        object.__setattr__(self, "activation", canonical("activation", self.activation, ACTIVATIONS))
        object.__setattr__(self, "input_map", canonical("input_map", self.input_map, INPUT_MAPS))
        check_scales(self, "input_scale", "output_scale")
        check_drawing(self)

    @property
    def dim(self) -> int:
        return self.sizes[0]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return layer_shapes(self.sizes)


@dataclass(frozen=True)
class Linear(VectorField):
    """The linear field ``dy/dt = A map(y)``; the parameter is ``A`` (d, d), starting from `matrix`.

    `input_map` is applied to each component first: with "cube" and A = [[-0.1, -2], [2, -0.1]] this is the
    cubic spiral of Chen et al. 2018.
    """

    matrix: tuple[tuple[float, ...], ...]
    input_map: str = "identity"

    def __post_init__(self):
        matrix = real_array("matrix", self.matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
            raise ArgumentError(
                f"matrix has shape {matrix.shape}: give a square matrix of finite numbers, such as ((0, 1), (-1, 0))."
            )
        object.__setattr__(self, "matrix", tuple(tuple(map(float, row)) for row in matrix))
        object.__setattr__(self, "input_map", canonical("input_map", self.input_map, INPUT_MAPS))

    @property
    def dim(self) -> int:
        return len(self.matrix)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"A": (self.dim, self.dim)}

    def initial(self, seed: int = 0) -> Parameters:
        return {"A": np.array(self.matrix)}


@dataclass(frozen=True)
class SEIR(VectorField):
    """The SEIR epidemic model in fractions of the population (Kermack and McKendrick 1927; Hethcote 2000).

    ::

        ds/dt = -gamma R0 s i      de/dt = gamma R0 s i - sigma e
        di/dt = sigma e - gamma i  dr/dt = gamma i

    State: (s, e, i, r). Parameters, each of shape (): ``gamma`` recovery rate (1/day), ``R0`` basic
    reproduction number (dimensionless), ``sigma`` rate of leaving the exposed state (1/day). The fields of
    this dataclass are their initial values.
    """

    gamma: float = 0.17
    R0: float = 5.7
    sigma: float = 0.17

    def __post_init__(self):
        for name in ("gamma", "R0", "sigma"):
            value = real_number(name, getattr(self, name), "give a finite rate of at least 0, such as 0.17")
            if value < 0:
                raise ArgumentError(f"{name} is {value}: give a finite rate of at least 0, such as 0.17.")
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        return 4

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gamma": (), "R0": (), "sigma": ()}

    def initial(self, seed: int = 0) -> Parameters:
        return {"gamma": np.array(self.gamma), "R0": np.array(self.R0), "sigma": np.array(self.sigma)}


def _kinds() -> dict[str, type[VectorField]]:
    from . import convolutions, equations, time_networks  # noqa: F401 - the kinds that have a module of their own

    kinds = [*VectorField.__subclasses__(), *Network.__subclasses__()]
    return {kind.__name__: kind for kind in kinds if kind is not Network}


def from_description(description: dict) -> VectorField:
    """Return the field that `VectorField.describe` described."""
    values = dict(description)
    kind = values.pop("kind", None)
    kinds = _kinds()
    if kind not in kinds:
        raise unknown_name("the field's kind", kind, kinds)
    settings = dataclasses.fields(kinds[kind])
    known = {f.name for f in settings if f.init}
    for derived in {f.name for f in settings} - known:  # written for the engines, computed again when read
        values.pop(derived, None)
    if not set(values) <= known:
        raise ArgumentError(
            f"{kind} has no setting {sorted(set(values) - known)[0]!r}: it has {', '.join(sorted(known))}."
        )
    return kinds[kind](**values)
