"""Code shared by all paths, of both engines, for ``batch="independent"``, where each sample has its own steps, times and end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ...fields import VectorField
from ...problem import EventTrace, Problem, Solution
from ...problem.values import as_tensor, check_times, flatten, read_parameters
from ..backend import Prepared
from .batched.control import name_sample
from .march import not_finite_error
from .tangents import refuse_tangents

# For error messages: where tangents would be lost, and the remedy.
TANGENTS = "independent batches", "write batch='joint'"


@dataclass
class Batch:
    """The values of B samples: states (B, n), and times (B, T) padded with each row's last time.

    `counts` is the number of times of each sample. `own` contains the parameters with a leading axis for the samples,
    and `given` contains the times as the caller passed them.
    """

    y0: Tensor
    times: Tensor
    counts: list[int]
    given: Any
    parameters: dict[str, Tensor]
    own: dict[str, Tensor]


class IndependentPrepared(Prepared):
    """A prepared problem of B samples: it reads values and returns solutions in the same way on every path.

    `shape` is the shape of one sample's state.
    """

    engine = "torch"

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.layout = problem.signature.layout
        self.samples, *shape = self.layout.shapes[0]
        self.shape = torch.Size(shape)

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.layout.numpy):
            return self.solve_batch(self._read(parameters, y0, ts))

    @abstractmethod
    def solve_batch(self, batch: Batch) -> Solution:
        """Solve for the values in `batch`, which are already checked."""

    def _read(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Batch:
        problem, constant = self.problem, self.layout.numpy
        start, _ = flatten(y0)
        times, counts = _read_times(ts, self.samples, problem.signature.times, constant)
        problem.check_tolerances(start)
        named = read_parameters(problem.field, parameters, start, constant=constant)
        refuse_tangents(*TANGENTS, start, times, *named.values())
        shapes = problem.field.shapes() if isinstance(problem.field, VectorField) else {}
        own = {name: named[name] for name, shape in shapes.items() if named[name].shape != shape}
        # The caller may change the times later.
        return Batch(start.view(self.samples, -1), times.clone(), counts, ts, named, own)

    def tolerances(self) -> list[tuple[str, np.ndarray]]:
        """Return the name and values (B, n) of each tolerance that is an array."""
        named = [(name, getattr(self.problem.control, name)) for name in ("rtol", "atol")]
        return [(name, value.reshape(self.samples, -1)) for name, value in named if np.ndim(value)]

    def trace(self, samples: np.ndarray, which: np.ndarray, times: Tensor, states: Tensor) -> EventTrace:
        states = states.view(-1, *self.shape)
        if self.layout.numpy:
            times, states = times.numpy(), states.numpy()
        return EventTrace(times, states, which, samples)

    def solution(
        self,
        batch: Batch,
        table: Tensor,
        reached: list[int],
        counted: dict,
        messages: list[str],
        met: EventTrace | None,
    ) -> Solution:
        """Return the solution, arranged like the given times, from states (B, T, n).

        Sample b ended after `reached[b]` times.
        """
        states = table.view(*table.shape[:2], *self.shape)
        if self.layout.numpy:
            states = states.numpy()
        ts, form = batch.given, self.problem.signature.times
        if form == "list":
            ts = [row[:count] for row, count in zip(ts, reached)]
            states = [row[:count] for row, count in zip(states, reached)]
        elif form == "shared":
            states = states.swapaxes(0, 1)
        if form != "list" and not isinstance(ts, Tensor):
            ts = np.asarray(ts, dtype=float)
        solver, engine = self.problem.solver.name, self.engine
        return Solution(ts, states, message=messages, solver=solver, engine=engine, events=met, **counted)


def _read_times(ts: Any, samples: int, form: str, constant: bool) -> tuple[Tensor, list[int]]:
    """Return the times (B, T), and the number of times of each sample."""
    if form == "shared":
        table = check_times(ts)
        return (table.detach() if constant else table).expand(samples, -1), [len(table)] * samples
    if form == "list":
        rows = [as_tensor("ts", row).reshape(-1) for row in ts]
        counts = [len(row) for row in rows]
        if min(counts) == 0:
            raise ArgumentError(f"sample {counts.index(0)}: ts is empty: give at least two times, such as [0.0, 1.0].")
        table = torch.stack([torch.cat([row, row[-1:].expand(max(counts) - len(row))]).double() for row in rows])
    else:
        rows = table = as_tensor("ts", ts)
        counts = [table.shape[1]] * len(table)
    if len(rows) != samples:
        raise ArgumentError(
            f"ts has {len(rows)} rows and y0 has {samples} samples: give one row of times for each sample."
        )
    if not _is_monotone(table.detach(), counts):
        for sample, row in enumerate(rows):
            try:
                check_times(row)
            except ArgumentError as error:
                raise ArgumentError(f"sample {sample}: {error}") from None
    return table.detach() if constant else table, counts


def _is_monotone(table: Tensor, counts: list[int]) -> bool:
    steps = table.diff(dim=1)
    padding = torch.arange(1, table.shape[1]) >= torch.tensor(counts)[:, None]
    same_way = steps * torch.sign(table[:, -1:] - table[:, :1]) > 0
    return min(counts) > 1 and bool((same_way.cpu() | padding).all()) and bool(torch.isfinite(table).all())


def check_states(states: Tensor, time: Tensor, row: Tensor) -> None:
    """Raise if one of the states (p, n) is not finite; `row` (p,) and `time` (p,) are their samples and times."""
    good = torch.isfinite(states).all(1)
    if bool(good.all()):
        return
    first = int((~good).nonzero()[0])
    raise name_sample(not_finite_error(float(time[first])), int(row[first]))
