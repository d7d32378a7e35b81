"""The equations of a continuous flow: the state, and beside it the integrals of the trace and of the penalties.

Along z' = f(t, z) the log density changes by minus the trace of J = df/dz (Chen et al. 2018). The trace is exact, or
e^T J e with a noise e that stays the same during a solve (Hutchinson 1990; Grathwohl et al. 2019). The penalties are
the integrals of |f|^2 and of |J|_F^2, the latter estimated by |e^T J|^2 where the trace is (Finlay et al. 2020).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..conv_fields import ConcatConv
from ..engines import choice, torch_engine
from ..engines.integrals import Integrals
from ..engines.torch_engine.autograd_jacobian import AutogradJacobian
from ..engines.torch_engine.compiled import flows as compiled_flows
from ..engines.torch_engine.conv_net import ConvNet
from ..engines.torch_engine.dynamics import bind
from ..engines.torch_engine.layered_net import LayeredNet, activation_of, layers_of
from ..engines.torch_engine.stiff import find_tableau
from ..fields import VectorField
from ..problem import Problem

if TYPE_CHECKING:
    from .continuous import ContinuousFlow

TRACES = ("exact", "hutchinson")
NOISES = ("rademacher", "gaussian")


def draw_noise(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return Hutchinson's noise: mean 0, covariance the identity."""
    if kind == "rademacher":
        return rng.integers(0, 2, size=shape) * 2.0 - 1.0
    return rng.normal(size=shape)


def engine_of(flow: ContinuousFlow) -> str:
    """Return the engine that solves `flow`: under "auto" torch where Julia refuses it."""
    if choice.choose_engine(flow.engine) == "torch":
        return "torch"
    from ..engines.julia_engine import flows as julia  # not before: most installations never need it

    automatic = str(flow.engine).lower() == "auto"
    return "torch" if automatic and julia.refusal(flow) else "julia"


def solve_terms(
    flow: ContinuousFlow,
    state: Tensor,
    span: tuple[float, float],
    noise: Tensor | None,
    kinetic: bool = False,
    jacobian: bool = False,
) -> Integrals:
    """Carry `state` (n, d) from the first time of `span` to the second, with the integrals asked for.

    `noise` (n, d) is Hutchinson's; None for the exact trace. Differentiable in the state and in the flow's parameters.
    """
    if engine_of(flow) == "julia":
        from ..engines.julia_engine import flows as julia

        return julia.solve_terms(flow, state, span, noise, kinetic, jacobian)
    plain, tableau = noise is None and not kinetic and not jacobian, find_tableau(flow.solver)
    if (
        plain
        and flow.compiled
        and compiled_flows.applies(flow.field, flow.tensors(), state, tableau, flow.control, flow.gradient)
    ):
        return compiled_flows.solve(flow.field, flow.tensors(), state, span, tableau, flow.control)
    slope = _Joint(flow, noise, kinetic, jacobian)
    zeros = state.new_zeros(len(state))
    start = (state, *[zeros] * (1 + kinetic + jacobian))
    problem = Problem(
        slope, flow.tensors(), start, np.array(span), flow.solver, flow.control, flow.gradient, compiled=False
    )
    # An ambient autocast is for the field alone, which has seen it: sums of small steps need every digit.
    with torch.autocast(state.device.type, enabled=False):
        solution = torch_engine.solve(problem)
    end, trace, *penalties = (part[-1] for part in solution.ys)
    forward = 1.0 if span[1] > span[0] else -1.0
    return Integrals(
        end,
        trace,
        forward * penalties[0] if kinetic else None,
        forward * penalties[-1] if jacobian else None,
        solution.nfev,
        solution.accepted,
        solution.rejected,
    )


def solve_states(flow: ContinuousFlow, state: Tensor, times: np.ndarray) -> Tensor:
    """Return the states (T, n, d) at `times` (T,), from `state` (n, d) at the first of them."""
    engine = engine_of(flow)
    # Every state is wanted for itself, unlike the mean that a training computes: none may be inexact.
    control = replace(flow.control, norm="samples")
    # Julia differentiates steps in compiled code only; torch's compiled code knows fewer fields.
    problem = Problem(
        flow.field, flow.tensors(), state, times, flow.solver, control, flow.gradient, compiled=engine == "julia"
    )
    return choice.solve(problem, engine).ys


class _Joint:
    """The slope of the state and of the integrals along it, as one function of the time and all of them."""

    def __init__(self, flow: ContinuousFlow, noise: Tensor | None, kinetic: bool, jacobian: bool):
        self.products = _products(flow)
        self.noise, self.kinetic, self.jacobian = noise, kinetic, jacobian

    def __call__(self, t: Tensor, joint: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = joint[0]
        if self.noise is not None:
            slope, row = self.products.vjp(t, z, self.noise)
            parts = [slope, (row * self.noise).sum(-1)]
            squares = row.square().sum(-1) if self.jacobian else None
        elif self.jacobian:
            slope, whole = self.products.jacobian(t, z)
            parts = [slope, whole.diagonal(dim1=0, dim2=2).sum(-1)]
            squares = whole.square().sum((0, 2))
        else:
            parts, squares = [*self.products.trace(t, z)], None
        if self.kinetic:
            parts.append(parts[0].square().sum(-1))
        return (*parts, squares) if self.jacobian else tuple(parts)


def _products(flow: ContinuousFlow) -> LayeredNet | ConvNet | AutogradJacobian:
    """Return what gives the slope and the products with its Jacobian: in closed form where the field is layered."""
    parameters = flow.tensors()
    if isinstance(flow.field, ConcatConv) and flow.trace == "hutchinson":
        return ConvNet(flow.field, parameters)
    layers = layers_of(flow.field, parameters) if isinstance(flow.field, VectorField) else None
    if layers is not None:
        return LayeredNet(layers, activation_of(flow.field), flow.compiled)
    return AutogradJacobian(bind(flow.field, parameters)[0])
