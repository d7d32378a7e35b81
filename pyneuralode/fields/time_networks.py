"""Networks that depend on the state and on time: through a hypernetwork, an additional input, or gates.

At a fixed time, each network depends only on the state, and the engines evaluate it like a time-independent network.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..arguments import checked, known_name, nonnegative_number, positive_number, whole_number
from .networks import INITIALIZATIONS, Layers, Network, layer_shapes


@dataclass(frozen=True)
class HyperMLP(Network):
    """A network with one hidden layer; a hypernetwork computes its weights from the time (Grathwohl et al. 2019).

    ::

        f(t, z) = output_scale / width * sum_k (U_k * sigmoid(G_k)) tanh(W_k . z + b_k),   k = 1 .. width
        (W, U, G, b) = net(t / time_scale),   net: 1 -> hidden -> hidden -> 3 dim width + width, tanh between layers

    Parameters
    ----------
    dim, width, hidden : int
        Dimension of the state, number of hidden units of the network, and width of the hypernetwork's hidden layers.
    time_scale, output_scale : float
        Fixed scales: the input of the hypernetwork is ``t / time_scale``, and a mean of 1 over the hidden units gives a
        derivative of `output_scale` (state units per unit of time).
    init, init_scale, init_bias
        Initial weights and biases of the hypernetwork, as in `MLP`.

    The parameters are ``weight_1`` (hidden, 1), ``bias_1`` (hidden,), ``weight_2`` (hidden, hidden), ``bias_2``
    (hidden,), ``weight_3`` (3 dim width + width, hidden) and ``bias_3`` (3 dim width + width,). The hypernetwork's
    outputs are W, U and G, each (width, dim) in row-major order, then b (width,).

    Raises
    ------
    ArgumentError
        If a value is invalid.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> field = pn.HyperMLP(dim=2, width=64, hidden=16)
    >>> field.shapes()["weight_3"]
    (448, 16)
    >>> pn.NeuralODE(field, engine="torch")([1.0, 0.0], [0.0, 1.0]).shape
    (2, 2)
    """

    dim: int = checked(whole_number, 2, example=2)
    width: int = checked(whole_number, 64, example=64)
    hidden: int = checked(whole_number, 16, example=16)
    time_scale: float = checked(positive_number, 1.0)
    output_scale: float = checked(positive_number, 1.0)
    init: str = checked(known_name, "glorot_uniform", known=INITIALIZATIONS)
    init_scale: float = checked(positive_number, 1.0)
    init_bias: float = checked(nonnegative_number, 0.0)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return layer_shapes((1, self.hidden, self.hidden, (3 * self.dim + 1) * self.width))


@dataclass(frozen=True)
class _LayersInTime(Layers, abstract=True):
    """Base class of the fully connected networks that use the time in every layer."""

    time_scale: float = checked(positive_number, 1.0)
    output_scale: float = checked(positive_number, 1.0)
    init: str = checked(known_name, "glorot_uniform", known=INITIALIZATIONS)
    init_scale: float = checked(positive_number, 1.0)
    init_bias: float = checked(nonnegative_number, 0.0)


@dataclass(frozen=True)
class ConcatMLP(_LayersInTime):
    """A fully connected network with the time appended to the input of every layer.

    ::

        f(t, y) = output_scale * net(t / time_scale, y)

    Parameters
    ----------
    sizes : sequence of int
        Widths of all layers, not counting the time; the first and the last are both the dimension of the state.
    activation : str
        One of `pyneuralode.fields.ACTIVATIONS`, applied between layers; the last layer is linear.
    time_scale, output_scale : float
        Fixed scales: the time input of the net is ``t / time_scale``, and an output of 1 means a derivative of
        `output_scale` (state units per unit of time).
    init, init_scale, init_bias
        Initial weights and biases, as in `MLP`.

    The parameters are ``weight_1`` (out, in + 1), whose last column multiplies the time, ``bias_1`` (out,),
    ``weight_2``, ... in that order.

    Raises
    ------
    ArgumentError
        If a value is invalid.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> field = pn.ConcatMLP((2, 32, 2), "softplus", time_scale=10.0)
    >>> field.shapes()["weight_2"]
    (2, 33)
    >>> pn.NeuralODE(field, engine="torch")([1.0, 0.0], [0.0, 10.0]).shape
    (2, 2)
    """

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return layer_shapes(self.sizes, extra=1)


@dataclass(frozen=True)
class GatedMLP(_LayersInTime):
    """A fully connected network in which the input of every layer is scaled and shifted by functions of time.

    Layer l is ``weight_l (x * s_l(t) + a_l(t)) + bias_l``. For an input of width n, s_l is a network 1 -> n -> n of
    ``t / time_scale`` with tanh between its layers and a final sigmoid; a_l is a network of the same form without the
    sigmoid.

    Parameters
    ----------
    sizes, activation, time_scale, output_scale, init, init_scale, init_bias
        As in `ConcatMLP`.

    The parameters are, layer by layer, ``scale_weight_l_1`` (n, 1), ``scale_bias_l_1`` (n,), ``scale_weight_l_2``
    (n, n), ``scale_bias_l_2`` (n,), the four ``shift_...`` parameters of the same shapes, ``weight_l`` (out, n) and
    ``bias_l`` (out,).

    Raises
    ------
    ArgumentError
        If a value is invalid.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> field = pn.GatedMLP((2, 32, 2))
    >>> pn.NeuralODE(field, engine="torch")([1.0, 0.0], [0.0, 1.0]).shape
    (2, 2)
    """

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
