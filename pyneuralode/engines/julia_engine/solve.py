"""Solving a whole problem on the Julia engine: one crossing for the solve, one for its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...conv_fields import ConcatConv
from ...equations import Equations
from ...errors import ArgumentError, PyNeuralODEError
from ...fields import MLP, SEIR, Linear, VectorField
from ...gradients import require_gradient
from ...problem import Problem, Solution
from ...solvers import find_solver, julia_solver
from ...time_fields import ConcatMLP, GatedMLP, HyperMLP
from ..inputs import check_described, flat_control, read_parameters
from ..state import Layout, check_times, flatten, times_inside
from ..torch_engine.dynamics import build
from ..torch_engine.gradient_methods import attach_outputs, attach_start
from ..torch_engine.once_differentiable import once_differentiable
from ..torch_engine.tangents import refuse_tangents
from . import python_fields
from .paths import require_path
from .transfer import AddressTransfer, CopyTransfer, SolveRequest, choose_transfer, refuse_tstops

# The descriptions that Julia makes a field of; a subclass describes itself by another name.
FIELDS = (MLP, Linear, SEIR, Equations, HyperMLP, ConcatMLP, GatedMLP, ConcatConv)


def refusal(problem: Problem, differentiated: bool | None = None) -> str | None:
    """Return the sentence that says why Julia does not take a problem unless it is asked to; None if it does.

    `differentiated` says whether a gradient will be asked for, where the problem's own tensors do not tell.
    """
    differentiated = _is_differentiated(problem) if differentiated is None else differentiated
    if isinstance(problem.y0, Tensor) and problem.y0.is_cuda:
        return (
            "y0 is on a GPU, where the Julia engine has fewer gradients and solvers: write engine='julia' to have it."
        )
    if problem.dense and differentiated:
        return "dense is True, where Julia gives no gradient: leave it out, or write engine='torch'."
    try:
        _require_joint(problem)
        _require(problem, differentiated)
    except PyNeuralODEError as error:
        return str(error)
    return None


def _is_differentiated(problem: Problem) -> bool:
    """Return whether autograd follows anything that the solve is given; for a NumPy state it does not."""
    given = (problem.y0, problem.ts, *problem.parameters.values())
    followed = any(isinstance(value, Tensor) and value.requires_grad for value in given)
    return followed and isinstance(problem.y0, Tensor) and torch.is_grad_enabled()


def _require_joint(problem: Problem) -> None:
    if problem.events or problem.batch != "joint":
        asked = "events are watched" if problem.events else f"batch is {problem.batch!r}"
        raise ArgumentError(f"{asked}, which the julia engine does not have yet: write engine='torch'.")


def _require(problem: Problem, differentiated: bool) -> None:
    field, y0 = problem.dynamics, problem.y0
    if not isinstance(field, VectorField):
        kind = "torch.nn.Module" if isinstance(field, nn.Module) else "Python callable"
        raise ArgumentError(
            f"the field is a {kind}, which Julia would have to call back at every step: write engine='torch', or describe "
            "it as a field such as MLP or Equations."
        )
    if type(field) not in FIELDS:
        names = ", ".join(kind.__name__ for kind in FIELDS)
        raise ArgumentError(
            f"the field is a {type(field).__name__}, which Julia has no code for (it has {names}): write engine='torch'."
        )
    given = (y0, problem.ts, *problem.parameters.values())
    refuse_tangents("the Julia engine", "write engine='torch'", *(x for x in given if isinstance(x, Tensor)))
    solver = julia_solver(problem.solver)
    require_gradient(problem.gradient, "julia")
    refuse_tstops(problem.control)
    if isinstance(y0, tuple):
        raise ArgumentError("y0 is a tuple, which a described field does not take: join its parts into one array.")
    if isinstance(y0, Tensor) and y0.is_floating_point() and y0.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(f"y0 is {y0.dtype}, and Julia solves in float32 and float64: write y0.float().")
    require_path(field, solver, problem.gradient, problem.compiled, differentiated, dense=problem.dense)


def solve(problem: Problem) -> Solution:
    """Solve `problem`; see `pyneuralode.solve` for what it may hold."""
    _require_joint(problem)
    if python_fields.applies(problem):
        return python_fields.solve(problem)
    _require(problem, _is_differentiated(problem))
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
    adaptive = entry.adaptive and problem.control.step_size is None
    control = flat_control(problem.control, y0, layout, adaptive)
    times = ts.detach().to("cpu", torch.float64).numpy()
    request = SolveRequest(field, entry.name, problem.gradient, problem.compiled, control, times, layout, problem.dense)
    work = choose_transfer(request, y0.device)
    given = tuple(parameters[name] for name in field.shapes())
    times_matter = ts.requires_grad and torch.is_grad_enabled()
    f = build(field, {name: value.detach() for name, value in parameters.items()}) if times_matter else None
    flat_f = None if f is None else (lambda t, y: f(t, layout.unpack(y)).reshape(-1))
    start = attach_start(flat_f, ts, y0, twice=False) if times_matter else y0
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (start, *given)) and not problem.dense
    states = _Solve.apply(work, start, *given) if wanted else work.solve(start, given, False)
    if times_matter:
        states = attach_outputs(flat_f, ts, ts.detach().tolist(), states, twice=False)
    nfev, accepted, rejected = work.counts
    return Solution(
        ts=problem.ts if isinstance(problem.ts, Tensor) else np.asarray(problem.ts, dtype=float),
        ys=layout.deliver(states),
        nfev=nfev,
        accepted=accepted,
        rejected=rejected,
        message="reached the last time",
        solver=entry.name,
        engine="julia (compiled)" if work.compiled else "julia",
        dense=_dense(work, times, layout) if problem.dense else None,
    )


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, work: AddressTransfer | CopyTransfer, y0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        return work.solve(y0, parameters, True)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor):
        _ = ctx.saved_tensors
        start, parameters = ctx.work.pullback(cotangent.contiguous())
        return None, start, *parameters


def _dense(work: CopyTransfer, ts: np.ndarray, layout: Layout) -> Callable:
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
