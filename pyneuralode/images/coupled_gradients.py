"""A march of fixed steps through z' = f(t, z; theta(t)), and its three gradients.

`Backprop` keeps every layer of every step; `Checkpointed` keeps z every so many steps and goes through them again
(discretize-then-optimize; ANODE, Gholami et al. 2019), with the same result; `BacksolveAdjoint` keeps the last z alone and takes the
same steps back for z, its adjoint and the weights' gradient (optimize-then-discretize; Chen et al. 2018), which is
another gradient as long as the steps are not small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..engines.torch_engine.once_differentiable import once_differentiable
from ..engines.torch_engine.tableaus import Tableau
from ..errors import ArgumentError
from ..gradients import BacksolveAdjoint, Checkpointed, GradientMethod
from .fixed_steps import combined, moment, step

Buffers = dict[str, Tensor]


@dataclass(frozen=True)
class March:
    """The steps of z from t = 0 to `span`.

    Attributes
    ----------
    f : torch.nn.Module
        Called as ``f(t, z)`` with the weights of the moment in place of its own.
    tableau : Tableau
    steps : int
    span : float
    tensors : sequence of Tensor
        All weights, each once.
    evolved : sequence of dict
        For each weight step, from t = 0 to `span` at equal distances: name -> place in `tensors`.
    fixed : sequence of dict
        The same for each step of z: what does not evolve.
    buffers : sequence of dict
        The buffers of f at each step of z, such as running statistics, which a forward pass may change.
    """

    f: nn.Module
    tableau: Tableau
    steps: int
    span: float
    tensors: Sequence[Tensor]
    evolved: Sequence[dict[str, int]]
    fixed: Sequence[dict[str, int]]
    buffers: Sequence[Buffers]

    def run(self, z: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Return z after step `last` from z before step `first`, by default all the way."""
        for n in range(first, self.steps if last is None else last):
            z = self.step(n, z)
        return z

    def step(self, n: int, z: Tensor) -> Tensor:
        """Return z after step n from z before it."""
        h = self.span / self.steps
        return step(self.tableau, lambda t, y: self.slope(n, t, y), n * h, z, h)

    def slope(self, n: int, t: float, z: Tensor) -> Tensor:
        """Return dz/dt within step n."""
        fixed = {name: self.tensors[place] for name, place in self.fixed[n].items()}
        values = {**fixed, **self.weights(t), **self.buffers[n]}
        slope = torch.func.functional_call(self.f, values, (moment(t, z), z))
        if not isinstance(slope, Tensor) or slope.shape != z.shape:
            found = f"shape {tuple(slope.shape)}" if isinstance(slope, Tensor) else f"a {type(slope).__name__}"
            raise ArgumentError(
                f"{type(self.f).__name__} returned {found} for z of shape {tuple(z.shape)}: return dz/dt like z."
            )
        return slope

    def weights(self, t: float) -> dict[str, Tensor]:
        """Return what evolves, at t: as it is at a weight step, on the line between two of them elsewhere."""
        position = t / self.span * (len(self.evolved) - 1)
        before = min(int(position + 1e-9), len(self.evolved) - 1)
        part = position - before
        found = {name: self.tensors[place] for name, place in self.evolved[before].items()}
        if part < 1e-9:
            return found
        after = self.evolved[before + 1]
        return {name: torch.lerp(w, self.tensors[after[name]], part) for name, w in found.items()}

    def with_own_buffers(self) -> March:
        """Return the march with copies of the buffers as they are now, which another pass may change."""
        copies = [{name: value.clone() for name, value in buffers.items()} for buffers in self.buffers]
        return replace(self, buffers=copies)


def run(march: March, z: Tensor, gradient: GradientMethod) -> Tensor:
    """Return z at the end of the march, to be differentiated by the given method."""
    if isinstance(gradient, Checkpointed):
        return _checkpointed(march, z, gradient.every)
    if isinstance(gradient, BacksolveAdjoint):
        return _Backsolved.apply(march, z, *march.tensors)
    return march.run(z)


def _checkpointed(march: March, z: Tensor, every: int) -> Tensor:
    for first in range(0, march.steps, every):
        passes = iter([march])
        again = march.with_own_buffers()
        last = min(first + every, march.steps)

        def block(z: Tensor, passes=passes, again=again, first=first, last=last) -> Tensor:
            # The first pass changes the buffers; one more starts from what they were and leaves no trace.
            return next(passes, again).run(z, first, last)

        z = checkpoint(block, z, use_reentrant=False)
    return z


class _Backsolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, march: March, z: Tensor, *tensors: Tensor) -> Tensor:
        ctx.march = replace(march.with_own_buffers(), tensors=())
        kind = z.device.type
        ctx.autocast = {"device_type": kind, "enabled": torch.is_autocast_enabled(kind)}
        if ctx.autocast["enabled"]:
            ctx.autocast["dtype"] = torch.get_autocast_dtype(kind)
        end = march.run(z)
        ctx.save_for_backward(end, *tensors)
        return end

    @staticmethod
    @partial(once_differentiable, remedy="write gradient='Backprop'")
    def backward(ctx, adjoint: Tensor):
        end, *tensors = ctx.saved_tensors
        needed = [place for place, wanted in enumerate(ctx.needs_input_grad[2:]) if wanted]
        leaves = [tensor.detach().requires_grad_(place in needed) for place, tensor in enumerate(tensors)]
        march = replace(ctx.march, tensors=leaves)
        with torch.autocast(**ctx.autocast):
            start, found = _backwards(march, end, adjoint, [leaves[place] for place in needed])
        grads: list[Tensor | None] = [None] * len(tensors)
        for place, grad in zip(needed, found):
            grads[place] = grad
        return None, start, *grads


def _backwards(march: March, z: Tensor, adjoint: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """March z, its adjoint a and the weights' gradient g from `span` to 0; return a and g there.

    a' = -(df/dz)^T a and g' = -(df/dtheta)^T a, from g = 0, with the solver and the steps of the forward march.
    """
    tableau, h = march.tableau, -march.span / march.steps
    grads = [torch.zeros_like(w) for w in weights]
    for n in reversed(range(march.steps)):
        t = (n + 1) * -h
        slopes: list[Tensor] = []
        changes: list[Tensor] = []
        for row, c, b in zip(tableau.A, tableau.c, tableau.b):
            here, with_it = combined(z, h, row, slopes), combined(adjoint, h, row, changes)
            slope, pulled = _pulled_back(march, n, t + float(c) * h, here, with_it, weights)
            slopes.append(slope)
            changes.append(-pulled[0])
            for grad, part in zip(grads, pulled[1:]):
                if part is not None:
                    grad.add_(part, alpha=-h * float(b))
        z, adjoint = combined(z, h, tableau.b, slopes), combined(adjoint, h, tableau.b, changes)
    return adjoint, grads


def _pulled_back(
    march: March, n: int, t: float, z: Tensor, adjoint: Tensor, weights: list[Tensor]
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Return f at (t, z), and the adjoint's products with the derivatives of f by z and by the weights."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        slope = march.slope(n, t, z)
    by_state, *by_weights = torch.autograd.grad(slope, [z, *weights], adjoint.to(slope.dtype), allow_unused=True)
    return slope.detach().clone(), [torch.zeros_like(z) if by_state is None else by_state, *by_weights]
