"""The path of the Julia engine for continuous flows.

One call to Julia returns the samples and the integrals along their trajectories, and another returns the gradient. For
the same noise, the results are the same as those of the torch engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import kind_of
from ...fields import MLP, ConcatConv, ConcatMLP, GatedMLP, HyperMLP, Linear
from ...problem import Integrals, Problem, Solution
from ..backend import Backend, Prepared
from . import session
from .lacking import lacking
from .paths import find_flow_path
from .session import Handle
from .transfer import solve_request, solve_with

FIELDS = (MLP, Linear, HyperMLP, ConcatMLP, GatedMLP, ConcatConv)


class JuliaFlows(Backend):
    """The backend for continuous flows with a described field (`VectorField`) of a class in `FIELDS`."""

    name = "julia"

    def unsupported(self, problem: Problem) -> str | None:
        field, signature = problem.field, problem.signature
        if not isinstance(field, FIELDS):
            names = ", ".join(kind.__name__ for kind in FIELDS)
            return f"the field is {kind_of(field)}, which flows in Julia do not support: use one of {names}."
        if sentence := lacking(problem) or find_flow_path(problem.solver, problem.gradient, problem.path)[1]:
            return sentence
        for name in ("rtol", "atol"):
            if np.ndim(getattr(problem.control, name)) > 0:
                return f"{name} is an array, which flows in Julia do not support: give a number, such as 1e-5."
        if signature.device.type != "cpu" or signature.dtype not in (torch.float32, torch.float64):
            return (
                f"the flow is {signature.dtype} on {signature.device}, but Julia solves flows only in float32 or float64 on the "
                "CPU."
            )
        return None

    def prepare(self, problem: Problem) -> FlowPrepared:
        return FlowPrepared(problem)

    def yields(self, problem: Problem) -> str | None:
        if isinstance(problem.field, ConcatConv):
            return "the field is a ConcatConv, whose convolutions are faster in torch"
        return None


class FlowPrepared(Prepared):
    """A prepared flow: its request lacks only the values, and Julia reuses memory for requests with the same "key"."""

    engine = "julia"

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.names = list(problem.field.shapes())
        path, _ = find_flow_path(problem.solver, problem.gradient, problem.path)
        wanted = {"kinetic": problem.integrals.kinetic, "jacobian": problem.integrals.jacobian}
        self.request = solve_request(problem, path) | wanted

    def run(self, parameters: Mapping[str, Any], y0: Tensor, ts: Any, noise: Tensor | None = None) -> Solution:
        wanted, span = self.problem.integrals, [float(t) for t in ts]
        request = self.request | {"times": span}
        key = json.dumps([request, len(y0), str(y0.dtype), not wanted.estimated], default=float)
        request |= {"key": key, "differentiable": self.problem.differentiated}
        transfer = _FlowTransfer(request, self.names, noise if wanted.estimated else None)
        given = tuple(parameters[name] for name in self.names)
        end = solve_with(transfer, y0, given, self.problem.differentiated)
        d = y0.shape[1]
        forward = 1.0 if span[1] > span[0] else -1.0
        return Solution(
            np.array(span[-1:]),
            end[None, :, :d],
            transfer.evaluations,
            0,
            0,
            "reached the last time",
            self.problem.solver.name,
            self.engine,
            integrals=Integrals(
                end[:, d],
                forward * end[:, d + 1] if wanted.kinetic else None,
                forward * end[:, -1] if wanted.jacobian else None,
            ),
        )


class _FlowTransfer:
    """One solve, which Julia keeps until its gradient is no longer needed."""

    def __init__(self, request: dict[str, Any], names: list[str], noise: Tensor | None):
        self._request, self._names = request | {"noise": None if noise is None else _samples(noise)}, names

    def solve(self, state: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return the samples and their integrals in the rows of one tensor, one row for each of the n samples."""
        named = {name: value.detach().numpy() for name, value in zip(self._names, parameters)}
        reply = session.call("flow_terms", self._request | {"x": _samples(state), "parameters": named})
        self.evaluations = reply["nfev"]
        self._handle = Handle(reply["handle"]) if self._request["differentiable"] else None
        return _tensor(reply["end"].T)

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients with respect to the samples (n, d) and to each parameter."""
        reply = session.call("flow_pullback", {"handle": self._handle.number, "bar": _samples(cotangent)})
        return _tensor(reply["x"].T), [_tensor(reply["parameters"][name]) for name in self._names]


def _samples(rows: Tensor) -> np.ndarray:
    """Return samples (n, d) in Julia's layout, (d, n), without copying them."""
    return rows.detach().contiguous().numpy().T


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
