"""Fields that are an ordinary network at any fixed time: their layers, values and products with the Jacobian.

Each field is given by a function from the time to its layers: a list of pairs (weight, bias), with weight (out, in) and
bias (out,) or None. The trace of the Jacobian J = df/dz, its products e^T J, and J itself follow from the layers in
closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor
from torch.nn import functional

from ...fields import MLP, ConcatMLP, GatedMLP, HyperMLP, Linear, VectorField
from .activations import ACTIVATIONS, DERIVATIVES
from .fused_functions import OneHiddenTrace, SlopeAndJacobian

Time = float | Tensor
Layers = list[tuple[Tensor, Tensor | None]]
Parameters = dict[str, Tensor]


@singledispatch
def layers_of(field: VectorField, parameters: Parameters) -> Callable[[Time], Layers] | None:
    """Return the function from the time to the field's layers, or None for a field without layers."""
    return None


@layers_of.register
def _(field: Linear, parameters: Parameters):
    if field.input_map != "identity":
        return None
    layers: Layers = [(parameters["A"], None)]
    return lambda t: layers


@layers_of.register
def _(field: MLP, parameters: Parameters):
    if field.input_map != "identity":
        return None
    count = len(field.sizes) - 1
    layers: Layers = [(parameters[f"weight_{i}"], parameters[f"bias_{i}"]) for i in range(1, count + 1)]
    if field.input_scale == field.output_scale == 1:
        return lambda t: layers
    (weight, bias), *others = layers
    # Scaled at every evaluation, so that a backward pass through one evaluation does not free the graph of another.
    return lambda t: _scaled([(weight / field.input_scale, bias), *others], field.output_scale)


@layers_of.register
def _(field: ConcatMLP, parameters: Parameters):
    count = len(field.sizes) - 1
    names = [(f"weight_{i}", f"bias_{i}") for i in range(1, count + 1)]
    parts = [(parameters[w][:, :-1], parameters[w][:, -1], parameters[b]) for w, b in names]

    def at(t: Time) -> Layers:
        t = t / field.time_scale
        return _scaled([(weight, _along(bias, column, t)) for weight, column, bias in parts], field.output_scale)

    return at


@layers_of.register
def _(field: GatedMLP, parameters: Parameters):
    def net(kind: str, layer: int, t: Time) -> Tensor:
        w1, b1, w2, b2 = (parameters[f"{kind}_{name}_{layer}_{i}"] for i in (1, 2) for name in ("weight", "bias"))
        return torch.addmv(b2, w2, torch.tanh(_along(b1, w1[:, 0], t)))

    def at(t: Time) -> Layers:
        t = t / field.time_scale
        layers: Layers = []
        for layer in range(1, len(field.sizes)):
            weight, bias = parameters[f"weight_{layer}"], parameters[f"bias_{layer}"]
            scale, shift = torch.sigmoid(net("scale", layer, t)), net("shift", layer, t)
            layers.append((weight * scale, torch.addmv(bias, weight, shift)))
        return _scaled(layers, field.output_scale)

    return at


@layers_of.register
def _(field: HyperMLP, parameters: Parameters):
    w1, b1, w2, b2, w3, b3 = (parameters[f"{name}_{i}"] for i in (1, 2, 3) for name in ("weight", "bias"))
    size = field.width * field.dim
    factor = field.output_scale / field.width

    def at(t: Time) -> Layers:
        hidden = torch.tanh(_along(b1, w1[:, 0], t / field.time_scale))
        hidden = torch.tanh(torch.addmv(b2, w2, hidden))
        inward, outward, gate, bias = torch.addmv(b3, w3, hidden).split([size, size, size, field.width])
        outward = (outward * torch.sigmoid(gate)).view(field.width, field.dim).t() * factor
        return [(inward.view(field.width, field.dim), bias), (outward, None)]

    return at


def activation_of(field: VectorField) -> str:
    """Return the name of the activation between a layered field's layers."""
    return getattr(field, "activation", "tanh")


def _along(bias: Tensor, column: Tensor, t: Time) -> Tensor:
    """Return bias + t * column."""
    return torch.addcmul(bias, column, t) if isinstance(t, Tensor) else torch.add(bias, column, alpha=t)


def _scaled(layers: Layers, factor: float) -> Layers:
    """Return the layers, with the output of the last layer multiplied by `factor`."""
    if factor == 1:
        return layers
    weight, bias = layers[-1]
    return [*layers[:-1], (weight * factor, None if bias is None else bias * factor)]


class LayeredNet:
    """The value of a layered field and its Jacobian; z is (n, d).

    With `compiled`, trace and Jacobian have a hand-written backward pass, which cannot be differentiated again;
    otherwise autograd can differentiate them any number of times.
    """

    def __init__(self, at: Callable[[Time], Layers], activation: str, compiled: bool = True):
        self.at, self.activation, self.compiled = at, activation, compiled
        self.activate, self.derivative = ACTIVATIONS[activation], DERIVATIVES[activation]

    def slope(self, t: Time, z: Tensor) -> Tensor:
        """Return f(t, z), which has the same shape (..., d) as z."""
        *inner, last = self.at(t)
        for weight, bias in inner:
            z = self.activate(functional.linear(z, weight, bias))
        return functional.linear(z, *last)

    def trace(self, t: Time, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(t, z), of shape (n, d), and the trace (n,) of the Jacobian.

        With one hidden layer the trace is sum_k g_k c_k, with two it is g2^T C g1, where g, g1 and g2 are derivatives
        of the activation and c and C do not depend on the sample. Otherwise the whole Jacobian is formed.
        """
        layers = self.at(t)
        if self.compiled and len(layers) == 2:
            return OneHiddenTrace.apply(self.activation, z, *layers[0], *layers[1])
        if len(layers) > 3:
            slope, jacobian = self._with_jacobian(layers, z)
            return slope, jacobian.diagonal(dim1=0, dim2=2).sum(-1)
        slope, gains = self._with_gains(layers, z)
        first, last = layers[0][0], layers[-1][0]
        if len(layers) == 1:
            return slope, last.trace().expand(len(z))
        if len(layers) == 2:
            return slope, torch.mv(gains[0], (first.t() * last).sum(0))
        middle = layers[1][0] * (first @ last).t()
        return slope, (functional.linear(gains[0], middle) * gains[1]).sum(-1)

    def jacobian(self, t: Time, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(t, z), of shape (n, d), and the Jacobian's columns (d, n, d): [j, s, i] is df_i/dz_j of sample s."""
        return self._with_jacobian(self.at(t), z)

    def vjp(self, t: Time, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(t, z) and the vector-Jacobian products e^T J, both of shape (n, d), for e (n, d)."""
        layers = self.at(t)
        slope, gains = self._with_gains(layers, z)
        row = e @ layers[-1][0]
        for (weight, _), gain in zip(reversed(layers[:-1]), reversed(gains)):
            row = (row * gain) @ weight
        return slope, row

    def _with_gains(self, layers: Layers, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return f(t, z) and the activation's derivatives at every hidden layer."""
        gains = []
        for weight, bias in layers[:-1]:
            before = functional.linear(z, weight, bias)
            z = self.activate(before)
            gains.append(self.derivative(before, z))
        return functional.linear(z, *layers[-1]), gains

    def _with_jacobian(self, layers: Layers, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(t, z) and the Jacobian by propagating the samples and the d unit tangents through the layers."""
        if self.compiled:
            return SlopeAndJacobian.apply(self.activation, z, *(part for layer in layers for part in layer))
        n, d = z.shape
        (weight, bias), rest = layers[0], layers[1:]
        before = functional.linear(z, weight, bias)
        tangents = weight.t()[:, None].expand(d, n, -1)
        for weight, bias in rest:
            z = self.activate(before)
            tangents = functional.linear(tangents * self.derivative(before, z), weight)
            before = functional.linear(z, weight, bias)
        return before, tangents
