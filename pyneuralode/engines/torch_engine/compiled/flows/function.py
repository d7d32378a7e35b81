"""Solves of flows by compiled code, and their place in autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from .....problem import Control
from ...once_differentiable import once_differentiable
from ...tableaus import Tableau
from ..available import compiled, march_error, run, wants_gradient
from ..tableau_plan import tableau_plan
from ..times import Times
from .plan import FlowPlan


def kernels() -> tuple[ModuleType, ...] | None:
    return compiled(f"{__package__}.march")


def solve(call: Call, state: Tensor, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the end (n, d) of the samples `state` and the integral of the trace (n,), connected to autograd."""
    if wants_gradient(state, *tensors):
        return _Flow.apply(call, state, *tensors)
    return call.march(state.detach(), [p.detach() for p in tensors], keep=False)


@dataclass
class Call:
    """One solve: what it is of, and after the march what its adjoint needs."""

    plan: FlowPlan
    times: Times
    tableau: Tableau
    control: Control
    counts: tuple[int, int, int] = (0, 0, 0)  # evaluations, accepted and rejected steps

    def march(self, state: Tensor, parameters: list[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
        """Return the last states (n, d) and the integral of the trace (n,)."""
        control, tableau = self.control, self.tableau
        scheme = tableau_plan(tableau)
        self.theta = torch.cat([p.reshape(-1) for p in parameters]).numpy()
        controls = (
            control.first_step or 0.0,
            control.min_step,
            control.max_step,
            control.max_steps,
            self.times.adaptive,
        )
        self.scheme = scheme.rows, scheme.ends, scheme.interpolant, scheme.numbers
        status, t, size, self.counts, end, *record = run(
            kernels()[0].march, self.plan.head, self.plan.scales, self.theta, state.t().contiguous().numpy(),
            self.times.stops, *self.scheme, tableau.c, float(control.rtol), float(control.atol), np.array(controls, dtype=float), keep,
        )  # fmt: skip
        if status:
            raise march_error(status, t, size, control)
        self.record = record if keep else None
        end = torch.from_numpy(end)
        return end[:-1].t().contiguous(), end[-1]

    def adjoint_sweep(self, end_bar: Tensor, trace_bar: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients with respect to the first states (n, d) and to each parameter."""
        state_bar, theta_bar = run(
            kernels()[0].adjoint_sweep, self.plan.head, self.plan.scales, self.theta, *self.scheme, self.counts[1], *self.record,
            end_bar.t().contiguous().numpy(), trace_bar[None].contiguous().numpy(),
        )  # fmt: skip
        shapes = self.plan.shapes.values()
        parts = torch.from_numpy(theta_bar).split([math.prod(shape) for shape in shapes])
        return torch.from_numpy(state_bar).t(), [part.reshape(shape) for part, shape in zip(parts, shapes)]


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: Call, state: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.call = call
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        return call.march(state, list(parameters), keep=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, end_bar: Tensor, trace_bar: Tensor):
        ctx.saved_tensors  # noqa: B018 - raises where a parameter was changed in place since
        state_bar, parts = ctx.call.adjoint_sweep(end_bar, trace_bar)
        return None, state_bar, *parts
