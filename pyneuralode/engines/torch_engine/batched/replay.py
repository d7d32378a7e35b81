"""Differentiation of a solve: its recorded steps are repeated under autograd. Step sizes are treated as constants."""

from __future__ import annotations

import torch
from torch import Tensor

from ..finite_gradients import finite_gradients
from ..gradient_methods import add_vjps
from ..once_differentiable import once_differentiable
from .march import MarchRecord
from .slope import BatchedSlope
from .step import BatchedMethod, BatchedStep
from .times import TrajectoryPoints


class Replay:
    """The recorded steps of a solve, and the states requested within each step.

    If the field may be evaluated for a subset of the rows, rows with more steps come first, and step k is taken by the
    first `active_counts[k]` rows. Otherwise all rows take every step, and a row that has reached its last time stays
    there.
    """

    def __init__(self, method: BatchedMethod, f: BatchedSlope, record: MarchRecord, places: TrajectoryPoints):
        self.method, self.f = method, f
        steps, rows = len(record.grid) - 1, len(record.accepted)
        taken = torch.full_like(record.accepted, steps) if f.needs_all_rows else record.accepted
        self.order = torch.argsort(taken, descending=True, stable=True)
        self.grid = record.grid[:, self.order]
        self.active_counts = (rows - torch.cumsum(torch.bincount(taken, minlength=steps + 1), 0))[:steps].tolist()
        position, sequence = torch.argsort(self.order), torch.argsort(places.step, stable=True)
        sizes = torch.bincount(places.step, minlength=steps).tolist()
        self.requested = list(zip(position[places.row][sequence].split(sizes), places.time[sequence].split(sizes)))
        self.inverse_order = torch.argsort(sequence)

    def run(self, y: Tensor, first: int, last: int) -> tuple[list[Tensor], Tensor]:
        """Take the steps range(first, last) from y; return the requested states, and the state after the last step."""
        states, slope, f = [], None, None
        for k in range(first, last):
            active_count = self.active_counts[k]
            if f is None or active_count < len(y):
                f = self.f.take(self.order[:active_count])
                y, slope = y[:active_count], None if slope is None else slope[:active_count]
            step = BatchedStep(self.method, f, self.grid[k, :active_count], self.grid[k + 1, :active_count], y, slope)
            rows, times = self.requested[k]
            if len(rows):
                states.append(step.at(rows, times))
            y, slope = step.end, step.end_slope
        return states, y


def backprop(replay: Replay, y0: Tensor) -> Tensor:
    """Return the requested states (p, n), connected to autograd step by step."""
    states, _ = replay.run(y0[replay.order], 0, len(replay.active_counts))
    return torch.cat(states)[replay.inverse_order]


class CheckpointedReplay(torch.autograd.Function):
    """Like `backprop`, but for requested states that are already known; it repeats each block of steps from its start.

    `starts` contains the states at the start of each step; `constants` must not change until the backward pass.
    """

    @staticmethod
    def forward(
        ctx, replay: Replay, starts: Tensor, every: int, values: Tensor, constants, y0: Tensor, *parameters: Tensor
    ):
        ctx.replay, ctx.starts, ctx.every = replay, starts[:-1:every, replay.order], every
        ctx.trained = len(parameters)
        ctx.save_for_backward(*parameters, *constants)  # so that autograd detects in-place changes
        return values

    @staticmethod
    @once_differentiable
    @finite_gradients
    def backward(ctx, cotangents: Tensor):
        replay, parameters = ctx.replay, ctx.saved_tensors[: ctx.trained]
        sizes = [len(rows) for rows, _ in replay.requested]
        parts = cotangents[torch.argsort(replay.inverse_order)].split(sizes)
        adjoint = torch.zeros_like(ctx.starts[0])
        totals = [torch.zeros_like(p) for p in parameters]
        for block in range(len(ctx.starts) - 1, -1, -1):
            first = block * ctx.every
            last = min(first + ctx.every, len(replay.active_counts))
            with torch.enable_grad():
                start = ctx.starts[block, : replay.active_counts[first]].detach().requires_grad_()
                ends, y = replay.run(start, first, last)
            given = [part for part in parts[first:last] if len(part)]
            adjoint[: len(start)] = add_vjps([*ends, y], start, parameters, [*given, adjoint[: len(y)]], totals)
        y0_bar = torch.empty_like(adjoint)
        y0_bar[replay.order] = adjoint
        return None, None, None, None, None, y0_bar, *totals
