"""Solving a whole problem on the torch engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArgumentError, PyNeuralODEError
from ...fields import VectorField
from ...gradients import Backprop, BacksolveAdjoint, Checkpointed, InterpolatingAdjoint, require_gradient
from ...problem import Problem, Solution, Statistics
from ...solvers import find_solver
from ..inputs import check_described, flat_control, read_parameters
from ..state import Layout, all_finite, check_times, flat_slope, flatten, times_inside
from . import events, independent, numpy_functions
from .compiled import formulas, networks
from .dynamics import bind, check_slope, refuse_hidden_parameters
from .finite_gradients import checked_solve
from .gradient_methods import (
    Task,
    Tied,
    attach_outputs,
    attach_start,
    backprop,
    checkpointed,
    continuous,
    distinct,
    forward_mode,
    trajectory,
)
from .march import Step, error_norm, not_finite_error
from .stiff import LinearizableSlope, as_method, find_tableau
from .tableaus import Tableau
from .tangents import carries_derivatives, in_forward_mode, refuse_tangents


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
    adaptive = tableau.error is not None and problem.control.step_size is None
    control = flat_control(problem.control, y0, layout, adaptive)
    statistics = Statistics()
    if layout.numpy:
        problem = numpy_functions.adapt_problem(problem, statistics)
    f = _counted_slope(problem.dynamics, parameters, layout, y0.dtype, statistics)
    own = isinstance(problem.dynamics, (VectorField, nn.Module))
    if torch.is_grad_enabled() and not (layout.numpy or own or isinstance(problem.gradient, Backprop)):
        refuse_hidden_parameters(f(float(ts[0].detach()), y0.detach()), parameters, problem.gradient)
    explicit = isinstance(tableau, Tableau)
    if in_forward_mode():
        _refuse_lost_tangents(problem, explicit, y0, ts, f(float(ts[0].detach()), y0), *parameters.values())
    task = Task(
        f=f if explicit else LinearizableSlope(f, problem.dynamics, parameters, layout, statistics),
        ts=ts.detach().tolist(),
        method=as_method(tableau, y0.dtype, y0.device),
        control=control,
        parameters=distinct(p for p in parameters.values() if p.requires_grad),
        constants=tuple(p for p in parameters.values() if not p.requires_grad),
        statistics=statistics,
        norm=error_norm(control, layout.shapes),
    )
    if problem.events:
        return events.solve(problem, task, y0, layout, again=solve)
    times_matter = carries_derivatives(ts)
    twice = isinstance(problem.gradient, Backprop)  # the others refuse second derivatives
    if times_matter:
        ts = ts.clone()  # which the caller may change
    start = attach_start(f, ts, y0, twice) if times_matter else y0
    steps: list[Step] | None = [] if problem.dense else None
    paths = (networks, formulas) if explicit else (formulas,)
    joint = control.norm == "joint"
    path = next((path for path in paths if joint and path.applies(problem, start, parameters)), None)
    if steps is not None:
        states = checked_solve(lambda start: Tied.apply(backprop(task, start, steps), *task.parameters), start)
    elif path:
        run = path.prepare(problem, task, start)
        states = run(parameters)
    else:
        states = _differentiable(problem, task, start)
    if not all_finite(states):
        first = int((~torch.isfinite(states.detach()).all(1)).nonzero()[0])
        raise not_finite_error(task.ts[first])
    if times_matter:
        states = attach_outputs(f, ts, task.ts, states, twice and not path)
    return Solution(
        ts=problem.ts if isinstance(problem.ts, Tensor) else np.asarray(problem.ts, dtype=float),
        ys=layout.deliver(states),
        nfev=statistics.nfev,
        accepted=statistics.accepted,
        rejected=statistics.rejected,
        message="reached the last time",
        solver=tableau.name,
        engine="torch (compiled)" if path else "torch",
        dense=None if steps is None else _dense(steps, task.parameters, layout),
        again=(lambda named: layout.unpack(run(named))) if path and not (layout.numpy or times_matter) else None,
    )


def lacking(problem: Problem) -> str | None:
    """Return what this engine lacks of a problem's solver and gradient; None if it has both."""
    if not isinstance(problem.solver, Tableau) and "torch" not in (solver := find_solver(problem.solver)).engines:
        return f"solver {solver.name!r} is not in the torch engine"
    if "torch" not in problem.gradient.engines:
        return f"gradient {type(problem.gradient).__name__!r} is not in the torch engine"
    return None


def slope(dynamics: Any, parameters: dict[str, Any], t: float, y: Any) -> Any:
    """Return dy/dt at time `t` and state `y`, in the kind (NumPy or torch) of `y`."""
    flat, layout = flatten(y)
    own = read_parameters(dynamics, parameters, flat, constant=layout.numpy)
    if layout.numpy:
        dynamics = numpy_functions.adapt_field(dynamics)
    return layout.deliver(_counted_slope(dynamics, own, layout, flat.dtype, Statistics())(float(t), flat))


def _differentiable(problem: Problem, task: Task, start: Tensor) -> Tensor:
    needs_gradient = torch.is_grad_enabled() and (start.requires_grad or bool(task.parameters))
    gradient = problem.gradient
    if not needs_gradient:
        return backprop(task, start)
    if isinstance(gradient, Backprop):
        return checked_solve(lambda start: Tied.apply(backprop(task, start), *task.parameters), start)
    if isinstance(gradient, Checkpointed):
        return checkpointed(task, start, gradient.every)
    if isinstance(gradient, (BacksolveAdjoint, InterpolatingAdjoint)):
        return continuous(task, start, gradient)
    return forward_mode(task, start)


def _counted_slope(
    dynamics: Any, parameters: dict[str, Tensor], layout: Layout, dtype: torch.dtype, statistics: Statistics
) -> Callable:
    if isinstance(dynamics, VectorField):
        check_described(dynamics, parameters, layout)
    if isinstance(dynamics, nn.Module):
        for label, buffer in dynamics.named_buffers():
            if buffer.is_floating_point() and dtype != buffer.dtype:
                raise ArgumentError(f"the buffer {label} is {buffer.dtype} and y0 {dtype}: give both one dtype.")
    name = type(dynamics).__name__ if isinstance(dynamics, (VectorField, nn.Module)) else "the field"

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
        except Exception as error:  # later ones are not y0's fault
            if not layout.numpy and name == "the field":
                time = torch.full((), float(t), dtype=y.dtype, device=y.device)
                numpy_functions.refuse_array_function(dynamics, time, layout.unpack(y), error)
            if isinstance(error, PyNeuralODEError) or not isinstance(error, RuntimeError):
                raise
            # torch's word for shapes and dtypes that do not fit
            raise ArgumentError(
                f"{name} cannot be evaluated at y0 of shape {layout.describe()} and {y.dtype} "
                f"({str(error).splitlines()[0].rstrip('.')}): give a y0 that it takes."
            ) from error

    return slope


def _refuse_lost_tangents(problem: Problem, explicit: bool, *tensors: Tensor) -> None:
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if not explicit:
        refuse_tangents(f"the solver {problem.solver}", "take an explicit one, such as Tsit5", *tensors)
    if recorded and not isinstance(problem.gradient, Backprop):
        refuse_tangents(f"the gradient {type(problem.gradient).__name__}", "write gradient='Backprop'", *tensors)


def _dense(steps: list[Step], parameters: tuple[Tensor, ...], layout: Layout) -> Callable:
    """Return the function of time that the steps' interpolants make."""
    state_at = trajectory(steps)
    first, last = steps[0].t, steps[-1].t_end

    def at(t):
        states = torch.stack([state_at(float(time)) for time in times_inside(t, first, last)])
        states = Tied.apply(states, *parameters)
        return layout.deliver(states[0] if np.ndim(t) == 0 else states)

    return at
