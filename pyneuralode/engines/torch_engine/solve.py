"""Solving a whole problem on the torch engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArgumentError, PyNeuralODEError, SolverError
from ...fields import Field
from ...gradients import Backprop, Backsolve, Checkpointed, Interpolating, require_gradient
from ...solvers import find_solver, require_engine
from ..base import Problem, Solution, Statistics
from ..inputs import check_described, flat_control, read_parameters
from ..state import Layout, check_times, flat_slope, flatten, times_inside
from . import fused
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
from .dynamics import bind, check_slope
from .march import Step, as_method
from .tableaus import TABLEAUS, Tableau


def solve(problem: Problem) -> Solution:
    """Solve `problem`; see `pyneuralode.solve` for what it may hold."""
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
    if not (layout.numpy or isinstance(problem.dynamics, (Field, nn.Module)) or isinstance(problem.gradient, Backprop)):
        _refuse_hidden_parameters(f, float(ts[0].detach()), y0, parameters, problem.gradient)
    task = Task(
        f=f,
        ts=ts.detach().tolist(),
        method=as_method(tableau, y0.dtype, y0.device),
        control=control,
        parameters=tuple(p for p in parameters.values() if p.requires_grad),
        statistics=statistics,
    )
    times_matter = ts.requires_grad and torch.is_grad_enabled()
    start = attach_start(f, ts, y0) if times_matter else y0
    steps: list[Step] | None = [] if problem.dense else None
    compiled = fused.applies(problem, start, parameters)
    if steps is not None:
        states = backprop(task, start, steps)
    elif compiled:
        states = fused.solve(problem, task, start, parameters)
    else:
        states = _differentiable(problem, task, start)
    if not bool(torch.isfinite(states.detach()).all()):
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
        engine="torch (fused)" if compiled else "torch",
        dense=None if steps is None else _dense(steps, layout),
    )


def slope(dynamics: Any, parameters: dict[str, Any], t: float, y: Any) -> Any:
    """Return dy/dt at time `t` and state `y`, in the kind (NumPy or torch) of `y`."""
    flat, layout = flatten(y)
    own = read_parameters(dynamics, parameters, flat, constant=layout.numpy)
    return layout.deliver(_counted_slope(dynamics, own, layout, flat.dtype, Statistics())(float(t), flat))


def find_tableau(solver: str | Tableau) -> Tableau:
    """Return the tableau for a catalogue name, or the caller's own."""
    if isinstance(solver, Tableau):
        return solver
    entry = find_solver(solver)
    require_engine(entry, "torch")
    return TABLEAUS[entry.name]


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



def _refuse_hidden_parameters(f: Callable, t: float, y0: Tensor, parameters: dict[str, Tensor], gradient) -> None:
    """A callable's closure is invisible to the adjoint methods: tensors that are not named would get no gradient."""
    if not torch.is_grad_enabled():
        return
    named = {id(p) for p in parameters.values()}
    nodes = {p.grad_fn for p in parameters.values() if p.grad_fn is not None}
    waiting, hidden = [f(t, y0.detach()).grad_fn], False
    while waiting and not hidden:
        node = waiting.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        hidden = hasattr(node, "variable") and id(node.variable) not in named
        waiting += [following for following, _ in node.next_functions]
    if hidden:
        raise ArgumentError(
            f"the field depends on tensors that require gradients, which {type(gradient).__name__} cannot see: name them, "
            "solve(..., parameters={'k': k}), or make the field a torch.nn.Module."
        )



def _counted_slope(
    dynamics: Any, parameters: dict[str, Tensor], layout: Layout, dtype: torch.dtype, statistics: Statistics
) -> Callable:
    if isinstance(dynamics, Field):
        check_described(dynamics, parameters, layout)
    if isinstance(dynamics, nn.Module):
        for label, buffer in dynamics.named_buffers():
            if buffer.is_floating_point() and dtype != buffer.dtype:
                raise ArgumentError(f"the buffer {label} is {buffer.dtype} and y0 {dtype}: give both one dtype.")
    call, wants_tensor = bind(dynamics, parameters)
    name = type(dynamics).__name__ if isinstance(dynamics, (Field, nn.Module)) else "the field"
    plain = flat_slope(call, layout, wants_tensor, check_slope, name)

    def slope(t: float, y: Tensor) -> Tensor:
        statistics.nfev += 1
        if statistics.nfev > 1:
            return plain(t, y)
        try:
            return plain(t, y)
        except (
            RuntimeError
        ) as error:  # torch's word for shapes and dtypes that do not fit; later ones are not y0's fault
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
