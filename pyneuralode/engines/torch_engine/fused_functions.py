"""Autograd functions with hand-written backward passes: a layered field's value with its trace or its Jacobian.

They return the same values as the plain operations in `LayeredNet`, with far fewer calls and passes over memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .activations import ACTIVATIONS, DERIVATIVES, SECOND_DERIVATIVES, fast_tanh
from .once_differentiable import once_differentiable


class OneHiddenTrace(torch.autograd.Function):
    """The value (n, d) of a network with one hidden layer, and the trace (n,) of its Jacobian.

    The trace is sum_k g_k c_k, where g is the activation's derivative and c_k = sum_i W1[k, i] W2[i, k].
    """

    @staticmethod
    def forward(ctx, activation: str, z: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor | None):
        value, gain = _activate(activation, functional.linear(z, w1, b1))
        coefficients = (w1.t() * w2).sum(0)
        ctx.activation, ctx.last_bias = activation, b2 is not None
        ctx.save_for_backward(z, w1, b1, w2, coefficients)
        return functional.linear(value, w2, b2), torch.mv(gain, coefficients)

    @staticmethod
    @once_differentiable
    def backward(ctx, slope_bar: Tensor, trace_bar: Tensor):
        z, w1, b1, w2, coefficients = ctx.saved_tensors
        before = functional.linear(z, w1, b1)
        value, gain = _activate(ctx.activation, before)
        bar = slope_bar @ w2
        bar.mul_(gain)
        bend = SECOND_DERIVATIVES[ctx.activation]
        if bend is not None:
            bar.addcmul_(bend(before, value, gain), torch.outer(trace_bar, coefficients))
        coefficients_bar = torch.mv(gain.t(), trace_bar)
        return (
            None,
            bar @ w1,
            torch.addcmul(bar.t() @ z, w2.t(), coefficients_bar[:, None]),
            bar.sum(0),
            torch.addcmul(slope_bar.t() @ value, w1.t(), coefficients_bar),
            slope_bar.sum(0) if ctx.last_bias else None,
        )


class SlopeAndJacobian(torch.autograd.Function):
    """The value (n, d) of a network with any number of hidden layers, and its Jacobian's columns (d, n, d).

    The element [j, s, i] of the columns is df_i/dz_j for sample s. The samples and the d unit tangents go through each
    layer as one stack (1 + d, n, width).
    """

    @staticmethod
    def forward(ctx, activation: str, z: Tensor, *flat: Tensor | None):
        weights, biases = flat[::2], flat[1::2]
        n, d = z.shape
        before, tangents = functional.linear(z, weights[0], biases[0]), weights[0].t()[:, None]
        products = []
        for weight, bias in zip(weights[1:], biases[1:]):
            stack = _stack(activation, before, tangents)[0]
            product = functional.linear(stack, weight)
            before, tangents = product[0], product[1:]
            if bias is not None:
                before += bias
            products.append(product)
        ctx.activation, ctx.with_bias = activation, [bias is not None for bias in biases]
        # Only the products of each layer are saved: allocating memory costs more than recomputing the other values.
        ctx.save_for_backward(z, biases[0], *weights, *products[:-1])
        return before.clone(), tangents.expand(d, n, -1).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, slope_bar: Tensor, jacobian_bar: Tensor):
        count = len(ctx.with_bias)
        z, first_bias, *rest = ctx.saved_tensors
        weights, products = rest[:count], rest[count:]
        bend = SECOND_DERIVATIVES[ctx.activation]
        bars: list[Tensor | None] = []
        bar = torch.cat([slope_bar[None], jacobian_bar])
        for layer in range(count - 1, 0, -1):
            if layer > 1:
                before, tangents = products[layer - 2][0], products[layer - 2][1:]
            else:
                before, tangents = functional.linear(z, weights[0], first_bias), weights[0].t()[:, None]
            stack, gain = _stack(ctx.activation, before, tangents)
            bars += [bar[0].sum(0) if ctx.with_bias[layer] else None, bar.flatten(0, 1).t() @ stack.flatten(0, 1)]
            bar = bar @ weights[layer]
            gain_bar = None if bend is None else (bar[1:] * tangents).sum(0)
            bar *= gain
            if gain_bar is not None:
                bar[0].addcmul_(gain_bar, bend(before, stack[0], gain))
        bars += [bar[0].sum(0) if ctx.with_bias[0] else None, torch.addmm(bar[1:].sum(1).t(), bar[0].t(), z)]
        return None, bar[0] @ weights[0], *reversed(bars)


def _stack(activation: str, before: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values and tangents (1 + d, n, width) after a layer's activation, and the activation's derivative."""
    value, gain = _activate(activation, before)
    stack = before.new_empty(1 + len(tangents), *before.shape)
    stack[0] = value
    torch.mul(tangents, gain, out=stack[1:])
    return stack, gain


def _activate(activation: str, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values and the derivatives of an activation at `before`."""
    if activation == "tanh":
        value = fast_tanh(before)
        return value, torch.addcmul(torch.ones((), dtype=value.dtype, device=value.device), value, value, value=-1)
    value = ACTIVATIONS[activation](before)
    return value, DERIVATIVES[activation](before, value)
