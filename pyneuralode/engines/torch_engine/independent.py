"""``batch="independent"``: every sample with its own steps, its own control of the error, its own times and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArgumentError, SolverError
from ...fields import VectorField
from ...gradients import OF_STEPS, Backprop, Checkpointed
from ...problem import Control, EventTrace, Problem, Solution
from ..inputs import flat_control, read_parameters
from ..state import Layout, as_tensor, check_times, flatten
from . import events, numpy_functions
from .batched.control import AdaptiveControl, GridControl, name_sample
from .batched.event_monitor import EventMonitor
from .batched.march import march
from .batched.replay import Replay, backprop, checkpointed
from .batched.slope import BatchedSlope, batched_slope, first_slope, own_parameters
from .batched.step import batched_method
from .batched.times import BatchedTimes, TrajectoryPoints
from .compiled import formulas, networks
from .dynamics import bind, refuse_hidden_parameters, with_hints
from .finite_gradients import checked_solve
from .gradient_methods import Tied, distinct, moved
from .march import fixed_grid, not_finite_error
from .stiff import Coefficients, find_tableau
from .tableaus import Tableau
from .tangents import refuse_tangents

# Where tangents are lost, and what to do.
TANGENTS = "independent batches", "write batch='joint'"
# Samples beyond which steps of all together are faster than compiled solves of one after another (measured: 20 to 100).
FEW = 32

Alone = Callable[[Problem], Solution]


@dataclass
class Batch:
    """A problem of B samples, read: states (B, n) of `shape` each, times (B, T) padded by each row's last.

    `form` says how the times were given: "shared", "rows" or "list"; `counts` how many each sample has. `own` are the
    parameters with a leading axis for the samples. `tableau` is of the solver's class: those of stiff solvers take one sample at a time.
    """

    problem: Problem
    y0: Tensor
    layout: Layout
    shape: torch.Size
    times: Tensor
    counts: list[int]
    form: str
    parameters: dict[str, Tensor]
    own: dict[str, Tensor]
    tableau: Coefficients
    control: Control


def solve(problem: Problem, alone: Alone) -> Solution:
    """Solve every sample of `problem` with steps of its own; `alone` solves one whole problem."""
    batch = _read(problem)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not batch.layout.numpy):
        if formulas.applies_each(problem, batch.y0, batch.parameters) and not batch.times.requires_grad:
            return _compiled(batch)
        if not isinstance(batch.tableau, Tableau) or _networks_apply(batch):
            return _one_by_one(batch, alone)
        return _together(batch)


def _read(problem: Problem) -> Batch:
    y0, layout = flatten(problem.y0)
    if layout.numpy:
        problem = numpy_functions.adapt_problem(problem)
    if layout.is_tuple or not layout.shapes[0]:
        found = "a tuple" if layout.is_tuple else "one number"
        raise ArgumentError(
            f"y0 is {found} with batch='independent': give one array whose first axis counts the samples, (B, *state)."
        )
    if problem.dense:
        raise ArgumentError(
            "dense is True with batch='independent': give the times wanted in ts, where every sample may have its own."
        )
    if not isinstance(problem.gradient, OF_STEPS):
        raise ArgumentError(
            f"gradient is {type(problem.gradient).__name__!r} with batch='independent': write 'Backprop' or 'Checkpointed'."
        )
    samples, *shape = layout.shapes[0]
    times, counts, form = _read_times(problem.ts, samples, layout.numpy)
    tableau = find_tableau(problem.solver)
    adaptive = problem.control.step_size is None and tableau.error is not None
    control = flat_control(problem.control, y0, layout, adaptive)
    parameters = read_parameters(problem.dynamics, problem.parameters, y0, constant=layout.numpy)
    refuse_tangents(*TANGENTS, y0, times, *parameters.values())
    times = times.clone()  # which the caller may change
    shape = torch.Size(shape)
    field = problem.dynamics if isinstance(problem.dynamics, VectorField) else None
    own = own_parameters(field, parameters, samples, shape) if field else {}
    return Batch(problem, y0.view(samples, -1), layout, shape, times, counts, form, parameters, own, tableau, control)


def _read_times(ts: Any, samples: int, constant: bool) -> tuple[Tensor, list[int], str]:
    """Return the times (B, T), how many each sample has, and the form in which they were given."""
    if isinstance(ts, (list, tuple)) and any(np.ndim(row) for row in ts):
        rows, form = [as_tensor("ts", row).reshape(-1) for row in ts], "list"
        counts = [len(row) for row in rows]
        if min(counts) == 0:
            raise ArgumentError(f"sample {counts.index(0)}: ts is empty: give at least two times, such as [0.0, 1.0].")
        table = torch.stack([torch.cat([row, row[-1:].expand(max(counts) - len(row))]).double() for row in rows])
    else:
        table = as_tensor("ts", ts)
        if table.ndim != 2:
            table = check_times(table)
            return (table.detach() if constant else table).expand(samples, -1), [len(table)] * samples, "shared"
        rows, form, counts = table, "rows", [table.shape[1]] * len(table)
    if len(rows) != samples:
        raise ArgumentError(f"ts has {len(rows)} rows and y0 {samples} samples: give one row of times for each.")
    if not _is_monotone(table.detach(), counts):
        for sample, row in enumerate(rows):
            try:
                check_times(row)
            except ArgumentError as error:
                raise ArgumentError(f"sample {sample}: {error}") from None
    return table.detach() if constant else table, counts, form


def _is_monotone(table: Tensor, counts: list[int]) -> bool:
    steps = table.diff(dim=1)
    padding = torch.arange(1, table.shape[1]) >= torch.tensor(counts)[:, None]
    same_way = steps * torch.sign(table[:, -1:] - table[:, :1]) > 0
    return min(counts) > 1 and bool((same_way.cpu() | padding).all()) and bool(torch.isfinite(table).all())


def _compiled(batch: Batch) -> Solution:
    """Solve formulas, every sample in compiled code."""
    rows = [row[:count] for row, count in zip(batch.times.tolist(), batch.counts)]
    control = replace(batch.control, **{name: value.reshape(batch.y0.shape) for name, value in _tolerances(batch)})
    states, counts = formulas.solve_each(batch.problem, rows, control, batch.y0, batch.parameters)
    row, slot = (torch.arange(batch.times.shape[1]) < torch.tensor(batch.counts)[:, None]).nonzero(as_tuple=True)
    _check_finite(states.detach(), batch.times[row, slot], row)
    table = torch.nn.utils.rnn.pad_sequence(states.split(batch.counts), batch_first=True, padding_value=torch.nan)
    counted = dict(zip(("nfev", "accepted", "rejected"), counts.T))
    return _solution(
        batch, table, batch.counts, counted, [events.message(-1, 0.0)] * len(rows), "torch (compiled)", None
    )


def _tolerances(batch: Batch) -> list[tuple[str, np.ndarray]]:
    """Return the tolerances that are arrays, by name."""
    named = [(name, getattr(batch.control, name)) for name in ("rtol", "atol")]
    return [(name, value) for name, value in named if np.ndim(value)]


# One sample after another: by compiled code, or with a solver that does not batch.


def _networks_apply(batch: Batch) -> bool:
    if not isinstance(batch.problem.dynamics, VectorField) or batch.problem.events or len(batch.y0) > FEW:
        return False
    first = _of_sample(batch, 0)
    return networks.applies(first, first.y0.reshape(-1), first.parameters)


def _of_sample(batch: Batch, b: int) -> Problem:
    """Return the problem of one sample: a described field's without the batch's axis, a callable's with one of 1."""
    problem, dynamics, parameters = batch.problem, batch.problem.dynamics, batch.parameters
    shape = (1, *batch.shape)
    if isinstance(dynamics, VectorField):
        shape, parameters = batch.shape, parameters | {name: p[b] for name, p in batch.own.items()}
    else:
        call, _ = bind(dynamics, parameters)

        def dynamics(t: Tensor, y: Tensor) -> Tensor:
            return call(t.view([1] * y.ndim), y)

        own = getattr(problem.dynamics, "jacobian", None)
        jacobian = {} if own is None else {"jacobian": lambda t, y: own(torch.as_tensor(t).view([1] * y.ndim), y)}
        with_hints(dynamics, problem.dynamics, **jacobian)

    tolerances = {name: value.reshape(batch.y0.shape)[b].reshape(shape) for name, value in _tolerances(batch)}
    return replace(
        problem,
        dynamics=dynamics,
        parameters=parameters,
        y0=batch.y0[b].view(shape),
        ts=batch.times[b, : batch.counts[b]],
        control=replace(batch.control, norm="joint", **tolerances),
        batch="joint",
        events=events.of_sample(
            problem.events, b, batch.times[:, 0].detach(), batch.y0.detach().view(-1, *batch.shape)
        ),
    )


def _one_by_one(batch: Batch, alone: Alone) -> Solution:
    solutions = []
    for b in range(len(batch.y0)):
        try:
            solutions.append(alone(_of_sample(batch, b)))
        except SolverError as error:
            raise name_sample(error, b) from None
    reached = [len(solution.ys) for solution in solutions]
    n, width = batch.y0.shape[1], batch.times.shape[1]
    states = torch.stack(
        [
            torch.cat([solution.ys.reshape(count, n), batch.y0.new_full((width - count, n), torch.nan)])
            for count, solution in zip(reached, solutions)
        ]
    )
    met = None
    if batch.problem.events:
        found = [solution.events for solution in solutions]
        samples = np.repeat(np.arange(len(found)), [len(one) for one in found])
        which = np.concatenate([one.which for one in found])
        moments, ends = (torch.cat([getattr(one, name) for one in found]) for name in ("times", "states"))
        met = _crossings(batch, samples, which, moments, ends)
    counted = {name: np.array([getattr(one, name) for one in solutions]) for name in ("nfev", "accepted", "rejected")}
    reasons = [solution.message for solution in solutions]
    return _solution(batch, states, reached, counted, reasons, solutions[0].engine, met)


# All samples side by side.


def _together(batch: Batch) -> Solution:
    problem, y0, tableau = batch.problem, batch.y0, batch.tableau
    times = BatchedTimes(
        batch.times.detach().to(y0.device, torch.float64).contiguous(), torch.tensor(batch.counts, device=y0.device)
    )
    f = batched_slope(problem.dynamics, batch.parameters, batch.own, batch.shape)
    method = batched_method(tableau, y0.dtype, y0.device)
    slope = first_slope(f, times.start, y0.detach())
    refuse_tangents(*TANGENTS, slope)  # of what a callable holds
    if batch.times.requires_grad:  # a later start is a solve from where the solution was earlier
        starts = batch.times[:, 0].to(y0.device)
        h = (starts.detach() - starts).to(y0.dtype)[:, None]
        y0 = moved(f, starts, starts.detach(), y0, h, twice=isinstance(problem.gradient, Backprop))
    trainable = distinct(p for p in batch.parameters.values() if p.requires_grad)
    wants_gradient = torch.is_grad_enabled() and (slope.requires_grad or y0.requires_grad or bool(trainable))
    by_blocks = wants_gradient and isinstance(problem.gradient, Checkpointed)
    if by_blocks and not isinstance(problem.dynamics, (VectorField, nn.Module)):
        refuse_hidden_parameters(slope, batch.parameters, problem.gradient)
    keep = "both" if by_blocks else "steps" if wants_gradient else "states"
    watch = (
        EventMonitor(problem.events, events.batched_conditions(problem.events, batch.shape)) if problem.events else None
    )
    record = march(method, f, y0, slope, times, _step_control(batch), watch, keep)

    places = TrajectoryPoints.concatenate([record.outputs, record.crossings])
    if wants_gradient:
        replay = Replay.of(method, f, record, places)
        if by_blocks:
            constants = tuple(p for p in batch.parameters.values() if not p.requires_grad)
            states = checkpointed(replay, record, problem.gradient.every, y0, trainable, constants)
        else:
            states = checked_solve(partial(backprop, replay), y0)
        states = Tied.apply(states, *trainable)
    else:
        states = record.values
    _check_finite(states.detach(), places.time, places.row)
    count = len(record.outputs.row)
    table = _table(batch, y0, record.outputs, states[:count])
    if batch.times.requires_grad and torch.is_grad_enabled():
        table = _attached(f, batch.times.to(y0.device), times, table, twice=not by_blocks)
    met = _met(batch, f, watch, times, record.crossings, states[count:]) if watch else None
    reached = (1 + torch.bincount(record.outputs.row, minlength=len(y0))).tolist()
    counted = {name: getattr(record, name).cpu().numpy() for name in ("nfev", "accepted", "rejected")}
    return _solution(batch, table, reached, counted, _reasons(record.ended.tolist(), met), "torch", met)


def _step_control(batch: Batch) -> AdaptiveControl | GridControl:
    control, tableau, y0 = batch.control, batch.tableau, batch.y0
    if control.step_size is None and tableau.error is not None:
        rtol, atol = (
            v if np.ndim(v) == 0 else torch.as_tensor(v, dtype=y0.dtype, device=y0.device).view(y0.shape)
            for v in (control.rtol, control.atol)
        )
        return AdaptiveControl(control, tableau.order, tableau.error_order, rtol, atol)
    if batch.problem.events and control.step_size is None:
        raise ArgumentError(events.needs_steps(batch.problem.solver))
    rows = batch.times.detach().tolist()
    grids = [fixed_grid(tableau, row[:count], control) for row, count in zip(rows, batch.counts)]
    longest = max(map(len, grids))
    padded = [grid + grid[-1:] * (longest - len(grid)) for grid in grids]
    return GridControl(torch.tensor(padded, dtype=torch.float64, device=y0.device))


def _check_finite(states: Tensor, time: Tensor, row: Tensor) -> None:
    """Raise where one of the states (p, n), of the samples `row` (p,) at `time` (p,), is not finite."""
    good = torch.isfinite(states).all(1)
    if bool(good.all()):
        return
    first = int((~good).nonzero()[0])
    raise name_sample(not_finite_error(float(time[first])), int(row[first]))


def _table(batch: Batch, y0: Tensor, outputs: TrajectoryPoints, states: Tensor) -> Tensor:
    """Return the states (B, T, n) at the times asked for, NaN where a sample had ended."""
    samples, width = batch.times.shape
    firsts = torch.arange(samples, device=y0.device) * width
    places = torch.cat([firsts, outputs.row * width + outputs.slot])
    table = y0.new_full((samples * width, y0.shape[1]), torch.nan)
    return table.index_put((places,), torch.cat([y0, states])).view(samples, width, -1)


def _attached(f: BatchedSlope, given: Tensor, times: BatchedTimes, table: Tensor, twice: bool) -> Tensor:
    """Return the states, each connected to its own time."""
    missing = torch.isnan(table.detach()).any(2)
    delays = given - given.detach()
    moments = torch.where(missing, times.start[:, None], times.times)
    states = torch.where(missing[..., None], table[:, :1], table)
    steps = zip(*(x.unbind(1) for x in (moments, moments + delays, states, delays.to(table.dtype)[..., None])))
    ends = [moved(f, t.contiguous(), t_end.contiguous(), y.contiguous(), h, twice) for t, t_end, y, h in steps]
    return torch.where(missing[..., None], torch.nan, torch.stack(ends, 1))


def _met(
    batch: Batch, f: BatchedSlope, watch: EventMonitor, times: BatchedTimes, places: TrajectoryPoints, states: Tensor
) -> EventTrace:
    order = torch.argsort(places.row, stable=True)  # by sample; a sample's own are in order already
    rows, which = places.row[order], places.slot[order]
    idle = (times.start, batch.y0.detach())
    moments, ends = events.attach(f, watch.values, rows, which, places.time[order], states[order], idle)
    return _crossings(batch, rows.cpu().numpy(), which.cpu().numpy(), moments, ends)


def _reasons(ended: list[int], met: EventTrace | None) -> list[str]:
    reasons = [events.message(-1, 0.0)] * len(ended)
    for sample, which, t in zip(met.samples, met.which, met.times.tolist()) if met else ():
        if which == ended[sample]:
            reasons[sample] = events.message(which, t)
    return reasons


# The solution, in the form of the times.


def _crossings(batch: Batch, samples: np.ndarray, which: np.ndarray, times: Tensor, states: Tensor) -> EventTrace:
    states = states.view(-1, *batch.shape)
    if batch.layout.numpy:
        times, states = times.numpy(), states.numpy()
    return EventTrace(times, states, which, samples)


def _solution(
    batch: Batch,
    table: Tensor,
    reached: list[int],
    counted: dict[str, np.ndarray],
    reasons: list[str],
    engine: str,
    met: EventTrace | None,
) -> Solution:
    """Return the `Solution` of states (B, T, n), of which each sample has reached so many."""
    states = table.view(*table.shape[:2], *batch.shape)
    if batch.layout.numpy:
        states = states.numpy()
    ts = batch.problem.ts
    if batch.form == "list":
        ts = [row[:count] for row, count in zip(ts, reached)]
        states = [row[:count] for row, count in zip(states, reached)]
    elif batch.form == "shared":
        states = states.swapaxes(0, 1)
    if batch.form != "list" and not isinstance(ts, Tensor):
        ts = np.asarray(ts, dtype=float)
    return Solution(ts, states, message=reasons, solver=batch.tableau.name, engine=engine, events=met, **counted)
