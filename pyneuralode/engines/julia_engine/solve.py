"""Solving a whole problem on the Julia engine: one crossing for the solve, one for its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArgumentError, PyNeuralODEError
from ...fields import Field
from ...gradients import require_gradient
from ...solvers import find_solver, julia_solver
from ..base import Problem, Solution
from ..inputs import check_described, flat_control, read_parameters
from ..state import Layout, check_times, flatten, times_inside
from ..torch_engine.differentiate import attach_outputs, attach_start
from ..torch_engine.first_order import first_order
from ..torch_engine.dynamics import build
from . import python_fields
from .handover import Asked, ByAddress, ByValue, handover


def refusal(problem: Problem) -> str | None:
    """Return the sentence that says why Julia does not take a problem unless it is asked to; None if it does."""
    if isinstance(problem.y0, Tensor) and problem.y0.is_cuda:
        return "y0 is on a GPU, where the Julia engine has fewer gradients and solvers: write engine='julia' to have it."
    try:
        _require(problem)
    except PyNeuralODEError as error:
        return str(error)
    return None


def _require(problem: Problem) -> None:
    if not isinstance(problem.dynamics, Field):
        kind = "torch.nn.Module" if isinstance(problem.dynamics, nn.Module) else "Python callable"
        raise ArgumentError(
            f"the field is a {kind}, which Julia would have to call back at every step: write engine='torch', or describe "
            "it as a field such as MLP or Equations."
        )
    julia_solver(problem.solver)
    require_gradient(problem.gradient, "julia")
    if isinstance(problem.y0, tuple):
        raise ArgumentError("y0 is a tuple, which a described field does not take: join its parts into one array.")


def solve(problem: Problem) -> Solution:
    """Solve `problem`; see `pyneuralode.solve` for what it may hold."""
    if python_fields.applies(problem):
        return python_fields.solve(problem)
    _require(problem)
    field = problem.dynamics
    y0, layout = flatten(problem.y0)
    ts = _times(problem.ts)
    if ts.dtype != y0.dtype:
        ts = ts.to(torch.float64)
    if layout.numpy:
        ts = ts.detach()
    parameters = read_parameters(field, problem.parameters, y0, constant=layout.numpy)
    check_described(field, parameters, layout)
    entry = find_solver(problem.solver)
    adaptive = entry.adaptive and problem.control.step is None
    control = flat_control(problem.control, y0, layout, adaptive)
    times = ts.detach().to("cpu", torch.float64).numpy()
    asked = Asked(field, entry.name, problem.gradient, problem.fused, control, times, layout, problem.dense)
    work = handover(asked, y0.device)
    given = tuple(parameters[name] for name in field.shapes())
    times_matter = ts.requires_grad and torch.is_grad_enabled()
    f = build(field, {name: value.detach() for name, value in parameters.items()}) if times_matter else None
    flat_f = None if f is None else (lambda t, y: f(t, layout.unpack(y)).reshape(-1))
    start = attach_start(flat_f, ts, y0) if times_matter else y0
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (start, *given)) and not problem.dense
    states = _Solve.apply(work, start, *given) if wanted else work.solve(start, given, False)
    if times_matter:
        states = attach_outputs(flat_f, ts, ts.detach().tolist(), states)
    nfev, accepted, rejected = work.counts
    return Solution(
        ts=problem.ts if isinstance(problem.ts, Tensor) else np.asarray(problem.ts, dtype=float),
        ys=layout.deliver(states),
        nfev=nfev,
        accepted=accepted,
        rejected=rejected,
        reason="reached the last time",
        solver=entry.name,
        engine="julia (fused)" if work.fused else "julia",
        dense=_dense(work, times, layout) if problem.dense else None,
    )


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, work: ByAddress | ByValue, y0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        return work.solve(y0, parameters, True)

    @staticmethod
    @first_order
    def backward(ctx, cotangent: Tensor):
        _ = ctx.saved_tensors
        start, parameters = ctx.work.pullback(cotangent.contiguous())
        return None, start, *parameters


def _dense(work: ByValue, ts: np.ndarray, layout: Layout) -> Callable:
    """Return the function of time that Julia's own interpolant makes."""

    def at(t):
        states = work.at(times_inside(t, ts[0], ts[-1]))
        return layout.deliver(states[0] if np.ndim(t) == 0 else states)

    return at


@functools.lru_cache(maxsize=64)
def _checked_times(numbers: bytes) -> Tensor:
    return check_times(np.frombuffer(numbers))


def _times(ts: Any) -> Tensor:
    """As `check_times`, which is not done again for the times of an earlier solve."""
    if isinstance(ts, np.ndarray) and ts.dtype == np.float64 and ts.ndim == 1:
        return _checked_times(ts.tobytes())
    return check_times(ts)
