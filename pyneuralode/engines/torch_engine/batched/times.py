"""The times of all rows as one padded array, and points on the rows' trajectories."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass
class BatchedTimes:
    """Times (m, T) of m rows, detached: row i has `counts[i]` times, followed by copies of its last time."""

    times: Tensor
    counts: Tensor

    def __post_init__(self):
        self.start = self.times[:, 0].contiguous()
        self.end = self.times[:, -1].contiguous()
        self.sign = torch.sign(self.end - self.start)
        behind = torch.arange(self.times.shape[1], device=self.times.device) >= self.counts[:, None]
        # These times increase in every row, for either direction of time; the padding is never reached.
        self.signed = torch.where(behind, math.inf, self.times * self.sign[:, None])

    def take(self, rows: Tensor) -> BatchedTimes:
        return BatchedTimes(self.times[rows], self.counts[rows])

    def reached(self, t: Tensor) -> Tensor:
        """Return the number of each row's times that are at or before t (m,)."""
        return torch.searchsorted(self.signed, (self.sign * t)[:, None], right=True)[:, 0]


class TrajectoryPoints(NamedTuple):
    """Points at which states are requested: the step (p,), the row (p,), the time (p,), and an index `slot` (p,).

    `state` (p, n) contains the state at each point, or is (p, 0) if states are not needed.
    """

    step: Tensor
    row: Tensor
    time: Tensor
    slot: Tensor
    state: Tensor

    @staticmethod
    def concatenate(parts: list[TrajectoryPoints]) -> TrajectoryPoints:
        return TrajectoryPoints(*map(torch.cat, zip(*parts)))


def expand_ranges(first: Tensor, last: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return rows (total,) and indices (total,): each row i with all indices from first[i] up to last[i], exclusive."""
    counts = last - first
    rows = torch.repeat_interleave(torch.arange(len(first), device=first.device), counts, output_size=total)
    before = torch.cumsum(counts, 0) - counts
    return rows, torch.arange(total, device=first.device) - before[rows] + first[rows]
