"""Recorded steps taken again with a graph: how a march is differentiated. Step sizes count as constants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..finite_gradients import finite_gradients
from ..once_differentiable import once_differentiable
from .march import Record
from .slope import BatchedSlope
from .step import BatchedMethod, BatchedStep
from .times import TrajectoryPoints


@dataclass
class Replay:
    """The steps of a record, and the states wanted within each.

    Rows that take more steps come first where the field may be asked for some of them only: each step then takes the
    `alive` first ones. Otherwise it takes all, and a row that has arrived stays where it is.
    """

    method: BatchedMethod
    f: BatchedSlope
    grid: Tensor
    order: Tensor
    alive: list[int]
    wanted: list[tuple[Tensor, Tensor]]
    back: Tensor

    @staticmethod
    def of(method: BatchedMethod, f: BatchedSlope, record: Record, places: TrajectoryPoints) -> Replay:
        counts = record.accepted
        order = torch.arange(len(counts), device=counts.device)
        if not f.whole:
            order = torch.argsort(counts, descending=True, stable=True)
        steps, rows = len(record.grid) - 1, len(counts)
        alive = [rows] * steps
        if not f.whole:
            alive = (rows - torch.cumsum(torch.bincount(counts, minlength=steps + 1), 0))[:steps].tolist()
        position = torch.empty_like(order)
        position[order] = torch.arange(rows, device=order.device)
        sequence = torch.argsort(places.step, stable=True)
        sizes = torch.bincount(places.step, minlength=steps).tolist()
        wanted = list(zip(position[places.row][sequence].split(sizes), places.time[sequence].split(sizes)))
        return Replay(method, f, record.grid[:, order], order, alive, wanted, torch.argsort(sequence))

    def run(self, y: Tensor, first: int, last: int) -> tuple[list[Tensor], Tensor]:
        """Take the steps `first` to `last` from y; return the states wanted, and the last step's end."""
        states, slope, f = [], None, None
        for k in range(first, last):
            alive = self.alive[k]
            if f is None or alive < len(y):
                f = self.f.take(self.order[:alive])
                y, slope = y[:alive], None if slope is None else slope[:alive]
            step = BatchedStep(self.method, f, self.grid[k, :alive], self.grid[k + 1, :alive], y, slope)
            rows, times = self.wanted[k]
            if len(rows):
                states.append(step.at(rows, times))
            y, slope = step.end, step.end_slope
        return states, y


def backprop(replay: Replay, y0: Tensor) -> Tensor:
    """Return the states (p, n) wanted, connected to autograd step by step."""
    states, _ = replay.run(y0[replay.order], 0, len(replay.alive))
    return torch.cat(states)[replay.back]


def checkpointed(
    replay: Replay,
    record: Record,
    every: int,
    y0: Tensor,
    parameters: tuple[Tensor, ...],
    constants: tuple[Tensor, ...],
) -> Tensor:
    """As `backprop`, from the stored start of every block of steps; `constants` are not to change until then."""
    starts = record.starts[:-1:every, replay.order]
    return _Checkpointed.apply(replay, starts, every, record.values, constants, y0, *parameters)


class _Checkpointed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, replay: Replay, starts: Tensor, every: int, values: Tensor, constants, y0: Tensor, *parameters: Tensor
    ):
        ctx.replay, ctx.starts, ctx.every, ctx.trained = replay, starts, every, len(parameters)
        ctx.save_for_backward(*parameters, *constants)  # so that autograd notices when they were changed in between
        return values

    @staticmethod
    @once_differentiable
    @finite_gradients
    def backward(ctx, cotangents: Tensor):
        replay, parameters = ctx.replay, ctx.saved_tensors[: ctx.trained]
        sizes = [len(rows) for rows, _ in replay.wanted]
        parts = cotangents[torch.argsort(replay.back)].split(sizes)
        adjoint = torch.zeros_like(ctx.starts[0])
        totals = [torch.zeros_like(p) for p in parameters]
        for block in range(len(ctx.starts) - 1, -1, -1):
            first = block * ctx.every
            last = min(first + ctx.every, len(replay.alive))
            with torch.enable_grad():
                start = ctx.starts[block, : replay.alive[first]].detach().requires_grad_()
                ends, y = replay.run(start, first, last)
            given = [part for part in parts[first:last] if len(part)]
            found, *others = torch.autograd.grad(
                [*ends, y], (start, *parameters), [*given, adjoint[: len(y)]], allow_unused=True
            )
            adjoint[: len(start)] = found
            for total, part in zip(totals, others):
                if part is not None:
                    total += part
        back = torch.empty_like(adjoint)
        back[replay.order] = adjoint
        return None, None, None, None, None, back, *totals
