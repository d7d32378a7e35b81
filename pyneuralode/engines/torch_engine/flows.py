"""The generic path for continuous flows: the state together with the integrals of the trace and of the penalties.

Along z' = f(t, z) the log density changes at the rate -trace(J), where J = df/dz (Chen et al. 2018). The trace is
exact, or estimated as e^T J e with noise e that stays the same during a solve (Hutchinson 1990; Grathwohl et al. 2019).
The penalties are the integrals of |f|^2 and of |J|_F^2; if the trace is estimated, |J|_F^2 is estimated by |e^T J|^2
(Finlay et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from ...fields import ConcatConv, VectorField
from ...problem import Integrals, PathIntegrals, Problem, Signature, Solution
from ..backend import Backend, Prepared
from .autograd_jacobian import AutogradJacobian
from .conv_net import ConvNet
from .dynamics import bind
from .generic import GenericPrepared, lacking
from .layered_net import LayeredNet, activation_of, layers_of


class Flows(Backend):
    """The generic backend for continuous flows, which supports every field."""

    name = "torch"

    def unsupported(self, problem: Problem) -> str | None:
        return lacking(problem)

    def prepare(self, problem: Problem) -> FlowPrepared:
        return FlowPrepared(problem)


class FlowPrepared(Prepared):
    """A prepared flow; the values, including the noise, are passed at each solve."""

    engine = "torch"

    def run(self, parameters: Mapping[str, Any], y0: Tensor, ts: Any, noise: Tensor | None = None) -> Solution:
        problem, wanted = self.problem, self.problem.integrals
        if wanted.estimated and noise is None:
            raise ArgumentError("noise is None, but the trace is estimated: give a tensor with the shape of y0.")
        slope = _Joint(_products(problem, parameters), noise if wanted.estimated else None, wanted)
        zeros = y0.new_zeros(len(y0))
        start = (y0, *[zeros] * (1 + wanted.kinetic + wanted.jacobian))
        joint = replace(
            problem, field=slope, signature=Signature.of(parameters, start, ts), compiled=False, integrals=None
        )
        # A surrounding torch.autocast applies only to the field, which has already stored autocast's dtype: sums of
        # small steps need full precision.
        with torch.autocast(y0.device.type, enabled=False):
            solution = GenericPrepared(joint).run(parameters, start, ts)
        end, trace, *penalties = (part[-1] for part in solution.ys)
        forward = 1.0 if float(ts[-1]) > float(ts[0]) else -1.0
        integrals = Integrals(
            trace,
            forward * penalties[0] if wanted.kinetic else None,
            forward * penalties[-1] if wanted.jacobian else None,
        )
        return replace(solution, ts=solution.ts[-1:], ys=end[None], integrals=integrals)


class _Joint:
    """The right-hand side ``f(t, joint)`` for a tuple of the state and its integrals."""

    def __init__(self, products: LayeredNet | ConvNet | AutogradJacobian, noise: Tensor | None, wanted: PathIntegrals):
        self.products, self.noise, self.wanted = products, noise, wanted

    def __call__(self, t: Tensor, joint: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = joint[0]
        if self.noise is not None:
            slope, row = self.products.vjp(t, z, self.noise)
            parts = [slope, (row * self.noise).sum(-1)]
            squares = row.square().sum(-1) if self.wanted.jacobian else None
        elif self.wanted.jacobian:
            slope, whole = self.products.jacobian(t, z)
            parts = [slope, whole.diagonal(dim1=0, dim2=2).sum(-1)]
            squares = whole.square().sum((0, 2))
        else:
            parts, squares = [*self.products.trace(t, z)], None
        if self.wanted.kinetic:
            parts.append(parts[0].square().sum(-1))
        return (*parts, squares) if self.wanted.jacobian else tuple(parts)


def _products(problem: Problem, parameters: Mapping[str, Any]) -> LayeredNet | ConvNet | AutogradJacobian:
    """Return an object that computes f and products with its Jacobian, in closed form if the field is layered."""
    field = problem.field
    if isinstance(field, ConcatConv) and problem.integrals.estimated:
        return ConvNet(field, parameters)
    layers = layers_of(field, parameters) if isinstance(field, VectorField) else None
    if layers is not None:
        return LayeredNet(layers, activation_of(field), problem.compiled)
    return AutogradJacobian(bind(field, parameters)[0])
