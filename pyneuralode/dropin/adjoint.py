"""The continuous adjoint method (Chen et al. 2018), solved backward from each output time to the previous one.

The joint state is flat: state y (n), adjoint a (n), then the integrals for the gradients of the time and of the
parameters. The derivative does not depend on these integrals, so the stages of a step are combined for y and a only;
the integrals are combined once, at the end of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..engines.torch_engine.march import Norm, largest_rms
from ..engines.torch_engine.once_differentiable import once_differentiable
from .layout import FlatLayout
from .problem import FlatProblem, callbacks_of, tolerance
from .slope import FlatSlope


def parameters_of(func: nn.Module) -> list[Tensor]:
    """Return the parameters of a module; in a DataParallel replica, they are found among the plain attributes."""
    if not getattr(func, "_is_replica", False):
        return list(func.parameters())
    attributes = (value for module in func.modules() for value in module.__dict__.values())
    return [value for value in attributes if isinstance(value, Tensor) and value.requires_grad]


class Adjoint(torch.autograd.Function):
    """A solve that autograd does not record; its gradient comes from solving ``backward_problem(joint slope)``.

    It returns the states (T, n); with an event, it returns the event's internal time and the states (2, n).
    """

    @staticmethod
    def forward(
        ctx,
        solve: Callable,
        problem: FlatProblem,
        backward_problem: Callable[[AugmentedSlope], FlatProblem],
        y0: Tensor,
        times: Tensor,
        *parameters: Tensor,
    ):
        ctx.solve, ctx.problem, ctx.backward_problem = solve, problem, backward_problem
        solution = solve(problem)
        if problem.event is None:
            ctx.save_for_backward(solution, times, *parameters)
            return solution
        event_t, states = solution
        event_t = torch.tensor(event_t, dtype=times.dtype, device=times.device)
        ctx.save_for_backward(states, torch.stack([times[0], event_t]), *parameters)
        ctx.mark_non_differentiable(event_t)
        return event_t, states

    @staticmethod
    @partial(once_differentiable, remedy="use odeint")
    def backward(ctx, *gradients: Tensor):
        problem, (states, times, *parameters) = ctx.problem, ctx.saved_tensors
        gradients = gradients[-1]
        slope, n, wants_times = problem.slope, states.shape[1], ctx.needs_input_grad[4]
        task = ctx.backward_problem(AugmentedSlope(slope, n, tuple(parameters)))
        integrals = states.new_zeros(1 + sum(p.numel() for p in parameters))
        adjoint, time_gradients = gradients[-1], torch.zeros_like(times)
        for j in range(len(times) - 1, 0, -1):
            if wants_times:
                moved = torch.dot(slope(float(times[j]), states[j]), gradients[j])
                time_gradients[j] = moved
                integrals[0] -= moved
            task.y0 = torch.cat([states[j], adjoint, integrals])
            task.times = torch.stack([-times[j], -times[j - 1]])
            joint = ctx.solve(task)[1]
            adjoint, integrals = joint[n : 2 * n] + gradients[j - 1], joint[2 * n :].clone()
        time_gradients[0] = integrals[0]
        if problem.event is not None:
            time_gradients[1] = 0  # the last time is that of the event, not an argument
        parts = integrals[1:].split([p.numel() for p in parameters]) if parameters else ()
        return (
            None,
            None,
            None,
            adjoint,
            slope.direction * time_gradients if wants_times else None,
            *(part.view_as(p).to(p.dtype) for part, p in zip(parts, parameters)),
        )


class AugmentedSlope(FlatSlope):
    """The derivative of the joint state with respect to an internal time, which runs opposite to the forward solve."""

    def __init__(self, forward: FlatSlope, n: int, parameters: tuple[Tensor, ...]):
        like = torch.empty((), dtype=forward.dtype, device=forward.device)
        shapes = tuple(p.shape for p in parameters)
        state = torch.Size([n]) if forward.layout.is_tuple else forward.layout.shapes[0]
        # Callbacks and norms use torchdiffeq's order: (gradient of time, y, a, *gradients of the parameters).
        order = (2, 0, 1, *range(3, 3 + len(shapes)))
        joint = FlatLayout((state, state, torch.Size([]), *shapes), True, order)
        super().__init__(forward.func, joint, -forward.direction, like)
        self.forward, self.n, self.parameters = forward, n, parameters
        self.active = 2 * n

    def at(self, time: Tensor, y: Tensor) -> Tensor:
        n = self.n
        with torch.enable_grad():
            state, time = y[:n].detach().requires_grad_(), time.detach().requires_grad_()
            slope = self.forward.at(time, state)
            inputs = (state, time, *self.parameters)
            if slope.requires_grad:
                # The user's function may share a graph between calls, so the graph is not freed.
                unused = {"allow_unused": True, "materialize_grads": True}
                parts = torch.autograd.grad(slope, inputs, -y[n : 2 * n], retain_graph=True, **unused)
            else:
                parts = [torch.zeros_like(x) for x in inputs]
        return torch.cat([part.reshape(-1) for part in (slope.detach(), *parts)])


def make_backward_problem(
    problem: FlatProblem, rtol: Any, atol: Any, method: str | None, options: dict[str, Any], slope: AugmentedSlope
) -> FlatProblem:
    """Return the backward problem; its times and initial state are set for each interval."""
    layout, method = slope.layout, method or "dopri5"
    sample = torch.empty(sum(layout.sizes), dtype=slope.dtype, device=slope.device)
    norm, has_user_norm = adjoint_error_norm(options.get("norm"), problem, layout)
    rtol, atol = (
        tolerance(f"adjoint_{name}", _reordered(value), layout, sample)
        for name, value in (("rtol", rtol), ("atol", atol))
    )
    callbacks = callbacks_of(slope.func, slope, method, layout, "_adjoint")
    return FlatProblem(
        slope, sample, torch.empty(0), rtol, atol, method, options, norm, has_user_norm, layout, None, callbacks
    )


def _reordered(value: Any) -> Any:
    """Return tolerances given in torchdiffeq's order (time, y, a, *parameters) in the order of the joint state."""
    if not isinstance(value, (tuple, list)) or len(value) < 3:
        return value
    t, y, a, *parameters = value
    return (y, a, t, *parameters)


def adjoint_error_norm(given: Any, problem: FlatProblem, layout: FlatLayout) -> tuple[Norm, bool]:
    """Return the norm of the joint error: the default, "seminorm" (without parameters), or the user's."""
    n, state_sizes = layout.sizes[0], problem.layout.sizes
    if callable(given):

        def own(flat: Tensor):
            t, y, a, *parameters = layout.unpack(flat)
            if problem.layout.is_tuple:
                return given((t, *problem.layout.unpack(y), *problem.layout.unpack(a), *parameters))
            return given((t, y, a, *parameters))

        return own, True
    rest = [1] if given == "seminorm" else layout.sizes[2:]
    end = 2 * n + sum(rest)
    if not problem.has_user_norm:
        parts = largest_rms([*state_sizes, *state_sizes, *rest])
        return lambda flat: parts(flat[:end]), False
    others = largest_rms(rest)

    def mixed(flat: Tensor) -> float:
        norms = problem.norm(flat[:n]), problem.norm(flat[n : 2 * n]), others(flat[2 * n : end])
        return max(float(norm) for norm in norms)

    return mixed, True
