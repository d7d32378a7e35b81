"""Networks of the state whose weights depend on the time: a hypernetwork, time as an input, gates of the time.

At any one time each of them is an ordinary network, which is what the engines compute with.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import (
    ACTIVATIONS,
    Network,
    canonical,
    check_counts,
    check_drawing,
    check_scales,
    check_sizes,
    layer_shapes,
)


@dataclass(frozen=True)
class HyperMLP(Network):
    """One hidden layer, the weights of which a hypernetwork gives for each time (Grathwohl et al. 2019).

    ::

        f(t, z) = output_scale / width * sum_k (U_k * sigmoid(G_k)) tanh(W_k . z + b_k),   k = 1 .. width
        (W, U, G, b) = net(t / time_scale),   net: 1 -> hidden -> hidden -> 3 dim width + width, tanh between

    Parameters
    ----------
    dim, width, hidden : int
        Dimension of the state, hidden units of the network, hidden units of the hypernetwork.
    time_scale, output_scale : float
        Fixed scales: times of size `time_scale` reach the hypernetwork as ones, and a mean of ones means a slope
        of `output_scale` (state units per unit of time).
    init, init_scale, init_bias
        Drawing of the hypernetwork's weights and biases, as in `MLP`.

    The parameters are ``weight_1`` (hidden, 1), ``bias_1`` (hidden,), ``weight_2`` (hidden, hidden), ``bias_2``
    (hidden,), ``weight_3`` (3 dim width + width, hidden) and ``bias_3`` (3 dim width + width,). The hypernetwork's
    outputs are W, U and G, each (width, dim) row by row, then b (width,).
    """

    dim: int = 2
    width: int = 64
    hidden: int = 16
    time_scale: float = 1.0
    output_scale: float = 1.0
    init: str = "glorot_uniform"
    init_scale: float = 1.0
    init_bias: float = 0.0

    def __post_init__(self):
        check_counts(self, 16, "dim", "width", "hidden")
        check_scales(self, "time_scale", "output_scale")
        check_drawing(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return layer_shapes((1, self.hidden, self.hidden, (3 * self.dim + 1) * self.width))


@dataclass(frozen=True)
class ConcatMLP(Network):
    """A fully connected network with the time joined to the input of every layer.

    ::

        f(t, y) = output_scale * net(t / time_scale, y)

    Parameters
    ----------
    sizes : sequence of int
        Widths of all layers, the time not counted; the first and the last are the dimension of the state.
    activation : str
        One of `pyneuralode.fields.ACTIVATIONS`, between layers; the last layer is linear.
    time_scale, output_scale : float
        Fixed scales, as in `HyperMLP`.
    init, init_scale, init_bias
        Drawing of weights and biases, as in `MLP`.

    The parameters are ``weight_1`` (out, in + 1), the last column for the time, ``bias_1`` (out,), ``weight_2``, ...
    """

    sizes: tuple[int, ...]
    activation: str = "tanh"
    time_scale: float = 1.0
    output_scale: float = 1.0
    init: str = "glorot_uniform"
    init_scale: float = 1.0
    init_bias: float = 0.0

    def __post_init__(self):
        _check(self)

    @property
    def dim(self) -> int:
        return self.sizes[0]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return layer_shapes(self.sizes, joined=1)


@dataclass(frozen=True)
class GatedMLP(Network):
    """A fully connected network whose layers' inputs are gated and shifted by functions of the time.

    Layer l is ``weight_l (x * s_l(t) + a_l(t)) + bias_l``. With n the width of its input, s_l is a network
    1 -> n -> n of t / time_scale with a tanh between and a sigmoid at its end, and a_l the same without the sigmoid.

    Parameters
    ----------
    sizes, activation, time_scale, output_scale, init, init_scale, init_bias
        As in `ConcatMLP`.

    The parameters are, layer by layer, ``scale_weight_l_1`` (n, 1), ``scale_bias_l_1`` (n,), ``scale_weight_l_2``
    (n, n), ``scale_bias_l_2`` (n,), the four ``shift_...`` of the same shapes, ``weight_l`` (out, n) and
    ``bias_l`` (out,).
    """

    sizes: tuple[int, ...]
    activation: str = "tanh"
    time_scale: float = 1.0
    output_scale: float = 1.0
    init: str = "glorot_uniform"
    init_scale: float = 1.0
    init_bias: float = 0.0

    def __post_init__(self):
        _check(self)

    @property
    def dim(self) -> int:
        return self.sizes[0]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for layer, (n, n_out) in enumerate(zip(self.sizes, self.sizes[1:]), start=1):
            for net in ("scale", "shift"):
                shapes[f"{net}_weight_{layer}_1"] = (n, 1)
                shapes[f"{net}_bias_{layer}_1"] = (n,)
                shapes[f"{net}_weight_{layer}_2"] = (n, n)
                shapes[f"{net}_bias_{layer}_2"] = (n,)
            shapes[f"weight_{layer}"] = (n_out, n)
            shapes[f"bias_{layer}"] = (n_out,)
        return shapes


def _check(field: ConcatMLP | GatedMLP) -> None:
    object.__setattr__(field, "sizes", check_sizes(field.sizes))
    object.__setattr__(field, "activation", canonical("activation", field.activation, ACTIVATIONS))
    check_scales(field, "time_scale", "output_scale")
    check_drawing(field)
