"""The march of all rows through their times, without a graph: which steps each takes, and what it meets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import SolverError
from .control import AdaptiveControl, GridControl, bad_start_of, of_sample
from .event_monitor import PROBES, EventMonitor, crosses, locate_events, undefined_condition_error
from .slope import BatchedSlope
from .step import BatchedMethod, BatchedStep
from .times import BatchedTimes, TrajectoryPoints, pairs


@dataclass
class Record:
    """What a march did, row by row.

    Attributes
    ----------
    nfev, accepted, rejected : (m,)
        Work done; evaluations in which a row took no part are not counted.
    grid : (k + 1, m) or None
        Times between which each row stepped; its last time is repeated where others took more steps.
    starts : (k + 1, m, n) or None
        The states at those times.
    outputs : Places
        The times asked for that were reached, the first ones left out; `slot` is the index into the row's times.
    crossings : Places
        The events met; `slot` is the event's index.
    values : (p, n) or None
        The states at the outputs, then those at the crossings, unless they are to be computed again with a graph.
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
    values: Tensor | None
    ended: Tensor


class _Growing:
    """Rows of a table written one by one, a different one in each column."""

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
        """Return the first `length` rows; a column of fewer repeats its last value."""
        table = self.table[:length]
        behind = torch.arange(length, device=counts.device)[:, None] > counts
        return torch.where(behind.view(*behind.shape, *[1] * (table.ndim - 2)), self.last, table)


@dataclass
class _Look:
    """What conditions were inside a step: of `rows` (m,), at k times (m,), their values (events, m) there.

    `odd` (k - 1, m) says in which parts something happens: a condition crosses zero, or is no number.
    """

    rows: Tensor
    times: list[Tensor]
    values: list[Tensor]
    odd: Tensor


class _Found:
    """Places and the states there, gathered along the way."""

    def __init__(self, like: Tensor):
        none = torch.empty(0, dtype=torch.int64, device=like.device)
        self.places = [TrajectoryPoints(none, none, none.double(), none)]
        self.states = [like[:0]]

    def add(self, places: TrajectoryPoints, states: Tensor | None) -> None:
        self.places.append(places)
        if states is not None:
            self.states.append(states)


@torch.no_grad()
def march(
    method: BatchedMethod,
    f: BatchedSlope,
    y0: Tensor,
    slope: Tensor,
    times: BatchedTimes,
    control: AdaptiveControl | GridControl,
    watch: EventMonitor | None,
    keep: str,
) -> Record:
    """March every row of y0 (m, n), with the slopes there, through its times; see `Record`.

    `keep` says what the record is for: "states" at outputs and crossings, the "steps" to be taken again, or "both",
    which includes the steps' starts.

    A row that has arrived takes no further part: it is left out where the field may be asked for some rows only, and
    stays where it is otherwise.
    """
    return _March(method, f, y0.detach(), slope.detach(), times, control, watch, keep).run()


class _March:
    def __init__(self, method, f, y0, slope, times, control, watch, keep):
        self.method, self.f, self.y, self.slope, self.times, self.control = method, f, y0, slope, times, control
        self.watch, self.wants_states = watch, keep != "steps"
        self.t, self.end = times.start, times.end
        everyone = torch.arange(len(y0), device=y0.device)
        self.counts = torch.zeros(3, len(y0), dtype=torch.int64, device=y0.device)
        self.ended = torch.full_like(everyone, -1)
        self.rows = everyone  # those that take part; what follows is theirs
        self.tried, self.taken, self.more = (torch.zeros_like(everyone) for _ in range(3))
        self.passed = torch.ones_like(everyone)
        self.active = torch.ones_like(everyone, dtype=torch.bool)
        self.grid = None if keep == "states" else _Growing(self.t)
        self.starts = _Growing(y0) if keep == "both" else None
        self.outputs, self.crossings = _Found(y0), _Found(y0)

    def run(self) -> Record:
        self._start()
        going, iteration = True, 0
        while going:
            iteration += 1
            going = self._step(iteration)
        self._settle()
        tried, accepted, more = self.counts
        length = int(accepted.max()) + 1
        outputs, crossings = (
            TrajectoryPoints.concatenate(self.outputs.places),
            TrajectoryPoints.concatenate(self.crossings.places),
        )
        return Record(
            1 + self.control.evaluations + tried * (self.method.stages - 1) + more,
            accepted,
            tried - accepted,
            None if self.grid is None else self.grid.filled(accepted, length),
            None if self.starts is None else self.starts.filled(accepted, length),
            outputs,
            crossings,
            torch.cat([*self.outputs.states, *self.crossings.states]) if self.wants_states else None,
            self.ended,
        )

    def _start(self) -> None:
        good = torch.isfinite(self.slope).all(1)
        if not bool(good.all()):
            row = int((~good).nonzero()[0])
            raise bad_start_of(row, float(self.t[row]))
        self.control.start(self.f, self.t, self.end, self.y, self.slope)
        if self.watch is not None:
            self.values = self.watch.values(self.t, self.y)
            for which, row in torch.isnan(self.values).nonzero()[:1].tolist():
                raise undefined_condition_error(which, float(self.t[row]), self.rows, row)
        self._raise_if_failing(self.control.failing(self.t, self.end, self.tried))

    def _step(self, iteration: int) -> bool:
        """Take one step; return whether there is another one to take."""
        step = BatchedStep(self.method, self.f, self.t, self.control.propose(self.t, self.end), self.y, self.slope)
        self.extended = torch.zeros_like(self.active)  # whose further stages have been wanted
        accept = self.control.judge(step) & self.active
        t = torch.where(accept, step.t_end, self.t)
        y = torch.where(accept[:, None], step.end, self.y)
        reached = torch.where(accept, self.times.reached(t), self.passed)
        look = None if self.watch is None else self._look(step, accept, t, y)
        tried = self.tried + self.active
        active = t != self.end
        failing = self.control.failing(t, self.end, tried) & active
        counted = [active, failing, reached - self.passed] + ([] if look is None else [look.odd])
        # The only numbers of a step that leave the device.
        going, bad, covered, crossed = (*torch.stack([part.sum() for part in counted]).tolist(), 0)[:4]

        if crossed:
            limit = self._meet(step, look)
            ended = torch.isfinite(limit)
            reached = torch.where(ended, self.times.reached(torch.where(ended, limit * self.times.sign, t)), reached)
            self.end = torch.where(ended, t, self.end)
            active, failing = active & ~ended, failing & ~ended
            going, bad, covered = (int(part.sum()) for part in (active, failing, reached - self.passed))
        if covered:
            rows, slots = pairs(self.passed, reached, covered)
            moments = self.times.times[rows, slots]
            self.outputs.add(*self._states(step, rows, moments, slots))
        self._write(accept, t, y, iteration)
        self.t, self.y, self.tried, self.active = t, y, tried, active
        self.passed = reached
        if bad:
            self._raise_if_failing(failing)
        if not going:
            return False
        self._next_slope(step, accept)
        if not self.f.whole and self.watch is None and going <= len(self.rows) // 2:
            self._leave_out(active.nonzero()[:, 0])
        return True

    def _look(self, step: BatchedStep, accept: Tensor, t: Tensor, y: Tensor) -> _Look:
        """Ask the conditions of rows that have accepted the step for their values inside it and at its end."""
        rows = accept & torch.isfinite(y).all(1)  # a state that is not finite is told of at the end of the solve
        times, values = [self.t], [self.values]
        if bool(rows.any()):
            if self.method.extra:
                self.extended = rows
            parts = torch.tensor(PROBES, dtype=t.dtype, device=t.device)
            states = torch.where(rows[:, None], step.inside(parts), self.y)
            times += torch.where(rows, torch.addcmul(self.t, parts[:, None], step.h), self.t).unbind() + (t,)
            values += [self.watch.values(*place) for place in zip(times[1:], [*states.unbind(), y])]
            self.values = values[-1]
        table = torch.stack(values)
        before, after = table[:-1], table[1:]
        odd = torch.isnan(after).any(1)
        for which, event in enumerate(self.watch.events):
            odd = odd | crosses(before[:, which], after[:, which], event.direction)
        return _Look(rows, times, values, odd & rows)

    def _meet(self, step: BatchedStep, look: _Look) -> Tensor:
        """Find the events that the step met; return the signed times (m,) of terminal ones, infinite without one."""
        everyone, limit = torch.arange(len(self.t), device=self.t.device), torch.full_like(self.t, math.inf)
        for i in look.odd.any(1).nonzero()[:, 0].tolist():
            going = look.rows & torch.isinf(limit)
            met = locate_events(
                self.watch,
                lambda t: step.at(everyone, t),
                (look.times[i], look.times[i + 1]),
                tuple(torch.where(going, values, 1.0) for values in look.values[i : i + 2]),
                self.times.sign,
                self.rows,
            )
            limit = torch.minimum(limit, met.limit)
            self.ended[self.rows] = torch.maximum(self.ended[self.rows], met.ended)
            rows, which = torch.isfinite(met.times).t().nonzero(as_tuple=True)
            order = torch.argsort(met.times[which, rows], stable=True)
            rows, which = rows[order], which[order]
            self.crossings.add(*self._states(step, rows, met.times[which, rows] * self.times.sign[rows], which))
        return limit

    def _states(
        self, step: BatchedStep, rows: Tensor, moments: Tensor, slots: Tensor
    ) -> tuple[TrajectoryPoints, Tensor | None]:
        places = TrajectoryPoints(self.taken[rows], self.rows[rows], moments, slots)
        if not self.wants_states:
            return places, None
        if self.method.extra:
            self.extended[rows[moments != step.t_end[rows]]] = True
        return places, step.at(rows, moments)

    def _write(self, accept: Tensor, t: Tensor, y: Tensor, iteration: int) -> None:
        self.taken = self.taken + accept
        if self.method.extra:
            self.more = self.more + self.extended * len(self.method.extra)
        if self.grid is not None:
            self.grid.write(self.taken, self.rows, t, iteration)
        if self.starts is not None:
            self.starts.write(self.taken, self.rows, y, iteration)

    def _settle(self) -> None:
        self.counts[:, self.rows] = torch.stack([self.tried, self.taken, self.more])

    def _next_slope(self, step: BatchedStep, accept: Tensor) -> None:
        if step.end_slope is None:
            self.slope = self.f(self.t, self.y)
        else:
            self.slope = torch.where(accept[:, None], step.end_slope, step.stages.parts[0])
        if not self.method.has_end_slope:
            self.more = self.more + (accept & self.active & ~self.extended)

    def _leave_out(self, kept: Tensor) -> None:
        """Go on with some of the rows."""
        self._settle()
        for name in ("t", "y", "end", "rows", "tried", "taken", "more", "passed", "active", "slope"):
            setattr(self, name, getattr(self, name)[kept])
        self.times, self.f = self.times.take(kept), self.f.take(kept)
        self.control.take(kept)

    def _raise_if_failing(self, failing: Tensor) -> None:
        for row in failing.nonzero()[:1, 0].tolist():
            error: SolverError = self.control.failure(row, float(self.t[row]), int(self.tried[row]))
            raise of_sample(error, int(self.rows[row]))
