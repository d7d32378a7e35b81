"""Passing a solve's numbers to Julia: by address where Julia runs inside this process, as copies where it does not.

By address nothing is converted or copied: Julia reads the initial state, the parameters and the cotangents where they lie, on
the CPU or on a GPU, and writes states and gradients into memory that torch allocated. Both classes have the same methods:

- ``solve(y0, parameters, differentiable)`` returns the states (T, n) for the flat initial state (n,) and the parameters in the
  documented order, and sets `counts` (evaluations, accepted and rejected steps) and `compiled`;
- ``pullback(cotangent)`` then returns the gradients, for a cotangent (T, n), with respect to the initial state and each
  parameter.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ...fields import VectorField
from ...gradients import GradientMethod
from ...problem import Control
from ...problem.values import Layout
from ...solvers import find_solver
from . import session
from .in_process import InProcessJulia
from .paths import DISCRETE, require_path
from .session import Handle

_MAX_PREPARED = 64
"""How many problems Julia keeps prepared; the oldest one goes first."""


@dataclass
class SolveRequest:
    """A problem without the numbers that autograd follows; `ts` are float64."""

    field: VectorField
    solver: str
    gradient: GradientMethod
    compiled: bool
    control: Control
    ts: np.ndarray
    layout: Layout
    dense: bool

    def path(self, differentiable: bool, device: str = "cpu") -> str:
        """Return the path that the solve takes in Julia; raise ArgumentError where there is none."""
        solver = find_solver(self.solver)
        return require_path(self.field, solver, self.gradient, self.compiled, differentiable, device, self.dense)

    def as_dict(self, path: str) -> dict[str, Any]:
        """Return the problem as plain values and arrays."""
        return solver_request(self.field, self.solver, self.gradient, self.compiled, path) | {
            "ts": self.ts,
            "control": control_request(self.control, self.layout),
        }


def choose_transfer(request: SolveRequest, device: torch.device) -> AddressTransfer | CopyTransfer:
    """Return the transfer for a problem whose arrays are on `device`."""
    julia = session.running()
    if isinstance(julia, InProcessJulia) and not request.dense:
        return AddressTransfer(julia, request)
    if device.type == "cpu":
        return CopyTransfer(request)
    if request.dense:
        raise ArgumentError("dense is True, which Julia has on the CPU only: write y0.cpu(), or engine='torch'.")
    raise ArgumentError(
        f"y0 is on {device}, whose memory Julia in the worker process cannot reach: set PYNEURALODE_JULIA_PROCESS=inside "
        "before anything uses Julia, or write y0.cpu()."
    )


class AddressTransfer:
    """One solve on this process's own memory."""

    def __init__(self, julia: InProcessJulia, request: SolveRequest):
        self._julia, self._request = julia, request
        self._handle: Handle | None = None

    def solve(self, y0: Tensor, parameters: tuple[Tensor, ...], differentiable: bool) -> Tensor:
        y0, parameters = y0.detach().contiguous(), [value.detach().contiguous() for value in parameters]
        states = torch.empty((len(self._request.ts), len(y0)), dtype=y0.dtype, device=y0.device)

        def run() -> tuple[_Prepared, int, tuple[int, ...]]:
            prepared = _prepared(self._julia, self._request, y0, differentiable)
            solve = self._julia.entry_points.solve
            number = prepared.run(self._julia, solve, prepared.handle.number, y0, states, parameters)
            return prepared, number, tuple(prepared.words[3:6])

        prepared, number, self.counts = self._julia.run(run)
        self.compiled, self._prepared, self._like = prepared.compiled, prepared, (y0, *parameters)
        self._handle = Handle(number) if differentiable else None
        return states

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        cotangent = cotangent.detach().contiguous()
        start, *gradients = map(torch.empty_like, self._like)
        pullback = self._julia.entry_points.pullback
        self._julia.run(
            lambda: self._prepared.run(self._julia, pullback, self._handle.number, cotangent, start, gradients)
        )
        return start, gradients


class _Prepared:
    """A problem prepared in Julia, and the row of words that an entry point takes: see julia/src/prepared.jl."""

    def __init__(self, julia: InProcessJulia, request: dict[str, Any], parameters: int):
        self.handle = Handle(julia.call("prepare", request)["handle"])
        self.compiled = request["path"] == DISCRETE
        self.words = (ctypes.c_int64 * (6 + parameters))()
        self._address = ctypes.addressof(self.words)

    def run(
        self,
        julia: InProcessJulia,
        entry_point: Callable[[int], int],
        number: int,
        given: Tensor,
        result: Tensor,
        by_parameter: list[Tensor],
    ) -> int:
        """Call an entry point and return its result; the caller keeps the tensors, contiguous ones, alive meanwhile."""
        for unused in session.take_unused_handles():
            julia.entry_points.free(unused)
        self.words[0], self.words[1], self.words[2] = number, given.data_ptr(), result.data_ptr()
        self.words[6:] = [value.data_ptr() for value in by_parameter]
        answer = entry_point(self._address)
        if answer < 0:
            julia.call("failure", {})  # raises what went wrong
        return answer


def place_of(y0: Tensor) -> tuple[str, int]:
    """Return the kind of device that holds a tensor, and its number there."""
    return y0.device.type, y0.device.index or 0


def _prepared(julia: InProcessJulia, request: SolveRequest, y0: Tensor, differentiable: bool) -> _Prepared:
    shape, place = request.layout.shapes[0], place_of(y0)
    control = tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in vars(request.control).values())
    key = (request.field, request.solver, request.gradient, request.compiled, control, request.ts.tobytes(), shape,
           y0.dtype, place, differentiable)  # fmt: skip
    found = julia.prepared.get(key)
    if found is None:
        if len(julia.prepared) >= _MAX_PREPARED:
            del julia.prepared[next(iter(julia.prepared))]
        name, index = place
        array = {
            "ts": request.ts.tolist(),
            "shape": list(shape) if len(shape) == 1 else [shape[-1], shape[:-1].numel()],
            "dtype": str(y0.dtype).removeprefix("torch."),
            "device": name,
            "index": index,
            "differentiable": differentiable,
        }
        values = request.as_dict(request.path(differentiable, name)) | array
        found = julia.prepared[key] = _Prepared(julia, values, len(request.field.shapes()))
    return found


class CopyTransfer:
    """One solve whose arrays are sent to Julia and back; it can give the solution's dense output."""

    def __init__(self, request: SolveRequest):
        self._request, self._names = request, list(request.field.shapes())

    def solve(self, y0: Tensor, parameters: tuple[Tensor, ...], differentiable: bool) -> Tensor:
        path = self._request.path(differentiable)
        request = self._request.as_dict(path) | {
            "u0": to_julia(y0.detach().numpy(), self._request.layout),
            "parameters": {name: value.detach().numpy() for name, value in zip(self._names, parameters)},
            "dense": self._request.dense,
            "differentiable": differentiable,
        }
        reply = session.call("solve", request)
        self.counts = reply["nfev"], reply["accepted"], reply["rejected"]
        self.compiled = path == DISCRETE
        self._handle = None if reply["handle"] is None else Handle(reply["handle"])
        return _flat_states(reply["ys"])

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows, shape = cotangent.detach().numpy(), self._request.layout.shapes[0]
        ysbar = rows.T if len(shape) == 1 else rows.reshape(len(rows), -1, shape[-1]).T
        reply = session.call("pullback", {"handle": self._handle.number, "ysbar": ysbar})
        start = torch.from_numpy(np.ascontiguousarray(reply["u0"].T).reshape(-1))
        return start, [torch.as_tensor(reply["parameters"][name], dtype=cotangent.dtype) for name in self._names]

    def at(self, times: np.ndarray) -> Tensor:
        """Return the states (len(times), n) of a dense solve at any times inside its span."""
        return _flat_states(session.call("interpolate", {"handle": self._handle.number, "times": times})["ys"])


def _flat_states(ys: np.ndarray) -> Tensor:
    """Return Julia's states (dim, [samples,] T) as (T, n), row-major; a view."""
    return torch.from_numpy(ys.T.reshape(ys.shape[-1], -1))


def solver_request(
    field: VectorField, solver: str, gradient: GradientMethod, compiled: bool, path: str
) -> dict[str, Any]:
    """Return what every request for a solve of a model has, as plain values."""
    return {
        "field": field.describe(),
        "solver": solver,
        "gradient": {"kind": type(gradient).__name__, **vars(gradient)},
        "path": path,
        "vjp": "hand" if compiled else "zygote",
    }


def plain_control(control: Control) -> dict[str, Any]:
    """Return the controls that the Julia package has, by name."""
    return {name: value for name, value in vars(control).items() if name != "tstops"}


def control_request(control: Control, layout: Layout) -> dict[str, Any]:
    """Return the controls as plain values; tolerances for each component have the state's shape in Julia."""
    settings = plain_control(control)
    for name in ("rtol", "atol"):
        value = settings[name]
        settings[name] = float(value) if np.ndim(value) == 0 else to_julia(value, layout)
    return settings


def to_julia(flat: np.ndarray, layout: Layout) -> np.ndarray:
    """Return a flat state as Julia sees it: (dim,), or (dim, samples) for a batch; a view."""
    shape = layout.shapes[0]
    return flat if len(shape) == 1 else flat.reshape(-1, shape[-1]).T
