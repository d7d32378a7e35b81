"""The path for described fields: one crossing to Julia for the solve, one for its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...fields import MLP, SEIR, ConcatConv, ConcatMLP, Equations, GatedMLP, HyperMLP, Linear, VectorField
from ...problem import Problem, Solution
from ...problem.values import Layout, check_times, flatten, read_parameters, times_inside
from ..backend import Backend, Prepared
from ..torch_engine.dynamics import build
from ..torch_engine.gradient_methods import attach_outputs, attach_start
from ..torch_engine.joint import check_tolerances
from ..torch_engine.once_differentiable import once_differentiable
from .lacking import lacking
from .paths import find_path
from .transfer import AddressTransfer, CopyTransfer, SolveRequest, choose_transfer

# The descriptions that Julia makes a field of; a subclass describes itself by another name.
FIELDS = (MLP, Linear, SEIR, Equations, HyperMLP, ConcatMLP, GatedMLP, ConcatConv)
# Times that a prepared problem remembers as checked.
MOST = 8


class DescribedFields(Backend):
    """Takes joint problems of described fields."""

    name = "julia"

    def unsupported(self, problem: Problem) -> str | None:
        field, signature = problem.field, problem.signature
        if (sentence := lacking(problem)) is not None:
            return sentence
        if not isinstance(field, VectorField):
            kind = "torch.nn.Module" if isinstance(field, nn.Module) else "Python callable"
            return (
                f"the field is a {kind}, which Julia would have to call back at every step: write engine='torch', or describe "
                "it as a field such as MLP or Equations."
            )
        if type(field) not in FIELDS:
            names = ", ".join(kind.__name__ for kind in FIELDS)
            return f"the field is a {type(field).__name__}, which Julia has no code for (it has {names}): write engine='torch'."
        if problem.events or problem.batch != "joint":
            asked = "events are watched" if problem.events else f"batch is {problem.batch!r}"
            return f"{asked}, which the julia engine does not have yet: write engine='torch'."
        if signature.tangents:
            return (
                "a tangent of forward-mode differentiation does not pass through the Julia engine: write engine='torch', or "
                "differentiate backwards."
            )
        if signature.dtype not in (torch.float32, torch.float64):
            return f"y0 is {signature.dtype}, and Julia solves in float32 and float64: write y0.float()."
        if problem.dense and problem.differentiated:
            return "dense is True, where Julia gives no gradient: leave it out, or write engine='torch'."
        device = signature.device.type
        path, sentence = find_path(
            field, problem.solver, problem.gradient, problem.compiled, problem.differentiated, device, problem.dense
        )
        return sentence if path is None else None

    def prepare(self, problem: Problem) -> DescribedPrepared:
        return DescribedPrepared(problem)

    def yields(self, problem: Problem) -> str | None:
        if problem.signature.device.type == "cuda":
            return "y0 is on a GPU, where the Julia engine has fewer gradients and solvers: write engine='julia' to have it."
        return None


class DescribedPrepared(Prepared):
    """A problem that Julia prepares when it first sees its times."""

    engine = "julia"

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.layout = problem.signature.layout
        self._checked: dict[bytes, Tensor] = {}

    def run(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Solution:
        problem, layout, field = self.problem, self.layout, self.problem.field
        start, _ = flatten(y0)
        moments = self._times(ts)
        if moments.dtype != start.dtype:
            moments = moments.to(torch.float64)
        if layout.numpy:
            moments = moments.detach()
        named = read_parameters(field, parameters, start, constant=layout.numpy)
        check_tolerances(problem, start)
        times = moments.detach().to("cpu", torch.float64).numpy()
        request = SolveRequest(
            field,
            problem.solver.name,
            problem.gradient,
            problem.compiled,
            problem.control,
            times,
            layout,
            problem.dense,
        )
        work = choose_transfer(request, start.device)
        given = tuple(named[name] for name in field.shapes())
        times_matter = moments.requires_grad and torch.is_grad_enabled()
        flat = None
        if times_matter:
            slope = build(field, {name: value.detach() for name, value in named.items()})
            flat = lambda t, y: slope(t, layout.unpack(y)).reshape(-1)  # noqa: E731
            start = attach_start(flat, moments, start, twice=False)
        states = _Solve.apply(work, start, *given) if problem.differentiated else work.solve(start, given, False)
        if times_matter:
            states = attach_outputs(flat, moments, moments.detach().tolist(), states, twice=False)
        nfev, accepted, rejected = work.counts
        return Solution(
            ts=ts if isinstance(ts, Tensor) else np.asarray(ts, dtype=float),
            ys=layout.deliver(states),
            nfev=nfev,
            accepted=accepted,
            rejected=rejected,
            message="reached the last time",
            solver=problem.solver.name,
            engine="julia (compiled)" if work.compiled else "julia",
            dense=_dense(work, times, layout) if problem.dense else None,
        )

    def _times(self, ts: Any) -> Tensor:
        """As `check_times`, which is not done again for the times of an earlier solve."""
        if not (isinstance(ts, np.ndarray) and ts.dtype == np.float64 and ts.ndim == 1):
            return check_times(ts)
        key = ts.tobytes()
        if key not in self._checked:
            checked = check_times(np.frombuffer(key))
            self._checked = dict(list(self._checked.items())[1 - MOST :]) | {key: checked}
        return self._checked[key]


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
