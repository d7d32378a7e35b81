"""Fixed steps for z' = f(t, z; theta(t)), and three gradient methods for them.

`Backprop` stores every layer of every step. `Checkpointed` stores z only once in several steps and recomputes the steps
in between, with the same result (discretize-then-optimize; ANODE, Gholami et al. 2019). `BacksolveAdjoint` stores only
the last z and takes the same steps backward for z, its adjoint and the weights' gradient (optimize-then-discretize;
Chen et al. 2018): its gradient differs from that of the other two methods unless the steps are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..engines.torch_engine.once_differentiable import once_differentiable
from ..gradients import BacksolveAdjoint, Checkpointed, GradientMethod
from ..tableaus import Tableau
from .fixed_steps import MemoryOrder, autocast_settings, take_step, time_tensor


@dataclass(frozen=True)
class CoupledSteps:
    """The steps of z from t = 0 to `span`.

    Attributes
    ----------
    f : torch.nn.Module
        Called as ``f(t, z)`` with the weights at t instead of its own.
    tableau : Tableau
    count : int
        Number of steps, of equal size.
    span : float
    tensors : sequence of Tensor
        All weights, without duplicates.
    evolved : sequence of dict
        For each weight step, equally spaced from t = 0 to `span`: name -> index into `tensors`.
    fixed : sequence of dict
        For each step of z, the weights that do not evolve: name -> index into `tensors`.
    buffers : sequence of dict
        The buffers of f at each step of z, such as running statistics, which a forward pass may change.
    """

    f: nn.Module
    tableau: Tableau
    count: int
    span: float
    tensors: Sequence[Tensor]
    evolved: Sequence[dict[str, int]]
    fixed: Sequence[dict[str, int]]
    buffers: Sequence[dict[str, Tensor]]

    def run(self, z: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Take the steps from `first` up to, but not including, `last` (by default all of them) and return z."""
        for n in range(first, self.count if last is None else last):
            z = self.step(n, z)
        return z

    def step(self, n: int, z: Tensor) -> Tensor:
        """Return z after step n, given z before the step."""
        # No derivative is reused in the next step, where f may have other weights and buffers.
        name = type(self.f).__name__
        return take_step(self.tableau, partial(self.slope, n), self.time(n), self.time(n + 1), z, name)

    def time(self, n: int) -> float:
        """Return the time at which step n begins."""
        return self.span * n / self.count

    def slope(self, n: int, t: float, z: Tensor) -> Tensor:
        """Return dz/dt within step n."""
        fixed = {name: self.tensors[place] for name, place in self.fixed[n].items()}
        values = {**fixed, **self.weights(t), **self.buffers[n]}
        return torch.func.functional_call(self.f, values, (time_tensor(t, z), z))

    def weights(self, t: float) -> dict[str, Tensor]:
        """Return the evolving weights at t, interpolated linearly between weight steps."""
        position = t / self.span * (len(self.evolved) - 1)
        before = min(int(position + 1e-9), len(self.evolved) - 1)
        part = position - before
        found = {name: self.tensors[place] for name, place in self.evolved[before].items()}
        if part < 1e-9:
            return found
        after = self.evolved[before + 1]
        return {name: torch.lerp(w, self.tensors[after[name]], part) for name, w in found.items()}

    def with_copied_buffers(self) -> CoupledSteps:
        """Return the same steps with copies of the current buffers, which another pass may change."""
        copies = [{name: value.clone() for name, value in buffers.items()} for buffers in self.buffers]
        return replace(self, buffers=copies)


def run(steps: CoupledSteps, z: Tensor, gradient: GradientMethod) -> Tensor:
    """Return z at the end of the span, differentiable by the given method."""
    if isinstance(gradient, Checkpointed):
        return _checkpointed(steps, z, gradient.every)
    if isinstance(gradient, BacksolveAdjoint):
        return _Backsolved.apply(steps, z, *steps.tensors)
    return steps.run(z)


def _checkpointed(steps: CoupledSteps, z: Tensor, every: int) -> Tensor:
    for first in range(0, steps.count, every):
        passes = iter([steps])
        recomputed = steps.with_copied_buffers()
        last = min(first + every, steps.count)

        def segment(z: Tensor, passes=passes, recomputed=recomputed, first=first, last=last) -> Tensor:
            # The first pass changes the buffers; a repeated pass works on copies of their previous values.
            return next(passes, recomputed).run(z, first, last)

        z = checkpoint(segment, z, use_reentrant=False)
    return z


class _Backsolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, steps: CoupledSteps, z: Tensor, *tensors: Tensor) -> Tensor:
        ctx.steps = replace(steps.with_copied_buffers(), tensors=())
        ctx.autocast = autocast_settings(z.device.type)
        end = steps.run(z)
        ctx.save_for_backward(end, *tensors)
        return end

    @staticmethod
    @partial(once_differentiable, remedy="write gradient='Backprop'")
    def backward(ctx, adjoint: Tensor):
        end, *tensors = ctx.saved_tensors
        needed = [place for place, wanted in enumerate(ctx.needs_input_grad[2:]) if wanted]
        leaves = [tensor.detach().requires_grad_(place in needed) for place, tensor in enumerate(tensors)]
        steps = replace(ctx.steps, tensors=leaves)
        with torch.autocast(**ctx.autocast):
            start, found = _solve_back(steps, end, adjoint, [leaves[place] for place in needed])
        grads = dict(zip(needed, found))
        return None, start, *(grads.get(place) for place in range(len(tensors)))


def _solve_back(
    steps: CoupledSteps, z: Tensor, adjoint: Tensor, weights: list[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    """Step z, its adjoint a and the weights' gradient g backward from `span` to 0; return a and g at 0.

    a' = -(df/dz)^T a and g' = -(df/dtheta)^T a, with g = 0 at `span`. All three are solved as one state (z, a, g), by
    the same method as z in the forward pass.
    """
    order, sizes = MemoryOrder.of(z), [z.numel(), z.numel(), *(w.numel() for w in weights)]

    def joint_slope(n: int, t: float, joint: Tensor) -> Tensor:
        here, a, *_ = joint.split(sizes)
        with torch.enable_grad():
            here = order.unflatten(here).detach().requires_grad_()
            slope = steps.slope(n, t, here)
        products = torch.autograd.grad(
            slope, [here, *weights], order.unflatten(a).to(slope.dtype), materialize_grads=True, allow_unused=True
        )
        by_state, *by_weights = products
        return torch.cat([order.flatten(slope.detach()), -order.flatten(by_state), *(-p.flatten() for p in by_weights)])

    joint = torch.cat([order.flatten(z), order.flatten(adjoint), z.new_zeros(sum(sizes[2:]))])
    for n in reversed(range(steps.count)):
        joint = take_step(
            steps.tableau, partial(joint_slope, n), steps.time(n + 1), steps.time(n), joint, type(steps.f).__name__
        )
    _, a, *grads = joint.split(sizes)
    return order.unflatten(a), [grad.view_as(w).to(w.dtype) for grad, w in zip(grads, weights)]
