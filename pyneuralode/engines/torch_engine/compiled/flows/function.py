"""The door to the compiled flows: where they apply, and their place in autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from .....fields import VectorField
from .....gradients import OF_STEPS
from .....problem import Control
from ....inputs import check_tolerances
from ....integrals import Integrals
from ...march import fixed_grid, stop_times
from ...once_differentiable import once_differentiable
from ...tableaus import Tableau
from ..available import compiled, march_error, readable, run, wants_gradient
from ..tableau_plan import tableau_plan
from .plan import FlowPlan, flow_plan


def applies(
    field: object, parameters: dict[str, Tensor], state: Tensor, tableau: object, control: Control, gradient: object
) -> bool:
    """Return whether the compiled flows can carry `state` (n, d), with the exact trace and no penalties."""
    if not isinstance(field, VectorField) or flow_plan(field) is None or _kernels() is None:
        return False
    plain = control.norm == "joint" and np.ndim(control.rtol) == np.ndim(control.atol) == 0
    known = len(state) > 0 and readable(state, *parameters.values())
    return plain and known and isinstance(tableau, Tableau) and isinstance(gradient, OF_STEPS)


def solve(
    field: VectorField,
    parameters: dict[str, Tensor],
    state: Tensor,
    span: tuple[float, float],
    tableau: Tableau,
    control: Control,
) -> Integrals:
    """Carry `state` (n, d) over the span, connected to autograd."""
    plan = flow_plan(field)
    tensors = [parameters[name].to(state.dtype) for name in plan.shapes]
    call = _Call(plan, span, tableau, control)
    if wants_gradient(state, *tensors):
        end, trace = _Flow.apply(call, state, *tensors)
    else:
        end, trace = call.march(state.detach(), [p.detach() for p in tensors], keep=False)
    return Integrals(end, trace, None, None, *call.counts)


def _kernels() -> tuple[ModuleType, ...] | None:
    return compiled(f"{__package__}.march")


@dataclass
class _Call:
    """One solve: what it is of, and after the march what its adjoint needs."""

    plan: FlowPlan
    span: tuple[float, float]
    tableau: Tableau
    control: Control
    counts: tuple[int, int, int] = (0, 0, 0)  # evaluations, accepted and rejected steps

    def march(self, state: Tensor, parameters: list[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
        """Return the last states (n, d) and the integral of the trace (n,)."""
        control, tableau = self.control, self.tableau
        scheme = tableau_plan(tableau)
        self.theta = torch.cat([p.reshape(-1) for p in parameters]).numpy()
        span = [float(t) for t in self.span]
        grid = fixed_grid(tableau, span, control)
        if grid is None:
            check_tolerances(control, state)
        stops = np.array(stop_times(span, control) if grid is None else grid)
        controls = (control.first_step or 0.0, control.min_step, control.max_step, control.max_steps, grid is None)
        self.scheme = scheme.rows, scheme.ends, scheme.interpolant, scheme.numbers
        status, t, size, self.counts, end, *record = run(
            _kernels()[0].march, self.plan.head, self.plan.scales, self.theta, state.t().contiguous().numpy(),
            stops, *self.scheme, tableau.c, float(control.rtol), float(control.atol), np.array(controls, dtype=float), keep,
        )  # fmt: skip
        if status:
            raise march_error(status, t, size, control)
        self.record = record if keep else None
        end = torch.from_numpy(end)
        return end[:-1].t().contiguous(), end[-1]

    def adjoint_sweep(self, end_bar: Tensor, trace_bar: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients with respect to the first states (n, d) and to each parameter."""
        state_bar, theta_bar = run(
            _kernels()[0].adjoint_sweep, self.plan.head, self.plan.scales, self.theta, *self.scheme, self.counts[1], *self.record,
            end_bar.t().contiguous().numpy(), trace_bar[None].contiguous().numpy(),
        )  # fmt: skip
        shapes = self.plan.shapes.values()
        parts = torch.from_numpy(theta_bar).split([math.prod(shape) for shape in shapes])
        return torch.from_numpy(state_bar).t(), [part.reshape(shape) for part, shape in zip(parts, shapes)]


class _Flow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call: _Call, state: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.call = call
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        return call.march(state, list(parameters), keep=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, end_bar: Tensor, trace_bar: Tensor):
        ctx.saved_tensors  # noqa: B018 - raises where a parameter was changed in place since
        state_bar, parts = ctx.call.adjoint_sweep(end_bar, trace_bar)
        return None, state_bar, *parts
