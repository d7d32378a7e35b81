"""The generic path: any field, solver and gradient method of the torch engine, step by step on torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, kind_of
from ...fields import VectorField
from ...gradients import Backprop
from ...problem import EventTrace, Problem, Solution, Statistics, Values
from ...problem.values import Layout, flatten, read_parameters, times_inside
from ...tableaus import Tableau
from ..backend import Backend
from . import numpy_functions
from .dynamics import refuse_hidden_parameters
from .events import StepEvents, message, needs_steps
from .gradient_methods import (
    METHODS,
    Tied,
    attach_outputs,
    attach_start,
    backprop,
    differentiable,
    distinct,
    trajectory,
    watched_backprop,
)
from .joint import JointPrepared, require_finite
from .march import Step, Task, error_norm, fixed_grid
from .slopes import counted_slope
from .stiff import LinearizableSlope, as_method
from .tangents import carries_derivatives, in_forward_mode, refuse_tangents


class Generic(Backend):
    """The backend for every problem with batch='joint' whose solver and gradient method the engine supports."""

    name = "torch"

    def unsupported(self, problem: Problem) -> str | None:
        return lacking(problem)

    def prepare(self, problem: Problem) -> GenericPrepared:
        return GenericPrepared(problem)


def lacking(problem: Problem) -> str | None:
    """Return why the torch engine does not support a problem's equations, solver or gradient method; None if it does."""
    if problem.form is not None:
        return f"{type(problem.form).__name__} equations are not supported by the torch engine."
    field, solver, method = problem.field, problem.solver, type(problem.gradient)
    if isinstance(field, VectorField) and "torch" not in field.engines:
        return f"the field is {kind_of(field)}, which the torch engine does not support."
    if "torch" not in solver.engines:
        like = "Tsit5" if solver.kind == "explicit" else "Kvaerno5"
        return f"solver is {solver.name!r}, which the torch engine does not support: use another, such as {like!r}."
    if method not in METHODS:
        return f"gradient is {method.__name__!r}, which the torch engine does not support: use another, such as 'Backprop'."
    return None


class GenericPrepared(JointPrepared):
    """A prepared problem that stores the solver's method; everything else depends on the values."""

    engine = "torch"

    def __init__(self, problem: Problem):
        super().__init__(problem)
        signature = problem.signature
        self.method = as_method(self.tableau, signature.dtype, signature.device)
        self.norm = error_norm(problem.control, self.layout.shapes)

    def solve_values(self, values: Values, ts: Any) -> Solution:
        problem, layout, statistics = self.problem, self.layout, Statistics()
        task = self._task(values, statistics)
        events = None
        if problem.events:
            watched = numpy_functions.adapt_events(problem.events) if layout.numpy else problem.events
            events = StepEvents(watched, layout, values.y0, values.times)
        if events and problem.control.step_size is None and fixed_grid(self.tableau, values.times, problem.control):
            raise ArgumentError(needs_steps(problem.solver))
        task.monitor = events
        times_matter, twice = carries_derivatives(values.ts), isinstance(problem.gradient, Backprop)
        moments = values.ts.clone() if times_matter else values.ts  # a copy, as the caller may change the times
        start = attach_start(task.f, moments, values.y0, twice) if times_matter else values.y0
        steps: list[Step] | None = [] if problem.dense else None
        states = self._states(task, start, steps)
        met = None
        if events is not None:
            states, there = events.split(states)
        require_finite(states, values.times)
        if times_matter:
            states = attach_outputs(task.f, moments[: len(states)], values.times[: len(states)], states, twice)
        if events is not None:
            met = self._trace(events, task.f, there)
        solution = self.solution(states, statistics, ts[: len(states)])
        if steps is not None:
            solution.dense = _dense(steps, task.parameters, layout, None if met is None else events)
        if met is not None:
            solution.events = met
            if events.ended:
                end = torch.as_tensor(met.times[-1]).detach()
                solution.message = message(events.found[-1][1], float(end))
        return solution

    def _task(self, values: Values, statistics: Statistics) -> Task:
        problem, layout, parameters = self.problem, self.layout, values.parameters
        field = numpy_functions.adapt_field(problem.field, statistics) if layout.numpy else problem.field
        f = counted_slope(field, parameters, layout, values.y0.dtype, statistics)
        explicit = isinstance(self.tableau, Tableau)
        if torch.is_grad_enabled() and not (problem.own or isinstance(problem.gradient, Backprop)):
            # The state must be a known leaf tensor, because a flow differentiates its field with respect to the state.
            state = values.y0.detach().requires_grad_()
            refuse_hidden_parameters(f(values.times[0], state), parameters | {"y0": state}, problem.gradient)
        if in_forward_mode():
            slope = f(values.times[0], values.y0)
            _refuse_lost_tangents(problem, explicit, values.y0, values.ts, slope, *parameters.values())
        return Task(
            f=f if explicit else LinearizableSlope(f, field, parameters, layout, statistics),
            ts=values.times,
            method=self.method,
            control=problem.control,
            parameters=distinct(p for p in parameters.values() if p.requires_grad),
            constants=tuple(p for p in parameters.values() if not p.requires_grad),
            statistics=statistics,
            norm=self.norm,
        )

    def _states(self, task: Task, start: Tensor, steps: list[Step] | None) -> Tensor:
        if steps is not None:
            return watched_backprop(task, start, steps)
        if torch.is_grad_enabled() and (start.requires_grad or task.parameters):
            return differentiable(task, start, self.problem.gradient)
        return backprop(task, start)

    def _trace(self, events: StepEvents, f: Callable, states: Tensor) -> EventTrace:
        which = np.array([event for _, event, _ in events.found], dtype=int)
        times, ends = events.corrected(f, states)
        return EventTrace(times.numpy() if self.layout.numpy else times, self.layout.deliver(ends), which)


def slope(field: Any, parameters: Mapping[str, Any], t: float, y: Any) -> Any:
    """Return dy/dt at time `t` and state `y`, as a NumPy or torch array like `y`."""
    flat, layout = flatten(y)
    own = read_parameters(field, parameters, flat, constant=layout.numpy)
    if layout.numpy:
        field = numpy_functions.adapt_field(field)
    return layout.deliver(counted_slope(field, own, layout, flat.dtype, Statistics())(float(t), flat))


def _refuse_lost_tangents(problem: Problem, explicit: bool, *tensors: Tensor) -> None:
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if not explicit:
        refuse_tangents(f"the solver {problem.solver.name}", "use an explicit one, such as Tsit5", *tensors)
    if recorded and not isinstance(problem.gradient, Backprop):
        refuse_tangents(f"the gradient {type(problem.gradient).__name__}", "write gradient='Backprop'", *tensors)


def _dense(steps: list[Step], parameters: tuple[Tensor, ...], layout: Layout, events: StepEvents | None) -> Callable:
    """Return the solution as a function of time, evaluated with the interpolants of the steps."""
    state_at = trajectory(steps)
    first, last = steps[0].t, events.found[-1][0] if events and events.ended else steps[-1].t_end

    def at(t):
        states = torch.stack([state_at(float(time)) for time in times_inside(t, first, last)])
        states = Tied.apply(states, *parameters)
        return layout.deliver(states[0] if np.ndim(t) == 0 else states)

    return at
