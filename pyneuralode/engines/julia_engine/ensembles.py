"""The path for ``batch="independent"`` with described fields (`VectorField`): one call to Julia for all samples.

SciML's solvers run as an `EnsembleProblem`, one sample after another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...problem import Problem, Solution
from ..backend import Backend, Prepared
from ..torch_engine.independent import Batch, IndependentPrepared
from . import session
from .paths import engine_name, require_path
from .session import Handle
from .solve import lacking_for_described
from .transfer import solve_request, solve_with


class Ensembles(Backend):
    """The backend for described fields with batch='independent'."""

    name = "julia"

    def unsupported(self, problem: Problem) -> str | None:
        if (sentence := lacking_for_described(problem)) is not None:
            return sentence
        if problem.signature.device.type != "cpu":
            return "y0 is on a GPU, where Julia does not support batch='independent': write y0.cpu()."
        if "ts" in problem.signature.differentiated:
            return "ts requires gradients, which Julia does not support with batch='independent': write ts.detach()."
        return None

    def prepare(self, problem: Problem) -> Prepared:
        return EnsemblePrepared(problem)


class EnsemblePrepared(IndependentPrepared):
    """A prepared problem of B samples; Julia receives all values in each call."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        self.path = require_path(problem)
        self.engine = engine_name(self.path)

    def solve_batch(self, batch: Batch) -> Solution:
        transfer = _EnsembleTransfer(self.problem, self.path, batch, self.shape)
        states = solve_with(transfer, batch.y0, tuple(batch.parameters.values()), self.problem.differentiated)
        messages = ["reached the last time"] * self.samples
        counted = dict(zip(("nfev", "accepted", "rejected"), transfer.counts))
        return self.solution(batch, states, batch.counts, counted, messages, None)


class _EnsembleTransfer:
    """The transfer for one solve of a batch; see transfer.py for the methods."""

    def __init__(self, problem: Problem, path: str, batch: Batch, shape: torch.Size):
        self._problem, self._path, self._batch = problem, path, batch
        # A sample's state is a vector in Julia, or a matrix with one column for each of the vectors that it consists of.
        self._shape = shape if len(shape) == 1 else (shape[:-1].numel(), shape[-1])

    def solve(self, y0: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        problem, batch = self._problem, self._batch
        request = solve_request(problem, self._path)
        for name in ("rtol", "atol"):
            if np.ndim(getattr(problem.control, name)):
                request["control"][name] = self._to_julia(getattr(problem.control, name))
        request |= {
            "ts": [row[:count] for row, count in zip(batch.times.detach().numpy(), batch.counts)],
            "u0": self._to_julia(y0.detach().numpy()),
            "parameters": {name: value.detach().numpy() for name, value in zip(batch.parameters, parameters)},
            "own": list(batch.own),
            "differentiable": problem.differentiated,
        }
        reply = session.call("ensemble", request)
        self.counts = [np.array(reply[name]) for name in ("nfev", "accepted", "rejected")]
        if reply["handle"] is not None:
            self._handle = Handle(reply["handle"])
        states = np.ascontiguousarray(reply["ys"].T)  # (B, T, *state)
        return torch.from_numpy(states.reshape(*states.shape[:2], -1))

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        ysbar = cotangent.detach().numpy().reshape(*cotangent.shape[:2], *self._shape).T
        reply = session.call("ensemble_pullback", {"handle": self._handle.number, "ysbar": ysbar})
        start = torch.from_numpy(np.ascontiguousarray(reply["u0"].T).reshape(len(cotangent), -1))
        gradients = reply["parameters"]
        return start, [torch.as_tensor(gradients[name], dtype=cotangent.dtype) for name in self._batch.parameters]

    def _to_julia(self, values: Any) -> np.ndarray:
        """Return values (B, ..., *state) as a view in Julia's layout, with the samples last."""
        return values.reshape(-1, *self._shape).T
