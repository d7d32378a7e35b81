"""Solving a whole problem on the torch engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArgumentError, PyNeuralODEError, SolverError
from ...fields import Field
from ...gradients import Backprop, Backsolve, Checkpointed, Interpolating, require_gradient
from ..base import Problem, Solution, Statistics
from ..inputs import check_described, flat_control, read_parameters
from ..state import Layout, all_finite, check_times, flat_slope, flatten, times_inside
from . import events, fused, fused_formulas, independent
from .differentiate import (
    Task,
    Tied,
    attach_outputs,
    attach_start,
    backprop,
    checkpointed,
    continuous,
    forward_mode,
    trajectory,
)
from .dynamics import bind, check_slope, refuse_hidden_parameters
from .march import Step, norm_of
from .stiff import System, as_method, find_tableau
from .tableaus import Tableau


def solve(problem: Problem) -> Solution:
    """Solve `problem`; see `pyneuralode.solve` for what it may hold."""
    if problem.batch == "independent":
        return independent.solve(problem, alone=solve)
    y0, layout = flatten(problem.y0)
    ts = check_times(problem.ts)
    if ts.dtype != y0.dtype:
        # Double times beside a single state keep the step arithmetic exact; a graph on them passes the cast.
        ts = ts.to(torch.float64)
    if layout.numpy:
        ts = ts.detach()
    parameters = read_parameters(problem.dynamics, problem.parameters, y0, constant=layout.numpy)
    tableau = find_tableau(problem.solver)
    require_gradient(problem.gradient, "torch")
    adaptive = tableau.error is not None and problem.control.step is None
    control = flat_control(problem.control, y0, layout, adaptive)
    statistics = Statistics()
    f = _counted_slope(problem.dynamics, parameters, layout, y0.dtype, statistics)
    own = isinstance(problem.dynamics, (Field, nn.Module))
    if torch.is_grad_enabled() and not (layout.numpy or own or isinstance(problem.gradient, Backprop)):
        refuse_hidden_parameters(f(float(ts[0].detach()), y0.detach()), parameters, problem.gradient)
    explicit = isinstance(tableau, Tableau)
    task = Task(
        f=f if explicit else System(f, problem.dynamics, parameters, layout, statistics),
        ts=ts.detach().tolist(),
        method=as_method(tableau, y0.dtype, y0.device),
        control=control,
        parameters=tuple(p for p in parameters.values() if p.requires_grad),
        statistics=statistics,
        norm=norm_of(control, layout.shapes),
    )
    if problem.events:
        return events.solve(problem, task, y0, layout, again=solve)
    times_matter = ts.requires_grad and torch.is_grad_enabled()
    start = attach_start(f, ts, y0) if times_matter else y0
    steps: list[Step] | None = [] if problem.dense else None
    paths = (fused, fused_formulas) if explicit else (fused_formulas,)
    joint = control.norm == "joint"
    path = next((path for path in paths if joint and path.applies(problem, start, parameters)), None)
    if steps is not None:
        states = backprop(task, start, steps)
    elif path:
        run = path.prepare(problem, task, start.clone())  # `again` starts there, whatever becomes of the caller's y0
        states = run(parameters)
    else:
        states = _differentiable(problem, task, start)
    if not all_finite(states):
        first = int((~torch.isfinite(states.detach()).all(1)).nonzero()[0])
        raise SolverError(
            f"the state is non-finite at t = {task.ts[first]:g}: take smaller steps or an adaptive solver such as Tsit5.",
            task.ts[first],
        )
    if times_matter:
        states = attach_outputs(f, ts, task.ts, states)
    return Solution(
        ts=problem.ts if isinstance(problem.ts, Tensor) else np.asarray(problem.ts, dtype=float),
        ys=layout.deliver(states),
        nfev=statistics.nfev,
        accepted=statistics.accepted,
        rejected=statistics.rejected,
        reason="reached the last time",
        solver=tableau.name,
        engine="torch (fused)" if path else "torch",
        dense=None if steps is None else _dense(steps, layout),
        again=(lambda named: layout.unpack(run(named))) if path and not (layout.numpy or times_matter) else None,
    )


def slope(dynamics: Any, parameters: dict[str, Any], t: float, y: Any) -> Any:
    """Return dy/dt at time `t` and state `y`, in the kind (NumPy or torch) of `y`."""
    flat, layout = flatten(y)
    own = read_parameters(dynamics, parameters, flat, constant=layout.numpy)
    return layout.deliver(_counted_slope(dynamics, own, layout, flat.dtype, Statistics())(float(t), flat))


def _differentiable(problem: Problem, task: Task, start: Tensor) -> Tensor:
    needs_gradient = torch.is_grad_enabled() and (start.requires_grad or bool(task.parameters))
    gradient = problem.gradient
    if not needs_gradient:
        return backprop(task, start)
    if isinstance(gradient, Backprop):
        return Tied.apply(backprop(task, start), *task.parameters)
    if isinstance(gradient, Checkpointed):
        return checkpointed(task, start, gradient.every)
    if isinstance(gradient, (Backsolve, Interpolating)):
        return continuous(task, start, gradient)
    return forward_mode(task, start)


def _counted_slope(
    dynamics: Any, parameters: dict[str, Tensor], layout: Layout, dtype: torch.dtype, statistics: Statistics
) -> Callable:
    if isinstance(dynamics, Field):
        check_described(dynamics, parameters, layout)
    if isinstance(dynamics, nn.Module):
        for label, buffer in dynamics.named_buffers():
            if buffer.is_floating_point() and dtype != buffer.dtype:
                raise ArgumentError(f"the buffer {label} is {buffer.dtype} and y0 {dtype}: give both one dtype.")
    name = type(dynamics).__name__ if isinstance(dynamics, (Field, nn.Module)) else "the field"

    grad = torch.is_grad_enabled()

    @cache  # at the first call, as the compiled path needs none
    def plain() -> Callable:
        # Gradient methods call without recording, but what a field makes of its parameters here they differentiate.
        with torch.set_grad_enabled(grad):
            call, wants_tensor = bind(dynamics, parameters)
        return flat_slope(call, layout, wants_tensor, check_slope, name)

    def slope(t: float, y: Tensor) -> Tensor:
        statistics.nfev += 1
        if statistics.nfev > 1:
            return plain()(t, y)
        try:
            return plain()(t, y)
        except RuntimeError as error:  # torch's word for shapes and dtypes that do not fit; later ones are not y0's fault
            if isinstance(error, PyNeuralODEError):
                raise
            raise ArgumentError(
                f"{name} cannot be evaluated at y0 of shape {layout.describe()} and {y.dtype} "
                f"({str(error).splitlines()[0].rstrip('.')}): give a y0 that it takes."
            ) from error

    return slope


def _dense(steps: list[Step], layout: Layout) -> Callable:
    """Return the function of time that the steps' interpolants make."""
    state_at = trajectory(steps)
    first, last = steps[0].t, steps[-1].t_end

    def at(t):
        states = torch.stack([state_at(float(time)) for time in times_inside(t, first, last)])
        return layout.deliver(states[0] if np.ndim(t) == 0 else states)

    return at
