"""Solving a whole problem on the Julia engine: one crossing for the solve, one for its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArgumentError, PyNeuralODEError
from ...fields import Field
from ...gradients import GradientMethod, require_gradient
from ...solvers import find_solver, require_engine
from ..base import Control, Problem, Solution
from ..inputs import check_described, flat_control, read_parameters
from ..state import Layout, check_times, flatten, times_inside
from ..torch_engine.differentiate import attach_outputs, attach_start, first_order
from ..torch_engine.dynamics import build
from . import python_fields
from .session import Kept, call


def refusal(problem: Problem) -> str | None:
    """Return the sentence that says what of a problem the Julia engine does not take; None if it takes all of it."""
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
    if not isinstance(problem.solver, str):
        raise ArgumentError(
            f"the solver {problem.solver.name!r} is an own tableau, which the Julia engine does not take: write engine='torch'."
        )
    require_engine(find_solver(problem.solver), "julia")
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
    ts = check_times(problem.ts)
    if ts.dtype != y0.dtype:
        ts = ts.to(torch.float64)
    if layout.numpy:
        ts = ts.detach()
    parameters = read_parameters(field, problem.parameters, y0, constant=layout.numpy)
    check_described(field, parameters, layout)
    if y0.is_cuda:
        raise ArgumentError("y0 is on a GPU, which the Julia engine has not been run on: write y0.cpu(), or engine='torch'.")
    entry = find_solver(problem.solver)
    control = flat_control(problem.control, y0, layout, entry.adaptive and problem.control.step is None)
    request = solver_request(field, entry.name, problem.gradient, problem.fused) | {
        "ts": ts.detach().to(torch.float64).numpy(),
        "control": control_request(control, layout),
        "dense": problem.dense,
    }
    names = [name for name in field.shapes()]
    given = tuple(parameters[name] for name in names)
    times_matter = ts.requires_grad and torch.is_grad_enabled()
    f = build(field, {name: value.detach() for name, value in parameters.items()}) if times_matter else None
    flat_f = None if f is None else (lambda t, y: f(t, layout.unpack(y)).reshape(-1))
    start = attach_start(flat_f, ts, y0) if times_matter else y0
    work = _Work(request, names, layout)
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (start, *given)) and not problem.dense
    states = _Solve.apply(work, start, *given) if wanted else torch.as_tensor(work.solve(start, given, False))
    if times_matter:
        states = attach_outputs(flat_f, ts, ts.detach().tolist(), states)
    return Solution(
        ts=problem.ts if isinstance(problem.ts, Tensor) else np.asarray(problem.ts, dtype=float),
        ys=layout.deliver(states),
        nfev=work.reply["nfev"],
        accepted=work.reply["accepted"],
        rejected=work.reply["rejected"],
        reason="reached the last time",
        solver=entry.name,
        engine="julia (fused)" if work.reply["fused"] else "julia",
        dense=_dense(work, request["ts"]) if problem.dense else None,
    )


def solver_request(field: Field, solver: str, gradient: GradientMethod, fused: bool) -> dict[str, Any]:
    """Return what is the same for every solve of a model, as plain values."""
    return {
        "field": field.describe(),
        "solver": solver,
        "gradient": {"kind": type(gradient).__name__, **vars(gradient)},
        "fused": fused,
    }


def control_request(control: Control, layout: Layout) -> dict[str, Any]:
    """Return the controls as plain values; tolerances for each component have the state's shape in Julia."""
    settings = dict(vars(control))
    for name in ("rtol", "atol"):
        value = settings[name]
        settings[name] = float(value) if np.ndim(value) == 0 else to_julia(value, layout)
    return settings


def to_julia(flat: np.ndarray, layout: Layout) -> np.ndarray:
    """Return a flat state as Julia sees it: (dim,), or (dim, samples) for a batch; a view."""
    shape = layout.shapes[0]
    return flat if len(shape) == 1 else flat.reshape(-1, shape[-1]).T


@dataclass
class _Work:
    """One solve: its request without the numbers that autograd follows, and its reply."""

    request: dict[str, Any]
    names: list[str]
    layout: Layout
    reply: dict[str, Any] | None = None
    kept: Kept | None = None

    def solve(self, y0: Tensor, parameters: tuple[Tensor, ...], differentiable: bool) -> np.ndarray:
        """Return the states (T, n) and keep in Julia what `pullback` needs."""
        arrays = {name: value.detach().numpy() for name, value in zip(self.names, parameters)}
        numbers = {"u0": to_julia(y0.detach().numpy(), self.layout), "parameters": arrays}
        self.reply = call("solve", self.request | numbers | {"differentiable": differentiable})
        self.kept = None if self.reply["kept"] is None else Kept(self.reply["kept"])
        return flat_states(self.reply.pop("ys"))

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients with respect to the initial state (n,) and the parameters."""
        rows = cotangent.detach().numpy()
        shape = self.layout.shapes[0]
        ysbar = rows.T if len(shape) == 1 else rows.reshape(len(rows), -1, shape[-1]).T
        reply = call("pullback", {"kept": self.kept.number, "ysbar": ysbar})
        start = torch.from_numpy(np.ascontiguousarray(reply["u0"].T).reshape(-1))
        return start, [torch.as_tensor(reply["parameters"][name], dtype=cotangent.dtype) for name in self.names]


def flat_states(ys: np.ndarray) -> np.ndarray:
    """Return Julia's states (dim, [samples,] T) as (T, n), row-major; a view."""
    return ys.T.reshape(ys.shape[-1], -1)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, work: _Work, y0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        return torch.from_numpy(work.solve(y0, parameters, True))

    @staticmethod
    @first_order
    def backward(ctx, cotangent: Tensor):
        _ = ctx.saved_tensors
        start, parameters = ctx.work.pullback(cotangent.contiguous())
        return None, start, *parameters


def _dense(work: _Work, ts: np.ndarray):
    """Return the function of time that Julia's own interpolant makes."""
    layout = work.layout

    def at(t):
        times = times_inside(t, ts[0], ts[-1])
        states = torch.from_numpy(flat_states(call("interpolate", {"kept": work.kept.number, "times": times})["ys"]))
        return layout.deliver(states[0] if np.ndim(t) == 0 else states)

    return at
