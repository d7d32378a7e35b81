"""Transfer of a solve's arrays to Julia: by address if Julia runs inside this process, as copies otherwise.

In transfers by address, nothing is converted or copied: Julia reads the initial state, the parameters and the
cotangents in place, on the CPU or on a GPU, and writes states and gradients into memory that torch allocated. Both
transfer classes have the same methods:

- ``solve(y0, parameters)`` returns the states (T, n) for the flat initial state (n,) and the parameters in the documented
  order, and sets `counts` (evaluations, accepted and rejected steps) and `engine`, as in `Solution`;
- ``pullback(cotangent)`` then returns the gradients, for a cotangent (T, n), with respect to the initial state and each
  parameter.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ...gradients import GradientMethod, JuliaAdjoint
from ...problem import Control, Problem
from ...problem.values import Layout
from ..torch_engine.once_differentiable import once_differentiable
from . import session
from .code_fields import JuliaCode
from .in_process import InProcessJulia
from .paths import engine_name, require_path
from .session import Handle

_MAX_PREPARED = 64
"""The maximum number of problems that Julia keeps prepared; the oldest is dropped first."""


def choose_transfer(problem: Problem, ts: np.ndarray, device: torch.device) -> AddressTransfer | CopyTransfer:
    """Return the transfer for a solve at times ts (T,), float64, whose arrays are on `device`."""
    julia = session.running()
    if isinstance(julia, InProcessJulia) and not problem.dense:
        return AddressTransfer(julia, problem, ts)
    if device.type == "cpu":
        return CopyTransfer(problem, ts)
    if problem.dense:
        raise ArgumentError("dense is True, which Julia supports only on the CPU: write y0.cpu(), or engine='torch'.")
    raise ArgumentError(
        f"y0 is on {device}, whose memory Julia in the worker process cannot reach: set PYNEURALODE_JULIA_PROCESS=inside "
        "before anything uses Julia, or write y0.cpu()."
    )


class _RecordedSolve(torch.autograd.Function):
    """The states that a transfer's `solve` returns, connected to autograd through its `pullback`."""

    @staticmethod
    def forward(ctx, transfer: Any, y0: Tensor, *parameters: Tensor) -> Tensor:
        ctx.transfer = transfer
        ctx.save_for_backward(*parameters)  # so that autograd notices changes before the backward pass
        return transfer.solve(y0, parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent: Tensor):
        _ = ctx.saved_tensors
        start, parameters = ctx.transfer.pullback(cotangent.contiguous())
        return None, start, *parameters


def solve_with(transfer: Any, y0: Tensor, parameters: tuple[Tensor, ...], recorded: bool) -> Tensor:
    """Return the states from a transfer, connected to autograd if `recorded`."""
    return _RecordedSolve.apply(transfer, y0, *parameters) if recorded else transfer.solve(y0, parameters)


class AddressTransfer:
    """The transfer for one solve, in which Julia reads and writes this process's memory."""

    def __init__(self, julia: InProcessJulia, problem: Problem, ts: np.ndarray):
        self._julia, self._problem, self._ts = julia, problem, ts

    def solve(self, y0: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        y0, parameters = y0.detach().contiguous(), [value.detach().contiguous() for value in parameters]
        states = torch.empty((len(self._ts), len(y0)), dtype=y0.dtype, device=y0.device)

        def run() -> tuple[_Prepared, int, tuple[int, ...]]:
            prepared = _prepared(self._julia, self._problem, self._ts, y0)
            solve = self._julia.entry_points.solve
            number = prepared.run(solve, prepared.handle.number, y0, states, parameters)
            return prepared, number, tuple(prepared.words[3:6])

        prepared, number, self.counts = self._julia.run(run)
        self.engine, self._prepared, self._like = prepared.engine, prepared, (y0, *parameters)
        self._handle = Handle(number) if self._problem.differentiated else None
        return states

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        cotangent = cotangent.detach().contiguous()
        start, *gradients = map(torch.empty_like, self._like)
        pullback = self._julia.entry_points.pullback
        self._julia.run(lambda: self._prepared.run(pullback, self._handle.number, cotangent, start, gradients))
        return start, gradients


class _Prepared:
    """A problem prepared in Julia, and the array of integers that an entry point reads: see julia/src/prepared.jl."""

    def __init__(self, julia: InProcessJulia, request: dict[str, Any], parameters: int):
        self._julia = julia
        self.handle = Handle(julia.call("prepare", request)["handle"])
        self.engine = engine_name(request["path"])
        self.words = (ctypes.c_int64 * (6 + parameters))()
        self._address = ctypes.addressof(self.words)

    def run(
        self, entry_point: Callable, number: int, given: Tensor, result: Tensor, by_parameter: Sequence[Tensor]
    ) -> int:
        """Call an entry point and return its result; the caller keeps the tensors, all contiguous, alive during the call."""
        for unused in session.take_unused_handles():
            self._julia.entry_points.free(unused)
        self.words[0], self.words[1], self.words[2] = number, given.data_ptr(), result.data_ptr()
        self.words[6:] = [value.data_ptr() for value in by_parameter]
        answer = entry_point(self._address)
        if answer < 0:
            self._julia.call("failure", {})  # raises the error that occurred
        return answer


def place_of(y0: Tensor) -> tuple[str, int]:
    """Return the type of the device that a tensor is on, and the device's index."""
    return y0.device.type, y0.device.index or 0


def _prepared(julia: InProcessJulia, problem: Problem, ts: np.ndarray, y0: Tensor) -> _Prepared:
    shape, (device, index) = problem.signature.layout.shapes[0], place_of(y0)
    control = tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in vars(problem.control).values())
    key = (problem.field, problem.solver.name, problem.gradient, problem.compiled, problem.path, control, ts.tobytes(), shape, y0.dtype,
           device, index, problem.differentiated)  # fmt: skip
    found = julia.prepared.get(key)
    if found is None:
        if len(julia.prepared) >= _MAX_PREPARED:
            del julia.prepared[next(iter(julia.prepared))]
        request = solve_request(problem, require_path(problem, device)) | {
            "ts": ts.tolist(),
            "shape": list(shape) if len(shape) == 1 else [shape[-1], shape[:-1].numel()],
            "dtype": str(y0.dtype).removeprefix("torch."),
            "device": device,
            "index": index,
            "differentiable": problem.differentiated,
        }
        found = julia.prepared[key] = _Prepared(julia, request, len(problem.field.shapes()))
    return found


class CopyTransfer:
    """The transfer for one solve whose arrays are sent to Julia and back; it can also evaluate the dense output."""

    def __init__(self, problem: Problem, ts: np.ndarray):
        self._problem, self._ts, self._names = problem, ts, list(problem.field.shapes())

    def solve(self, y0: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        problem, path = self._problem, require_path(self._problem)
        request = solve_request(problem, path) | {
            "ts": self._ts,
            "u0": to_julia(y0.detach().numpy(), problem.signature.layout),
            "parameters": {name: value.detach().numpy() for name, value in zip(self._names, parameters)},
            "dense": problem.dense,
            "differentiable": problem.differentiated,
        }
        reply = session.call("solve", request)
        self.counts = reply["nfev"], reply["accepted"], reply["rejected"]
        self.engine = engine_name(path)
        self._handle = None if reply["handle"] is None else Handle(reply["handle"])
        return _flat_states(reply["ys"])

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        ysbar = to_julia(cotangent.detach().numpy(), self._problem.signature.layout)
        reply = session.call("pullback", {"handle": self._handle.number, "ysbar": ysbar})
        start = torch.from_numpy(np.ascontiguousarray(reply["u0"].T).reshape(-1))
        return start, [torch.as_tensor(reply["parameters"][name], dtype=cotangent.dtype) for name in self._names]

    def at(self, times: np.ndarray) -> Tensor:
        """Return the states (len(times), n) of a dense solve at any times inside its span."""
        return _flat_states(session.call("interpolate", {"handle": self._handle.number, "times": times})["ys"])


def _flat_states(ys: np.ndarray) -> Tensor:
    """Return Julia's states (dim, [samples,] T) as a row-major view (T, n)."""
    return torch.from_numpy(ys.T.reshape(ys.shape[-1], -1))


def solve_request(problem: Problem, path: str) -> dict[str, Any]:
    """Return the entries common to all requests for solves; tolerances for each component have the state's shape in Julia."""
    control = plain_control(problem.control)
    for name in ("rtol", "atol"):
        value = control[name]
        control[name] = float(value) if np.ndim(value) == 0 else to_julia(value, problem.signature.layout)
    return {
        "field": field_request(problem.field),
        "solver": problem.solver.name,
        "gradient": gradient_request(problem.gradient),
        "path": path,
        "vjp": "hand" if problem.compiled else "zygote",
        "control": control,
    }


def field_request(field: Any) -> dict[str, Any]:
    """Return the description of a `VectorField` for Julia, with its source if it is written in Julia."""
    return field.request() if isinstance(field, JuliaCode) else field.describe()


def gradient_request(gradient: GradientMethod) -> dict[str, Any]:
    """Return a gradient method as Julia receives it: its kind, by name or as source, and its settings."""
    if isinstance(gradient, JuliaAdjoint):
        return {"kind": gradient.source}
    return {"kind": type(gradient).__name__, **vars(gradient)}


def plain_control(control: Control) -> dict[str, Any]:
    """Return the controls that the Julia package supports, by name."""
    return {name: value for name, value in vars(control).items() if name != "tstops"}


def to_julia(flat: np.ndarray, layout: Layout) -> np.ndarray:
    """Return flat states (..., n) as a view in Julia's layout: (dim, ...), or (dim, samples, ...) for a batch."""
    shape = layout.shapes[0]
    return flat.T if len(shape) == 1 else flat.reshape(*flat.shape[:-1], -1, shape[-1]).T
