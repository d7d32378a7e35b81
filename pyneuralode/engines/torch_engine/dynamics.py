"""Conversion of a described field (`VectorField`), module or callable to the function ``f(t, y)`` that is integrated."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ArgumentError
from ...fields import MLP, SEIR, ConcatConv, ConcatMLP, Equations, GatedMLP, HyperMLP, Linear, VectorField
from .activations import ACTIVATIONS, INPUT_MAPS
from .conv_net import ConvNet
from .equations import build_equations
from .layered_net import LayeredNet, activation_of, layers_of

Parameters = dict[str, Tensor]
Dynamics = Callable[[float, Tensor], Tensor]


@singledispatch
def build(field: VectorField, parameters: Parameters) -> Dynamics:
    """Return ``f(t, y)``, with y (..., dim), for a `VectorField`: from a builder, or else from its method `slope`."""
    return lambda t, y: field.slope(torch.as_tensor(t, dtype=y.dtype, device=y.device), y, parameters)


def has_builder(field: VectorField) -> bool:
    """Return whether the engine has its own code for a field; if not, it calls the field's method `slope`."""
    return build.dispatch(type(field)) is not build.dispatch(object)


@build.register
def _(field: MLP, parameters: Parameters) -> Dynamics:
    layers = len(field.sizes) - 1
    pairs = [(parameters[f"weight_{i}"], parameters[f"bias_{i}"]) for i in range(1, layers + 1)]
    activate, enter = ACTIVATIONS[field.activation], INPUT_MAPS[field.input_map]
    linear = nn.functional.linear

    def slope(t: float, y: Tensor) -> Tensor:
        x = enter(y)
        if field.input_scale != 1:
            x = x / field.input_scale
        for weight, bias in pairs[:-1]:
            x = activate(linear(x, weight, bias))
        x = linear(x, *pairs[-1])
        return x * field.output_scale if field.output_scale != 1 else x

    return slope


@build.register
def _(field: Linear, parameters: Parameters) -> Dynamics:
    matrix, enter = parameters["A"], INPUT_MAPS[field.input_map]
    return lambda t, y: nn.functional.linear(enter(y), matrix)


@build.register
def _(field: SEIR, parameters: Parameters) -> Dynamics:
    gamma, R0, sigma = parameters["gamma"], parameters["R0"], parameters["sigma"]

    def slope(t: float, y: Tensor) -> Tensor:
        s, e, i, _ = y.unbind(-1)
        infected, onset, recovered = gamma * R0 * s * i, sigma * e, gamma * i
        return torch.stack([-infected, infected - onset, onset - recovered, recovered], dim=-1)

    return slope


build.register(Equations, build_equations)


@build.register(HyperMLP)
@build.register(ConcatMLP)
@build.register(GatedMLP)
def _(field: VectorField, parameters: Parameters) -> Dynamics:
    return LayeredNet(layers_of(field, parameters), activation_of(field)).slope


@build.register
def _(field: ConcatConv, parameters: Parameters) -> Dynamics:
    return ConvNet(field, parameters, torch.contiguous_format).slope


# The attributes of a field that stiff solvers read; see pyneuralode.solvers.
HINTS = ("samplewise", "matrix_free", "jacobian")


def with_hints(function: Callable, field: Any, **others: Any) -> Callable:
    """Return `function` with the attributes that stiff solvers read, from `others` or else from `field`."""
    for name in HINTS:
        if name in others or hasattr(field, name):
            setattr(function, name, others[name] if name in others else getattr(field, name))
    return function


def refuse_hidden_parameters(slope: Tensor, parameters: Parameters, gradient: object) -> None:
    """Raise if `slope` depends on tensors in a callable's closure, for which adjoint methods would give no gradient."""
    named = {id(p) for p in parameters.values()}
    nodes = {p.grad_fn for p in parameters.values() if p.grad_fn is not None}
    waiting, hidden = [slope.grad_fn], False
    while waiting and not hidden:
        node = waiting.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        hidden = hasattr(node, "variable") and id(node.variable) not in named
        waiting += [following for following, _ in node.next_functions]
    if hidden:
        raise ArgumentError(
            f"the field depends on tensors that require gradients, which {type(gradient).__name__} cannot find: pass them by name, "
            "as in solve(..., parameters={'k': k}), or make the field a torch.nn.Module."
        )


def bind(dynamics: object, parameters: Parameters) -> tuple[Callable, bool]:
    """Return ``f(t, y)`` for any field, and whether it is user code, which receives t as a tensor and is checked."""
    if isinstance(dynamics, VectorField):
        return build(dynamics, parameters), not has_builder(dynamics)
    if isinstance(dynamics, nn.Module):
        own = dict(dynamics.named_parameters())
        if all(own[name] is value for name, value in parameters.items()):
            return dynamics, True
        return lambda t, y: torch.func.functional_call(dynamics, parameters, (t, y)), True
    return dynamics, True
