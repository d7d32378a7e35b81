"""The path that solves all samples of a batch together, each with its own steps; for explicit solvers and any field."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ....errors import ArgumentError
from ....gradients import Backprop, Checkpointed
from ....problem import EventTrace, Problem, Solution
from ....tableaus import Tableau
from ...backend import Backend
from .. import events
from ..dynamics import refuse_hidden_parameters
from ..finite_gradients import checked_solve
from ..generic import lacking
from ..gradient_methods import Tied, distinct, moved
from ..independent import TANGENTS, Batch, IndependentPrepared, check_states
from ..march import fixed_grid, step_tolerance
from ..numpy_functions import adapt_events, adapt_field
from ..stiff import find_tableau
from ..tangents import refuse_tangents
from .control import AdaptiveControl, GridControl
from .event_monitor import EventMonitor
from .march import March
from .replay import CheckpointedReplay, Replay, backprop
from .slope import BatchedSlope, batched_slope, first_slope
from .step import batched_method
from .times import BatchedTimes, TrajectoryPoints


class SideBySide(Backend):
    """A backend that solves all samples of batch='independent' together, with any explicit solver."""

    name = "torch"

    def unsupported(self, problem: Problem) -> str | None:
        if (sentence := lacking(problem)) is not None:
            return sentence
        if not isinstance(find_tableau(problem.solver), Tableau):
            return f"solver is {problem.solver.name!r}, which solves one sample at a time: use an explicit solver."
        return None

    def prepare(self, problem: Problem) -> SideBySidePrepared:
        return SideBySidePrepared(problem)


class SideBySidePrepared(IndependentPrepared):
    """A problem with batch='independent' and its method, converted to tensors."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.tableau = find_tableau(problem.solver)
        self.method = batched_method(self.tableau, problem.signature.dtype, problem.signature.device)

    def solve_batch(self, batch: Batch) -> Solution:
        problem, y0 = self.problem, batch.y0
        field, watched_events = problem.field, problem.events
        if self.layout.numpy:
            field, watched_events = adapt_field(field), adapt_events(watched_events)
        times = BatchedTimes(
            batch.times.detach().to(y0.device, torch.float64).contiguous(), torch.tensor(batch.counts, device=y0.device)
        )
        f = batched_slope(field, batch.parameters, batch.own, self.shape)
        slope = first_slope(f, times.start, y0.detach())
        refuse_tangents(*TANGENTS, slope)  # tangents may come from tensors in a callable's closure
        if batch.times.requires_grad:  # as in `attach_start`
            starts = batch.times[:, 0].to(y0.device)
            h = (starts.detach() - starts).to(y0.dtype)[:, None]
            y0 = moved(f, starts, starts.detach(), y0, h, twice=isinstance(problem.gradient, Backprop))
        trainable = distinct(p for p in batch.parameters.values() if p.requires_grad)
        wants_gradient = torch.is_grad_enabled() and (slope.requires_grad or y0.requires_grad or bool(trainable))
        by_blocks = wants_gradient and isinstance(problem.gradient, Checkpointed)
        if by_blocks and not problem.own:
            refuse_hidden_parameters(slope, batch.parameters, problem.gradient)
        keep = "both" if by_blocks else "steps" if wants_gradient else "states"
        monitor = None
        if watched_events:
            monitor = EventMonitor(watched_events, events.each_sample(self.shape))
        record = March(self.method, f, y0, slope, times, self._step_control(batch), monitor, keep).run()

        places = TrajectoryPoints.concatenate([record.outputs, record.crossings])
        states = places.state
        if wants_gradient:
            replay = Replay(self.method, f, record, places)
            if by_blocks:
                constants = tuple(p for p in batch.parameters.values() if not p.requires_grad)
                every = problem.gradient.every
                states = CheckpointedReplay.apply(replay, record.starts, every, states, constants, y0, *trainable)
            else:
                states = checked_solve(partial(backprop, replay), y0)
            states = Tied.apply(states, *trainable)
        check_states(states.detach(), places.time, places.row)
        count = len(record.outputs.row)
        table = _table(batch, y0, record.outputs, states[:count])
        if batch.times.requires_grad and torch.is_grad_enabled():
            table = _attached(f, batch.times.to(y0.device), times, table, twice=not by_blocks)
        met, idle = None, (times.start, batch.y0.detach())
        if monitor:
            met = self._met(f, monitor, record.crossings._replace(state=states[count:]), idle)
        reached = (1 + torch.bincount(record.outputs.row, minlength=len(y0))).tolist()
        counted = {name: getattr(record, name).cpu().numpy() for name in ("nfev", "accepted", "rejected")}
        return self.solution(batch, table, reached, counted, _messages(record.ended.tolist(), met), met)

    def _step_control(self, batch: Batch) -> AdaptiveControl | GridControl:
        control, tableau, y0 = self.problem.control, self.tableau, batch.y0
        if self.problem.adaptive:
            tolerances = step_tolerance(control, y0)[:2]
            rtol, atol = (v.view(y0.shape) if isinstance(v, Tensor) else v for v in tolerances)
            return AdaptiveControl(control, tableau.order, tableau.error_order, rtol, atol)
        if self.problem.events and control.step_size is None:
            raise ArgumentError(events.needs_steps(self.problem.solver))
        rows = batch.times.detach().tolist()
        grids = [fixed_grid(tableau, row[:count], control) for row, count in zip(rows, batch.counts)]
        longest = max(map(len, grids))
        padded = [grid + grid[-1:] * (longest - len(grid)) for grid in grids]
        return GridControl(torch.tensor(padded, dtype=torch.float64, device=y0.device))

    def _met(self, f: BatchedSlope, monitor: EventMonitor, found: TrajectoryPoints, idle: tuple) -> EventTrace:
        order = torch.argsort(found.row, stable=True)  # by sample; the events of each sample are already in order
        found = TrajectoryPoints(*(part[order] for part in found))
        moments, ends = events.attach(f, monitor.values, found.row, found.slot, found.time, found.state, idle)
        return self.trace(found.row.cpu().numpy(), found.slot.cpu().numpy(), moments, ends)


def _table(batch: Batch, y0: Tensor, outputs: TrajectoryPoints, states: Tensor) -> Tensor:
    """Return the states (B, T, n) at the requested times, with NaN after the end of a sample's solve."""
    samples, width = batch.times.shape
    firsts = torch.arange(samples, device=y0.device) * width
    places = torch.cat([firsts, outputs.row * width + outputs.slot])
    table = y0.new_full((samples * width, y0.shape[1]), torch.nan)
    return table.index_put((places,), torch.cat([y0, states])).view(samples, width, -1)


def _attached(f: BatchedSlope, given: Tensor, times: BatchedTimes, table: Tensor, twice: bool) -> Tensor:
    """Return the states, each connected to its own time by autograd."""
    missing = torch.isnan(table.detach()).any(2)
    delays = given - given.detach()
    moments = torch.where(missing, times.start[:, None], times.times)
    states = torch.where(missing[..., None], table[:, :1], table)
    steps = zip(*(x.unbind(1) for x in (moments, moments + delays, states, delays.to(table.dtype)[..., None])))
    ends = [moved(f, t.contiguous(), t_end.contiguous(), y.contiguous(), h, twice) for t, t_end, y, h in steps]
    return torch.where(missing[..., None], torch.nan, torch.stack(ends, 1))


def _messages(ended: list[int], met: EventTrace | None) -> list[str]:
    messages = [events.message(-1, 0.0)] * len(ended)
    for sample, which, t in zip(met.samples, met.which, met.times.tolist()) if met else ():
        if which == ended[sample]:
            messages[sample] = events.message(which, t)
    return messages
