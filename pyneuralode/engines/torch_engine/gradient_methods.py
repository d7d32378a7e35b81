"""Differentiation of a solve: by autograd through its steps, with checkpoints, or by a backward solve.

Each function here solves and returns the states (T, n) at the requested times, connected to autograd. Step sizes are
treated as constants. Derivatives with respect to the times are added by `attach_start` and `attach_outputs`, in the
same way for every method: an output changes with its time at the rate dy/dt at that time, and the whole solution
changes with the first time as if the initial state changed at the rate -dy/dt.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...errors import SolverError
from ...gradients import Backprop, BacksolveAdjoint, Checkpointed, ForwardMode, GradientMethod, InterpolatingAdjoint
from ...problem import Control, Statistics
from ...problem.values import all_finite
from .finite_gradients import checked_solve, finite_gradients
from .march import Slope, Step, StepOutputs, Task, largest_rms, march, step_tolerance
from .once_differentiable import once_differentiable
from .stiff.jacobians import difference_time_derivative, linearize, linearize_by_differences
from .stiff.linearizations import BlockTriangularLinearization, Linearization
from .stiff.sdirk import SDIRKMethod


def distinct(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Return the tensors without duplicates: a tensor with two names would get its gradient twice."""
    return tuple({id(x): x for x in tensors}.values())


def backprop(task: Task, y0: Tensor, steps: list[Step] | None = None) -> Tensor:
    """Solve step by step while autograd records every operation; the steps are appended to `steps`."""
    return _recorded(task, y0, steps)[0]


def _recorded(task: Task, y0: Tensor, steps: list[Step] | None = None) -> tuple[Tensor, list[float]]:
    """Solve, and return the states and their times."""
    states, times = [y0[None]], [task.ts[0]]
    for stop in march(task, y0, dense=steps is not None):
        if stop.times:
            states.append(stop.states())
            times += stop.times
        if steps is not None:
            stop.step.extend()  # evaluated now, because the field may change before the dense output is evaluated
            steps.append(stop.step)
    return torch.cat(states), times


def watched_backprop(task: Task, y0: Tensor, steps: list[Step] | None = None) -> Tensor:
    """Like `backprop`, with a check that the gradient is finite, and zeros for parameters that the field does not use."""
    return checked_solve(lambda start: Tied.apply(backprop(task, start, steps), *task.parameters), y0)


class _Checkpointed(torch.autograd.Function):
    """Discretize-then-optimize with checkpoints at the start of each block of steps.

    The backward pass repeats the blocks from last to first.
    """

    @staticmethod
    def forward(ctx, task: Task, method: Checkpointed, y0: Tensor, *parameters: Tensor) -> Tensor:
        states, starts, steps = [y0[None]], [], []
        for stop in march(task, y0):
            step = stop.step
            if len(steps) % method.every == 0:
                starts.append(step.y)
            steps.append((step.method, step.t, step.t_end, stop.times))
            if stop.times:
                states.append(stop.states())
        ctx.task, ctx.every, ctx.starts, ctx.steps = task, method.every, starts, steps
        # Saved so that autograd notices if these tensors are changed before the backward pass.
        ctx.save_for_backward(*parameters, *task.constants)
        return torch.cat(states)

    @staticmethod
    @once_differentiable
    @finite_gradients
    def backward(ctx, grad_states: Tensor):
        task, parameters = ctx.task, ctx.saved_tensors[: len(ctx.task.parameters)]
        adjoint = torch.zeros_like(grad_states[0])
        totals = [torch.zeros_like(p) for p in parameters]
        tolerance = step_tolerance(task.control, adjoint, adaptive=task.control.step_size is None)
        output_bars = grad_states[1:].split([len(times) for *_, times in ctx.steps])
        for block in reversed(range(len(ctx.starts))):
            part = slice(block * ctx.every, (block + 1) * ctx.every)
            with torch.enable_grad():
                y = start = ctx.starts[block].detach().requires_grad_()
                outputs, carry = [], None
                for method, t, t_end, times in ctx.steps[part]:
                    step = method.step(task.f, t, t_end, y, carry, tolerance)
                    if times:
                        outputs.append(StepOutputs(step, times).states())
                    y, carry = step.end, step.carry
            bars = [bar for bar in output_bars[part] if len(bar)]
            adjoint = add_vjps([*outputs, y], start, parameters, [*bars, adjoint], totals)
        return None, None, adjoint + grad_states[0], *totals


def add_vjps(
    outputs: list[Tensor], start: Tensor, parameters: Sequence[Tensor], cotangents: list[Tensor], totals: list[Tensor]
) -> Tensor:
    """Return the vector-Jacobian product with respect to `start`; add the products for the parameters to `totals`."""
    adjoint, *parts = torch.autograd.grad(outputs, (start, *parameters), cotangents, materialize_grads=True)
    for total, part in zip(totals, parts):
        total += part
    return adjoint


class Tied(torch.autograd.Function):
    """The states, connected to every parameter: unused parameters get zero gradients instead of None."""

    generate_vmap_rule = True

    @staticmethod
    def forward(states: Tensor, *parameters: Tensor) -> Tensor:
        return states.view_as(states)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def jvp(ctx, tangent: Tensor, *others: Tensor) -> Tensor:
        return tangent.view_as(tangent)

    @staticmethod
    def backward(ctx, cotangents: Tensor):
        return cotangents, *(torch.zeros_like(p) for p in ctx.saved_tensors)


class _Adjoint:
    """The right-hand side of the backward solve, for the state (unless `state_at` gives it), adjoint and gradient."""

    def __init__(self, task: Task, parameters: tuple[Tensor, ...], n: int, state_at: Callable[[float], Tensor] | None):
        self.f, self.parameters, self.state_at = task.f, parameters, state_at
        self.sizes = [n if state_at is None else 0, n, sum(p.numel() for p in parameters)]

    def __call__(self, t: float, joint: Tensor) -> Tensor:
        y, a, _ = joint.split(self.sizes)
        y, dy = self._evaluate(t, y)
        parts = vjp(dy, (y, *self.parameters), a)
        own = [dy.detach()] if self.state_at is None else []
        return torch.cat([*own, *(-p.reshape(-1) for p in parts)])

    def linearize(self, t: float, joint: Tensor, h: float, time_derivative: bool = True) -> Linearization:
        """Return the linearization at (t, joint): the equations are linear in the adjoint, with the Jacobian -J^T."""
        slope = self(t, joint)
        if self.state_at is None:
            return linearize_by_differences(self, t, joint, h, slope, quadratures=self.sizes[2])
        core = linearize(self.f, t, self.state_at(t), h, time_derivative=False)
        _, dy = self._evaluate(t, joint)

        def below(a: Tensor) -> Tensor:
            return torch.cat([a[:0], *(-p.reshape(-1) for p in vjp(dy, self.parameters, a, keep=True))])

        by_time = difference_time_derivative(self, t, joint, h, slope) if time_derivative else None
        return BlockTriangularLinearization(slope, by_time, core, below, transposed=True)

    def _evaluate(self, t: float, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state and dy/dt, recorded by autograd."""
        with torch.enable_grad():
            y = (y if self.state_at is None else self.state_at(t)).detach().requires_grad_()
            return y, self.f(t, y)


class _Continuous(torch.autograd.Function):
    """The continuous adjoint method; the backward solve restarts at every output time (Chen et al. 2018).

    With a = dL/dy: a' = -a df/dy, and the parameters' gradient is the integral of a df/dp. `BacksolveAdjoint` also
    solves for the state backward, from the stored outputs; `InterpolatingAdjoint` evaluates it from the dense output of
    the forward solve.
    """

    @staticmethod
    def forward(
        ctx, task: Task, method: BacksolveAdjoint | InterpolatingAdjoint, y0: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.steps = None if isinstance(method, BacksolveAdjoint) else []
        states, ctx.times = _recorded(task, y0, ctx.steps)
        ctx.task, ctx.method = task, method
        ctx.save_for_backward(states, *parameters, *task.constants)
        return states

    @staticmethod
    @once_differentiable
    @finite_gradients
    def backward(ctx, grad_states: Tensor):
        task, (states, *others) = ctx.task, ctx.saved_tensors
        parameters = others[: len(task.parameters)]
        slope = _Adjoint(task, tuple(parameters), states.shape[1], None if ctx.steps is None else trajectory(ctx.steps))
        sizes = slope.sizes
        back = replace(
            task,
            f=slope,
            control=_plain_tolerances(task.control, ctx.method.rtol, ctx.method.atol),
            statistics=Statistics(),
            norm=largest_rms(sizes),
            monitor=None,
        )
        initial_size = None
        first = next((j for j, t in enumerate(ctx.times) if t != task.ts[0]), 0)
        adjoint, total = grad_states[-1], grad_states.new_zeros(sizes[2])
        for j in range(len(ctx.times) - 1, 0, -1):
            if ctx.times[j] == ctx.times[j - 1]:  # an event at a requested time
                adjoint = adjoint + grad_states[j - 1]
                continue
            joint = torch.cat([states[j][: sizes[0]], adjoint, total])
            if j == first:  # otherwise the steps toward the first time would shrink indefinitely
                _refuse_infinite(slope, task.ts[0], torch.cat([states[0][: sizes[0]], adjoint, total]), ctx.method)
            taken = []
            for stop in march(replace(back, ts=[ctx.times[j], ctx.times[j - 1]]), joint, initial_size=initial_size):
                joint = stop.step.end
                taken.append(abs(stop.step.h))
            initial_size = max(taken)  # the last step was shortened to end with the segment
            _, adjoint, total = joint.split(sizes)
            adjoint = adjoint + grad_states[j - 1]
        parts = total.split([p.numel() for p in parameters]) if parameters else ()
        return None, None, adjoint, *(part.view_as(p) for part, p in zip(parts, parameters))


def _refuse_infinite(slope: Slope, t: float, joint: Tensor, method: GradientMethod) -> None:
    """Raise if the derivative of adjoints or sensitivities is not finite at the first time, where a step needs it."""
    if all_finite(joint) and not all_finite(slope(t, joint)):
        raise SolverError(
            f"a derivative of the field is not finite at the start, t = {t:g}, where {type(method).__name__} needs it: use "
            "gradient='Checkpointed' or 'Backprop', which differentiate the steps.",
            t,
        )


class _Sensitivities:
    """The right-hand side for the state (n,) and its sensitivities S (m, n) to p: S' = S (df/dy)^T + df/dp."""

    def __init__(self, f: Slope, parameters: tuple[Tensor, ...], n: int, directions: list[Tensor]):
        self.f, self.parameters, self.n, self.directions = f, parameters, n, directions

    def __call__(self, t: float, joint: Tensor) -> Tensor:
        y, s = joint[: self.n], joint[self.n :].view(-1, self.n)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            dy = self.f(t, y)
            return torch.cat([dy.detach(), jvps(dy, (y, *self.parameters), [s, *self.directions]).reshape(-1)])

    def linearize(self, t: float, joint: Tensor, h: float, time_derivative: bool = True) -> Linearization:
        """Return the linearization at (t, joint); sensitivities have the state's Jacobian and depend on the state."""
        slope, y = self(t, joint), joint[: self.n]
        smallest = math.sqrt(torch.finfo(y.dtype).eps) * float(torch.linalg.vector_norm(y).clamp_min(1e-5))

        def below(x: Tensor) -> Tensor:
            size = float(torch.linalg.vector_norm(x))
            if not 0 < size < math.inf:
                return torch.zeros_like(slope[self.n :])
            part = smallest / size
            shifted = self(t, torch.cat([y + part * x, joint[self.n :]]))
            return (shifted[self.n :] - slope[self.n :]) / part

        core = linearize(self.f, t, y, h, time_derivative=False)
        by_time = difference_time_derivative(self, t, joint, h, slope) if time_derivative else None
        return BlockTriangularLinearization(slope, by_time, core, below, repeated=True)


class _Forward(torch.autograd.Function):
    """Forward sensitivities, solved along with the state; the steps are those of a solve for the state alone."""

    @staticmethod
    def forward(ctx, task: Task, method: ForwardMode, y0: Tensor, *parameters: Tensor) -> Tensor:
        n = len(y0)
        counts = [n if ctx.needs_input_grad[2] else 0, *(p.numel() for p in parameters)]
        m = sum(counts)
        to_start, *to_parameters = torch.eye(m, dtype=y0.dtype, device=y0.device).split(counts, dim=1)
        directions = [part.reshape(m, *p.shape) for part, p in zip(to_parameters, parameters)]
        slope = _Sensitivities(task.f, parameters, n, directions)
        joint_task = replace(task, f=slope, parameters=(), **_state_alone(task, n, m * n))
        if task.monitor is not None:
            task.monitor.components = n  # event conditions do not depend on the sensitivities
        start = torch.cat([y0, (to_start if counts[0] else y0.new_zeros(m, n)).reshape(-1)])
        try:
            joint = backprop(joint_task, start)
        except SolverError as error:
            if error.t == task.ts[0] and all_finite(task.f(error.t, y0)):
                _refuse_infinite(slope, error.t, start, method)
            raise
        ctx.counts, ctx.shapes = counts, [p.shape for p in parameters]
        ctx.save_for_backward(joint[:, n:].reshape(len(joint), m, n))
        return joint[:, :n].clone()

    @staticmethod
    @once_differentiable
    @finite_gradients
    def backward(ctx, grad_states: Tensor):
        (sensitivities,) = ctx.saved_tensors
        total = torch.einsum("tmn,tn->m", sensitivities, grad_states)
        start, *parts = total.split(ctx.counts)
        parameter_bars = (part.view(shape) for part, shape in zip(parts, ctx.shapes))
        return None, None, start if ctx.counts[0] else None, *parameter_bars


def _state_alone(task: Task, n: int, others: int) -> dict:
    """Return a control and a norm for which the steps depend only on the state (n,), not on the `others` after it.

    If a sensitivity has a singularity, is very large or starts from an exact zero, its own error would require
    arbitrarily small steps. With SDIRK methods the steps do depend on the others, for which Newton's iteration must
    converge too.
    """
    if isinstance(task.method, SDIRKMethod):
        return {"control": _plain_tolerances(task.control), "norm": largest_rms([n, others])}
    rtol, atol = (
        np.pad(value, (0, others), constant_values=1.0) if np.ndim(value) else value
        for value in (task.control.rtol, task.control.atol)
    )
    return {"control": replace(task.control, rtol=rtol, atol=atol), "norm": lambda x: task.norm(x[:n])}


def _plain_tolerances(control: Control, rtol: float | None = None, atol: float | None = None) -> Control:
    """Return `control` with scalar tolerances; by default, the smallest ones in `control`."""
    return replace(control, rtol=rtol or float(np.min(control.rtol)), atol=atol or float(np.min(control.atol)))


_FUNCTIONS: dict[type[GradientMethod], type[torch.autograd.Function]] = {
    Checkpointed: _Checkpointed,
    BacksolveAdjoint: _Continuous,
    InterpolatingAdjoint: _Continuous,
    ForwardMode: _Forward,
}
METHODS = (Backprop, *_FUNCTIONS)


def differentiable(task: Task, y0: Tensor, method: GradientMethod) -> Tensor:
    """Return the states (T, n) at the requested times, differentiable by `method`, one of `METHODS`."""
    if isinstance(method, Backprop):
        return watched_backprop(task, y0)
    return _FUNCTIONS[type(method)].apply(task, method, y0, *task.parameters)


def jvps(output: Tensor, inputs: Sequence[Tensor], directions: list[Tensor]) -> Tensor:
    """Return the derivatives (m, n) of output (n,) along m directions (m, *input shape), summed over the inputs.

    Two reverse passes replace a forward pass; unlike a forward pass, they also reach tensors in a closure.
    """
    zeros = output.new_zeros(len(directions[0]), len(output))
    if not output.requires_grad:
        return zeros
    dummy = torch.zeros_like(output, requires_grad=True)
    parts = torch.autograd.grad(output, inputs, dummy, create_graph=True, allow_unused=True)
    used = [(part, d) for part, d in zip(parts, directions) if part is not None and part.requires_grad]
    if not used:
        return zeros
    linear, along = zip(*used)
    return torch.autograd.grad(linear, dummy, along, is_grads_batched=True)[0]


def trajectory(steps: list[Step]) -> Callable[[float], Tensor]:
    """Return the state (n,) as a function of time, evaluated with the interpolants of the steps."""
    sign = 1 if steps[-1].t_end > steps[0].t else -1
    ends = [sign * step.t_end for step in steps]
    return lambda t: steps[min(bisect_left(ends, sign * t), len(steps) - 1)].at([t])[0]


def vjp(output: Tensor, inputs: Sequence[Tensor], cotangent: Tensor, keep: bool = False) -> Sequence[Tensor]:
    """Return the vector-Jacobian product for each input; zeros for inputs that the output does not depend on."""
    if not (output.requires_grad and inputs):
        return [torch.zeros_like(x) for x in inputs]
    return torch.autograd.grad(output, inputs, cotangent, retain_graph=keep, materialize_grads=True)


def attach_start(f: Slope, ts: Tensor, y0: Tensor, twice: bool) -> Tensor:
    """Return `y0` connected to the first time: starting h later is equivalent to starting from y0 - h dy/dt."""
    t = ts[0]
    return moved(f, t.to(y0.dtype), float(t.detach()), y0, (t.detach() - t).to(y0.dtype), twice)


def attach_outputs(f: Slope, ts: Tensor, times: list[float], states: Tensor, twice: bool) -> Tensor:
    """Return the states (T, n), each connected to its own output time by autograd."""
    delays, ts = (ts - ts.detach()).to(states.dtype), ts.to(states.dtype)
    ends = [moved(f, *point, twice) for point in zip(times, ts, states, delays)]
    return torch.stack(ends)


def moved(f: Slope, t: float | Tensor, t_end: float | Tensor, y: Tensor, h: Tensor, twice: bool) -> Tensor:
    """Return y moved along the solution from t to t_end, where h = t_end - t is zero but carries derivatives.

    With `twice`, this is a step of Heun's method, whose first and second derivatives equal those of the solution.
    Otherwise it is an Euler step, with only a correct first derivative; autograd does not record its evaluation of f.
    """
    if not twice:
        with torch.no_grad():
            slope = f(t, y)
        return y + h * slope
    slope = f(t, y)
    return y + h / 2 * (slope + f(t_end, y + h * slope))
