"""How a march is differentiated: by autograd through its steps, by checkpoints, or by a backward solve.

Each function here solves and returns the states (T, n) at the times asked for, connected to autograd.
Step sizes count as constants. The derivative with respect to the times is added by `attach_times`, the same for
every method: moving an output's time moves the output by the slope there, moving the start moves the whole
solution by minus the slope at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...gradients import Backsolve
from ..base import Control, Statistics
from .march import Method, Slope, Step, adaptive_march, march, outputs_of, rms


@dataclass
class Task:
    """A flat initial-value problem: slope, times, method, control, and the parameters the slope depends on."""

    f: Slope
    ts: list[float]
    method: Method
    control: Control
    parameters: tuple[Tensor, ...]
    statistics: Statistics


def backprop(task: Task, y0: Tensor, steps: list[Step] | None = None) -> Tensor:
    """Solve with every operation recorded by autograd (or by nobody, under no_grad)."""
    states = [y0]
    for stop in march(task.method, task.f, y0, task.ts, task.control, task.statistics):
        states += outputs_of(stop, task.ts)
        if steps is not None:
            steps.append(stop.step)
    return torch.stack(states)


def checkpointed(task: Task, y0: Tensor, every: int) -> Tensor:
    return _Checkpointed.apply(task, every, y0, *task.parameters)


def backsolve(task: Task, y0: Tensor, settings: Backsolve) -> Tensor:
    return _Backsolve.apply(task, settings, y0, *task.parameters)


@dataclass
class _Block:
    """Some consecutive steps: the state they start from, their times, and the outputs of each."""

    start: Tensor
    times: list[float]
    outputs: list[list[int]]


class _Checkpointed(torch.autograd.Function):
    """Discretise, then optimise: store the start of every block of steps, solve the blocks again going back."""

    @staticmethod
    def forward(ctx, task: Task, every: int, y0: Tensor, *parameters: Tensor) -> Tensor:
        states, blocks, taken = [y0], [], 0
        for stop in march(task.method, task.f, y0, task.ts, task.control, task.statistics):
            states += outputs_of(stop, task.ts)
            if taken % every == 0:
                blocks.append(_Block(stop.step.y, [stop.step.t], []))
            blocks[-1].times.append(stop.step.t_end)
            blocks[-1].outputs.append(stop.outputs)
            taken += 1
        ctx.task, ctx.blocks = task, blocks
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        return torch.stack(states)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_states: Tensor):
        task, parameters = ctx.task, ctx.saved_tensors
        adjoint = torch.zeros_like(grad_states[0])
        totals = [torch.zeros_like(p) for p in parameters]
        for block in reversed(ctx.blocks):
            with torch.enable_grad():
                y = start = block.start.detach().requires_grad_()
                ends, slope = [], None
                cotangents = []
                for t, t_end, outputs in zip(block.times, block.times[1:], block.outputs):
                    step = Step(task.method, task.f, t, t_end, y, slope)
                    inside = [j for j in outputs if task.ts[j] != t_end]
                    if inside:
                        ends.append(step.at([task.ts[j] for j in inside]))
                        cotangents.append(grad_states[inside])
                    if len(inside) < len(outputs):
                        ends.append(step.end)
                        cotangents.append(grad_states[outputs[len(inside):]].sum(0))
                    y, slope = step.end, step.end_slope
                ends.append(y)
                cotangents.append(adjoint)
            adjoint, *parts = torch.autograd.grad(ends, (start, *parameters), cotangents, allow_unused=True)
            for total, part in zip(totals, parts):
                if part is not None:
                    total += part
        return None, None, adjoint + grad_states[0], *totals


class _Backsolve(torch.autograd.Function):
    """The continuous adjoint of Chen et al. 2018, restarted from the stored state at every output time.

    With a = dL/dy: a' = -a df/dy, and the parameters' gradient is the integral of a df/dp, all solved backwards
    together with the state itself.
    """

    @staticmethod
    def forward(ctx, task: Task, settings: Backsolve, y0: Tensor, *parameters: Tensor) -> Tensor:
        states = backprop(task, y0)
        ctx.task, ctx.settings = task, settings
        ctx.save_for_backward(states, *parameters)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_states: Tensor):
        task, (states, *parameters) = ctx.task, ctx.saved_tensors
        n = states.shape[1]
        sizes = [n, n, sum(p.numel() for p in parameters)]
        control = replace(
            task.control,
            rtol=ctx.settings.rtol or float(np.min(task.control.rtol)),
            atol=ctx.settings.atol or float(np.min(task.control.atol)),
        )

        def slope(t: float, joint: Tensor) -> Tensor:
            y, a, _ = joint.split(sizes)
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                dy = task.f(t, y)
                parts = vjp(dy, (y, *parameters), a)
            return torch.cat([dy.detach(), *(-p.reshape(-1) for p in parts)])

        def norm(x: Tensor) -> Tensor:
            return torch.stack([rms(part) for part in x.split(sizes) if part.numel()]).max()

        adjoint, total, guess = grad_states[-1], grad_states.new_zeros(sizes[2]), None
        for j in range(len(task.ts) - 1, 0, -1):
            joint = torch.cat([states[j], adjoint, total])
            segment = [task.ts[j], task.ts[j - 1]]
            if task.method.tableau.error is None or control.step is not None:
                for stop in march(task.method, slope, joint, segment, control, Statistics()):
                    joint = stop.step.end
            else:
                sizes_taken = []
                for step in adaptive_march(task.method, slope, joint, *segment, control, Statistics(), norm, guess):
                    joint = step.end
                    sizes_taken.append(abs(step.h))
                guess = max(sizes_taken)  # the last one was cut short by the segment's end
            _, adjoint, total = joint.split(sizes)
            adjoint = adjoint + grad_states[j - 1]
        parts = total.split([p.numel() for p in parameters]) if parameters else ()
        return None, None, adjoint, *(part.view_as(p) for part, p in zip(parts, parameters))


def vjp(output: Tensor, inputs: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """Return the vector-Jacobian products; zeros for inputs that the output does not depend on."""
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    parts = torch.autograd.grad(output, inputs, cotangent, allow_unused=True)
    return [torch.zeros_like(x) if part is None else part for x, part in zip(inputs, parts)]


def attach_start(f: Slope, ts: Tensor, y0: Tensor) -> Tensor:
    """Return `y0`, connected to the first time: d(solution)/dt0 = -(d solution/dy0) f(t0, y0)."""
    with torch.no_grad():
        slope = f(float(ts[0]), y0)
    return y0 - slope * (ts[0] - ts[0].detach())


def attach_outputs(f: Slope, ts: Tensor, states: Tensor) -> Tensor:
    """Return the states (T, n), each connected to its own time by the slope there."""
    with torch.no_grad():
        slopes = torch.stack([f(float(t), y) for t, y in zip(ts, states)])
    return states + slopes * (ts - ts.detach())[:, None]
