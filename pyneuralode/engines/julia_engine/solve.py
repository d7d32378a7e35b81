"""The path for described fields (`VectorField`): one call to Julia for the solve, and one for its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import kind_of
from ...fields import MLP, SEIR, ConcatConv, ConcatMLP, Equations, GatedMLP, HyperMLP, Linear, VectorField
from ...gradients import JuliaAdjoint
from ...problem import Problem, Solution
from ...problem.values import Layout, times_inside
from ..backend import Backend, Prepared
from ..torch_engine.dynamics import build
from ..torch_engine.gradient_methods import attach_outputs, attach_start
from .code_fields import JuliaCode, JuliaFunction, LuxModel
from .lacking import lacking
from .paths import find_path
from .transfer import CopyTransfer, choose_transfer, solve_with

# The field types that Julia has code for. Subclasses are not included: their descriptions have different names.
FIELDS = (MLP, Linear, SEIR, Equations, HyperMLP, ConcatMLP, GatedMLP, ConcatConv, JuliaFunction, LuxModel)


class DescribedFields(Backend):
    """The backend for problems with described fields (`VectorField`) and batch='joint'."""

    name = "julia"

    def unsupported(self, problem: Problem) -> str | None:
        return lacking_for_described(problem)

    def prepare(self, problem: Problem) -> DescribedPrepared:
        return DescribedPrepared(problem)

    def yields(self, problem: Problem) -> str | None:
        if problem.signature.device.type == "cuda":
            return "y0 is on a GPU, where Julia supports fewer solvers and gradient methods"
        return None


def lacking_for_described(problem: Problem) -> str | None:
    """Return why the Julia engine does not support a problem that should have a described field; None if it does."""
    field, signature = problem.field, problem.signature
    if (sentence := lacking(problem)) is not None:
        return sentence
    if not isinstance(field, VectorField):
        kind = "torch.nn.Module" if isinstance(field, nn.Module) else "Python callable"
        return (
            f"the field is a {kind}, which Julia would have to call back at every step: use a "
            "VectorField such as MLP or Equations."
        )
    if type(field) not in FIELDS:
        names = ", ".join(kind.__name__ for kind in FIELDS)
        return f"the field is {kind_of(field)}, which Julia does not support (it supports {names})."
    if (sentence := _lacking_for_code(problem)) is not None:
        return sentence
    if signature.tangents:
        return (
            "a tangent of forward-mode differentiation does not pass through the Julia engine: differentiate with "
            "backward()."
        )
    if signature.dtype not in (torch.float32, torch.float64):
        return f"y0 is {signature.dtype}, but Julia solves only in float32 or float64: write y0.float()."
    if problem.dense and problem.differentiated:
        return "dense is True, but Julia computes no gradients of dense solves: leave dense out."
    return find_path(problem, signature.device.type)[1] or None


def _lacking_for_code(problem: Problem) -> str | None:
    """Return what is not supported for a field that is written in Julia."""
    field = problem.field
    if not isinstance(field, JuliaCode):
        return None
    if "ts" in problem.signature.differentiated:
        return f"ts requires gradients, which a {type(field).__name__} does not support: write ts.detach()."
    if isinstance(field, JuliaFunction) and isinstance(problem.gradient, JuliaAdjoint):
        return (
            "gradient is Julia source, but a JuliaFunction is differentiated by dual numbers only: write "
            "gradient='GaussAdjoint', for example."
        )
    if not problem.compiled and problem.differentiated and isinstance(field, JuliaFunction):
        return "compiled is False, but a JuliaFunction is differentiated by dual numbers only: leave compiled out."
    return None


class DescribedPrepared(Prepared):
    """A problem that Julia prepares when it first receives the times."""

    engine = "julia"

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        problem, layout, field = self.problem, self.problem.signature.layout, self.problem.field
        values = problem.read(parameters, y0, ts)
        moments, start = values.ts, values.y0
        times = moments.detach().to("cpu", torch.float64).numpy()
        transfer = choose_transfer(problem, times, start.device)
        given = tuple(values.parameters[name] for name in field.shapes())
        if moments.requires_grad and torch.is_grad_enabled():
            slope = build(field, values.parameters)
            flat_slope = lambda t, y: slope(t, layout.unpack(y)).reshape(-1)  # noqa: E731
            start = attach_start(flat_slope, moments, start, twice=False)
            states = solve_with(transfer, start, given, recorded=True)
            states = attach_outputs(flat_slope, moments, values.times, states, twice=False)
        else:
            states = solve_with(transfer, start, given, problem.differentiated)
        return Solution(
            ts if isinstance(ts, Tensor) else np.asarray(ts, dtype=float),
            layout.deliver(states),
            *transfer.counts,
            message="reached the last time",
            solver=problem.solver.name,
            engine=transfer.engine,
            dense=_dense(transfer, times, layout) if problem.dense else None,
        )


def _dense(transfer: CopyTransfer, ts: np.ndarray, layout: Layout) -> Callable:
    """Return the solution as a function of time, evaluated with Julia's interpolant."""

    def at(t):
        states = transfer.at(times_inside(t, ts[0], ts[-1]))
        return layout.deliver(states[0] if np.ndim(t) == 0 else states)

    return at
