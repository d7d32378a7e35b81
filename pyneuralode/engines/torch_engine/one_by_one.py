"""The path that solves samples one at a time, for solvers and compiled code that accept only a single state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...errors import SolverError
from ...fields import VectorField
from ...problem import Problem, Solution
from ...problem.values import Layout
from ..backend import Backend, Paths
from . import events
from .batched.control import name_sample
from .dynamics import bind, with_hints
from .generic import lacking
from .independent import Batch, IndependentPrepared
from .numpy_functions import adapt_events, adapt_field

# The number of samples above which solving all samples together is faster than solving them one at a time in compiled
# code (measured: 20 to 100).
FEW = 32


class OneByOne(Backend):
    """A backend for batch='independent' that solves each sample with the first of `paths` that supports it.

    The number of samples is limited to `most`, unless this is None.
    """

    name = "torch"

    def __init__(self, paths: Iterable[Backend], most: int | None = None):
        self.paths, self.most = Paths("torch", paths), most

    def unsupported(self, problem: Problem) -> str | None:
        samples = problem.signature.layout.shapes[0][0]
        if (sentence := lacking(problem)) is not None:
            return sentence
        if self.most is None:
            return None
        if samples > self.most:
            return f"y0 has {samples} samples, which are faster to solve all at once."
        if problem.events or not isinstance(problem.field, VectorField):
            return "a sample solved alone would use the generic path."
        return self.paths.unsupported(of_one(problem))

    def prepare(self, problem: Problem) -> OneByOnePrepared:
        return OneByOnePrepared(problem, self.paths)


def of_one(problem: Problem) -> Problem:
    """Return the problem of one sample (batch='joint'), for a described field (`VectorField`)."""
    shape = torch.Size(problem.signature.layout.shapes[0][1:])
    return of_one_sample(problem, problem.field, shape, problem.field.shapes())


def of_one_sample(problem: Problem, field: Any, shape: torch.Size, parameters: Any) -> Problem:
    """Return the problem of one sample (batch='joint') with this state shape; array tolerances are reduced to their maximum."""
    signature = problem.signature
    layout = Layout((shape,), is_tuple=False, numpy=False)  # the user's state has already been converted to tensors
    joint = replace(signature, layout=layout, parameters=dict(parameters), times="shared", key=None)
    control = replace(problem.control, norm="joint", rtol=_any(problem.control.rtol), atol=_any(problem.control.atol))
    return replace(problem, field=field, signature=joint, control=control, batch="joint")


def _any(tolerance: Any) -> float:
    return tolerance if np.ndim(tolerance) == 0 else float(np.max(tolerance))


class OneByOnePrepared(IndependentPrepared):
    """A problem whose samples are prepared when their values are known: event conditions may differ between samples."""

    def __init__(self, problem: Problem, paths: Paths):
        super().__init__(problem)
        self.paths = paths
        if isinstance(problem.field, VectorField) and not problem.events:
            self.engine = paths.first(of_one(problem)).name

    def solve_batch(self, batch: Batch) -> Solution:
        problem, field, shape = self.problem, self.problem.field, self.shape
        watched = adapt_events(problem.events) if self.layout.numpy else problem.events
        if not isinstance(field, VectorField):
            field = self._alone(adapt_field(field) if self.layout.numpy else field, batch)
            shape = torch.Size((1, *shape))
        # One problem for all samples; only their tolerances and conditions may differ.
        shapes = {name: tuple(p.shape[1:] if name in batch.own else p.shape) for name, p in batch.parameters.items()}
        alone = of_one_sample(problem, field, shape, shapes)
        tolerances, idle = self.tolerances(), (batch.times[:, 0].detach(), batch.y0.detach().view(-1, *self.shape))
        for_all = self.paths.prepare(alone) if not tolerances and not watched else None
        solutions = []
        for b in range(self.samples):
            own = {name: value[b] for name, value in tolerances}
            prepared = for_all or self.paths.prepare(
                replace(alone, control=replace(alone.control, **own), events=events.of_sample(watched, b, *idle))
            )
            parameters = batch.parameters | {name: p[b] for name, p in batch.own.items()}
            try:
                solutions.append(prepared.run(parameters, batch.y0[b].view(shape), batch.times[b, : batch.counts[b]]))
            except SolverError as error:
                raise name_sample(error, b) from None
        return self._joined(batch, solutions)

    def _alone(self, field: Any, batch: Batch) -> Callable:
        """Return ``f(t, y)`` for a single sample; the user's field is called with a batch of one."""
        call, _ = bind(field, batch.parameters)

        def slope(t: Tensor, y: Tensor) -> Tensor:
            return call(t.view([1] * y.ndim), y)

        own = getattr(field, "jacobian", None)
        jacobian = {} if own is None else {"jacobian": lambda t, y: own(torch.as_tensor(t).view([1] * y.ndim), y)}
        return with_hints(slope, field, **jacobian)

    def _joined(self, batch: Batch, solutions: list[Solution]) -> Solution:
        reached = [len(solution.ys) for solution in solutions]
        n, width = batch.y0.shape[1], batch.times.shape[1]
        states = [
            pad(solution.ys.reshape(count, n), (0, 0, 0, width - count), value=torch.nan)
            for count, solution in zip(reached, solutions)
        ]
        met = None
        if self.problem.events:
            found = [solution.events for solution in solutions]
            samples = np.repeat(np.arange(len(found)), [len(one) for one in found])
            which = np.concatenate([one.which for one in found])
            moments, ends = (torch.cat([getattr(one, name) for one in found]) for name in ("times", "states"))
            met = self.trace(samples, which, moments, ends)
        counted = {
            name: np.array([getattr(one, name) for one in solutions]) for name in ("nfev", "accepted", "rejected")
        }
        messages = [solution.message for solution in solutions]
        joined = self.solution(batch, torch.stack(states), reached, counted, messages, met)
        return replace(joined, engine=solutions[0].engine)
