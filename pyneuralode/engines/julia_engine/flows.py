"""Solves of continuous flows on the Julia engine: one crossing for the samples and the integrals along their paths, one back.

The same as `pyneuralode.flows.dynamics.solve_terms` does with torch, on the same noise.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...conv_fields import ConcatConv
from ...errors import ArgumentError, PyNeuralODEError
from ...fields import MLP, Linear
from ...gradients import require_gradient
from ...solvers import find_solver, julia_solver
from ...time_fields import ConcatMLP, GatedMLP, HyperMLP
from ..integrals import Integrals
from ..torch_engine.once_differentiable import once_differentiable
from . import session
from .paths import find_flow_path
from .session import Handle
from .transfer import plain_control, refuse_tstops, solver_request

FIELDS = (MLP, Linear, HyperMLP, ConcatMLP, GatedMLP, ConcatConv)


def refusal(flow: Any) -> str | None:
    """Return the sentence that says why Julia does not take a flow unless it is asked to; None if it does."""
    if isinstance(flow.field, ConcatConv):
        return "the field is a ConcatConv, whose convolutions torch is quicker at: write engine='julia' to have it."
    try:
        _require(flow)
    except PyNeuralODEError as error:
        return str(error)
    return None


def _require(flow: Any) -> None:
    if not isinstance(flow.field, FIELDS):
        names = ", ".join(kind.__name__ for kind in FIELDS)
        raise ArgumentError(
            f"the field is a {type(flow.field).__name__}, of which Julia has no flows: give one of {names}, or write "
            "engine='torch'."
        )
    julia_solver(flow.solver)
    require_gradient(flow.gradient, "julia")
    refuse_tstops(flow.control)
    _path(flow)
    for name in ("rtol", "atol"):
        if np.ndim(getattr(flow.control, name)) > 0:
            raise ArgumentError(f"{name} is an array, which flows do not take in Julia: give a number, such as 1e-5.")
    for tensor in flow.tensors().values():
        if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.float64):
            raise ArgumentError(
                f"the flow is {tensor.dtype} on {tensor.device}, and Julia solves flows in float32 and float64 on the CPU: "
                "write engine='torch'."
            )


def _path(flow: Any) -> str:
    path, reason = find_flow_path(find_solver(flow.solver), flow.gradient)
    if path is None:
        raise ArgumentError(reason)
    return path


def solve_terms(
    flow: Any,
    state: Tensor,
    span: tuple[float, float],
    noise: Tensor | None,
    kinetic: bool = False,
    jacobian: bool = False,
) -> Integrals:
    """As `pyneuralode.flows.dynamics.solve_terms`; raises ArgumentError for a flow that Julia does not take."""
    _require(flow)
    names = list(flow.field.shapes())
    given = tuple(flow.tensors()[name] for name in names)
    work = _Work(_describe(flow, state, span, noise, kinetic, jacobian), names, noise)
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (state, *given))
    end = _Joint.apply(work, state, *given) if wanted else work.solve(state, given, False)
    d = state.shape[1]
    forward = 1.0 if span[1] > span[0] else -1.0
    return Integrals(
        end[:, :d],
        end[:, d],
        forward * end[:, d + 1] if kinetic else None,
        forward * end[:, -1] if jacobian else None,
        work.evaluations,
    )


def _describe(flow, state, span, noise, kinetic, jacobian) -> dict[str, Any]:
    """Return all but the numbers of a solve as plain values; Julia keeps its room for the next one with the same "key"."""
    request = solver_request(flow.field, find_solver(flow.solver).name, flow.gradient, True, _path(flow)) | {
        "control": plain_control(flow.control),
        "times": [float(t) for t in span],
        "kinetic": kinetic,
        "jacobian": jacobian,
    }
    key = json.dumps([request, len(state), str(state.dtype), noise is None], default=float)
    return request | {"key": key}


class _Work:
    """One solve, which Julia keeps until its gradient is no longer wanted."""

    def __init__(self, request: dict[str, Any], names: list[str], noise: Tensor | None):
        self._request, self._names = request, names
        self._noise = None if noise is None else _samples(noise)
        self.evaluations = 0

    def solve(self, state: Tensor, parameters: tuple[Tensor, ...], differentiable: bool) -> Tensor:
        """Return the samples with their integrals (n, rows)."""
        numbers = {
            "x": _samples(state),
            "noise": self._noise,
            "parameters": {name: value.detach().numpy() for name, value in zip(self._names, parameters)},
            "differentiable": differentiable,
        }
        reply = session.call("flow_terms", self._request | numbers)
        self.evaluations = reply["nfev"]
        self._handle = Handle(reply["handle"]) if differentiable else None
        return _tensor(reply["end"].T)

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients with respect to the samples (n, d) and to each parameter."""
        reply = session.call("flow_pullback", {"handle": self._handle.number, "bar": _samples(cotangent)})
        return _tensor(reply["x"].T), [_tensor(reply["parameters"][name]) for name in self._names]


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, work: _Work, state: Tensor, *parameters: Tensor) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(*parameters)  # so that autograd notices when they were changed in between
        return work.solve(state, parameters, True)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor):
        _ = ctx.saved_tensors
        state, parameters = ctx.work.pullback(cotangent)
        return None, state, *parameters


def _samples(rows: Tensor) -> np.ndarray:
    """Return samples (n, rows) as Julia sees them, (rows, n), in the same memory."""
    return rows.detach().contiguous().numpy().T


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
