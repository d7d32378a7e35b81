"""Time stepping of all rows through their times, with the events of each row; it is not recorded by autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import SolverError
from .control import AdaptiveControl, GridControl, bad_start_of, name_sample
from .event_monitor import PROBES, EventMonitor, crosses, locate_events, undefined_condition_error
from .slope import BatchedSlope
from .step import BatchedMethod, BatchedStep
from .times import BatchedTimes, TrajectoryPoints, expand_ranges


@dataclass
class MarchRecord:
    """The steps, outputs and events of each row of a solve.

    Attributes
    ----------
    nfev, accepted, rejected : (m,)
        The numbers of evaluations, accepted steps and rejected steps of each row; an evaluation that does not include a
        row is not counted for that row.
    grid : (k + 1, m) or None
        The times at which the steps of each row start and end; a row with fewer steps repeats its last time.
    starts : (k + 1, m, n) or None
        The states at the times of `grid`.
    outputs : TrajectoryPoints
        The requested times that were reached, except the first; `slot` is the index into the row's times.
    crossings : TrajectoryPoints
        The events found; `slot` is the event's index.
    ended : (m,)
        The index of the terminal event that ended the row, else -1.
    """

    nfev: Tensor
    accepted: Tensor
    rejected: Tensor
    grid: Tensor | None
    starts: Tensor | None
    outputs: TrajectoryPoints
    crossings: TrajectoryPoints
    ended: Tensor


class _GrowingTable:
    """A table that grows as rows are written; the next row to write may differ between columns."""

    def __init__(self, first: Tensor):
        self.table = first.new_empty(64, *first.shape)
        self.table[0] = first
        self.last = first.clone()

    def write(self, row: Tensor, column: Tensor, value: Tensor, length: int) -> None:
        if length >= len(self.table):
            self.table = torch.cat([self.table, torch.empty_like(self.table)])
        self.table[row, column] = value
        self.last[column] = value

    def filled(self, counts: Tensor, length: int) -> Tensor:
        """Return the first `length` rows; a column with fewer entries repeats its last entry."""
        table = self.table[:length]
        behind = torch.arange(length, device=counts.device)[:, None] > counts
        return torch.where(behind.view(*behind.shape, *[1] * (table.ndim - 2)), self.last, table)


@dataclass
class _ConditionValues:
    """Values (events, m) of event conditions at each of k times (m,) in a step, for the rows in the mask `rows` (m,).

    `eventful` (k - 1, m) marks the parts of the step in which a condition crosses zero or is NaN.
    """

    rows: Tensor
    times: list[Tensor]
    values: list[Tensor]
    eventful: Tensor


class March:
    """Time stepping of every row of y0 (m, n) through its times, given the slopes at y0; `run` returns a `MarchRecord`.

    `purpose` says what the record must contain: the "states" at outputs and crossings, the "steps" for a replay, or
    "both", including the state at the start of each step.

    A row that has reached its last time takes no more steps: it is removed if the field may be evaluated for a subset
    of the rows, and otherwise stays where it is.
    """

    # The attributes with one entry for each active row.
    ROW_STATE = ("t", "y", "slope", "end", "rows", "active", "outputs_passed")
    ROW_COUNTS = ("attempts", "accepted_steps", "extra_evaluations")

    def __init__(
        self,
        method: BatchedMethod,
        f: BatchedSlope,
        y0: Tensor,
        slope: Tensor,
        times: BatchedTimes,
        control: AdaptiveControl | GridControl,
        monitor: EventMonitor | None,
        purpose: str,
    ):
        self.method, self.f, self.y, self.slope = method, f, y0.detach(), slope.detach()
        self.times, self.control, self.monitor, self.wants_states = times, control, monitor, purpose != "steps"
        self.t, self.end = times.start, times.end
        all_rows = torch.arange(len(y0), device=y0.device)
        self.counts = torch.zeros(3, len(y0), dtype=torch.int64, device=y0.device)
        self.ended = torch.full_like(all_rows, -1)
        self.rows = all_rows
        self.attempts, self.accepted_steps, self.extra_evaluations = (torch.zeros_like(all_rows) for _ in range(3))
        self.outputs_passed = torch.ones_like(all_rows)
        self.active = torch.ones_like(all_rows, dtype=torch.bool)
        self.grid = None if purpose == "states" else _GrowingTable(self.t)
        self.starts = _GrowingTable(self.y) if purpose == "both" else None
        none = all_rows[:0]
        nowhere = TrajectoryPoints(none, none, self.t[:0], none, self.y[:0] if self.wants_states else self.y[:0, :0])
        self.outputs, self.crossings = [nowhere], [nowhere]

    @torch.no_grad()
    def run(self) -> MarchRecord:
        self._start()
        iteration = 1
        while self._step(iteration):
            iteration += 1
        self._store_counts()
        tried, accepted, more = self.counts
        length = int(accepted.max()) + 1
        return MarchRecord(
            1 + self.control.evaluations + tried * (self.method.stages - 1) + more,
            accepted,
            tried - accepted,
            None if self.grid is None else self.grid.filled(accepted, length),
            None if self.starts is None else self.starts.filled(accepted, length),
            TrajectoryPoints.concatenate(self.outputs),
            TrajectoryPoints.concatenate(self.crossings),
            self.ended,
        )

    def _start(self) -> None:
        good = torch.isfinite(self.slope).all(1)
        if not bool(good.all()):
            row = int((~good).nonzero()[0])
            raise bad_start_of(row, float(self.t[row]))
        self.control.start(self.f, self.t, self.end, self.y, self.slope)
        if self.monitor is not None:
            self.values = self.monitor.values(self.t, self.y)
            for which, row in torch.isnan(self.values).nonzero()[:1].tolist():
                raise undefined_condition_error(which, float(self.t[row]), self.rows, row)
        self._raise_if_failing(self.control.has_failed(self.attempts))

    def _step(self, iteration: int) -> bool:
        """Take one step; return whether more steps are needed."""
        step = BatchedStep(self.method, self.f, self.t, self.control.propose(self.t, self.end), self.y, self.slope)
        self.extended = torch.zeros_like(self.active)  # rows whose extra stages were used
        accept = self.control.judge(step) & self.active
        t = torch.where(accept, step.t_end, self.t)
        y = torch.where(accept[:, None], step.end, self.y)
        reached = torch.where(accept, self.times.reached(t), self.outputs_passed)
        conditions = None if self.monitor is None else self._evaluate_conditions(step, accept, t, y)
        tried = self.attempts + self.active
        active = t != self.end
        has_failed = self.control.has_failed(tried) & active
        counted = [active, has_failed, reached - self.outputs_passed] + (
            [] if conditions is None else [conditions.eventful]
        )
        # The only values of a step that are copied from the device.
        going, bad, covered, crossed = (*torch.stack([part.sum() for part in counted]).tolist(), 0)[:4]

        if crossed:
            limit = self._locate_events(step, conditions)
            ended = torch.isfinite(limit)
            reached = torch.where(ended, self.times.reached(torch.where(ended, limit * self.times.sign, t)), reached)
            self.end = torch.where(ended, t, self.end)
            active, has_failed = active & ~ended, has_failed & ~ended
            going, bad, covered = (int(part.sum()) for part in (active, has_failed, reached - self.outputs_passed))
        if covered:
            rows, slots = expand_ranges(self.outputs_passed, reached, covered)
            self.outputs.append(self._points(step, rows, self.times.times[rows, slots], slots))
        self._store_step(accept, t, y, iteration)
        self.t, self.y, self.attempts, self.active = t, y, tried, active
        self.outputs_passed = reached
        if bad:
            self._raise_if_failing(has_failed)
        if not going:
            return False
        self._update_slope(step, accept)
        if not self.f.needs_all_rows and self.monitor is None and going <= len(self.rows) // 2:
            self._keep_rows(active.nonzero()[:, 0])
        return True

    def _evaluate_conditions(self, step: BatchedStep, accept: Tensor, t: Tensor, y: Tensor) -> _ConditionValues:
        """Evaluate the conditions inside the step and at its end, for the rows that have accepted it."""
        rows = accept & torch.isfinite(y).all(1)  # a non-finite state is reported at the end of the solve
        times, values = [self.t], [self.values]
        if bool(rows.any()):
            if self.method.extra:
                self.extended = rows
            fractions = torch.tensor(PROBES, dtype=t.dtype, device=t.device)
            states = torch.where(rows[:, None], step.at_fractions(fractions), self.y)
            times += torch.where(rows, torch.addcmul(self.t, fractions[:, None], step.h), self.t).unbind() + (t,)
            values += [self.monitor.values(*place) for place in zip(times[1:], [*states.unbind(), y])]
            self.values = values[-1]
        table = torch.stack(values)
        before, after = table[:-1], table[1:]
        eventful = torch.isnan(after).any(1)
        for which, event in enumerate(self.monitor.events):
            eventful = eventful | crosses(before[:, which], after[:, which], event.direction)
        return _ConditionValues(rows, times, values, eventful & rows)

    def _locate_events(self, step: BatchedStep, conditions: _ConditionValues) -> Tensor:
        """Find the events within the step; return the signed times (m,) of terminal events (infinite without one)."""
        all_rows, limit = torch.arange(len(self.t), device=self.t.device), torch.full_like(self.t, math.inf)
        for i in conditions.eventful.any(1).nonzero()[:, 0].tolist():
            going = conditions.rows & torch.isinf(limit)
            met = locate_events(
                self.monitor,
                lambda t: step.at(all_rows, t),
                (conditions.times[i], conditions.times[i + 1]),
                tuple(torch.where(going, values, 1.0) for values in conditions.values[i : i + 2]),
                self.times.sign,
                self.rows,
            )
            limit = torch.minimum(limit, met.terminal_time)
            self.ended[self.rows] = torch.maximum(self.ended[self.rows], met.terminal_event)
            rows, which = torch.isfinite(met.times).t().nonzero(as_tuple=True)
            order = torch.argsort(met.times[which, rows], stable=True)
            rows, which = rows[order], which[order]
            moments = met.times[which, rows] * self.times.sign[rows]
            self.crossings.append(self._points(step, rows, moments, which))
        return limit

    def _points(self, step: BatchedStep, rows: Tensor, moments: Tensor, slots: Tensor) -> TrajectoryPoints:
        if self.wants_states and self.method.extra:
            self.extended[rows[moments != step.t_end[rows]]] = True
        states = step.at(rows, moments) if self.wants_states else self.y[rows, :0]
        return TrajectoryPoints(self.accepted_steps[rows], self.rows[rows], moments, slots, states)

    def _store_step(self, accept: Tensor, t: Tensor, y: Tensor, iteration: int) -> None:
        self.accepted_steps = self.accepted_steps + accept
        if self.method.extra:
            self.extra_evaluations = self.extra_evaluations + self.extended * len(self.method.extra)
        if self.grid is not None:
            self.grid.write(self.accepted_steps, self.rows, t, iteration)
        if self.starts is not None:
            self.starts.write(self.accepted_steps, self.rows, y, iteration)

    def _store_counts(self) -> None:
        self.counts[:, self.rows] = torch.stack([getattr(self, name) for name in self.ROW_COUNTS])

    def _update_slope(self, step: BatchedStep, accept: Tensor) -> None:
        if step.end_slope is None:
            self.slope = self.f(self.t, self.y)
        else:
            self.slope = torch.where(accept[:, None], step.end_slope, step.stages.slopes[0])
        if not self.method.has_end_slope:
            self.extra_evaluations = self.extra_evaluations + (accept & self.active & ~self.extended)

    def _keep_rows(self, kept: Tensor) -> None:
        """Continue with only the rows `kept`."""
        self._store_counts()
        for name in (*self.ROW_STATE, *self.ROW_COUNTS):
            setattr(self, name, getattr(self, name)[kept])
        self.times, self.f = self.times.take(kept), self.f.take(kept)
        self.control.take(kept)

    def _raise_if_failing(self, has_failed: Tensor) -> None:
        for row in has_failed.nonzero()[:1, 0].tolist():
            error: SolverError = self.control.failure(row, float(self.t[row]), int(self.attempts[row]))
            raise name_sample(error, int(self.rows[row]))
