"""Handing a solve's numbers to Julia: by address where Julia is inside this process, by value where it is another one.

By address nothing is converted and nothing copied on the way: Julia reads start, parameters and cotangents where they
lie, on the CPU or on a GPU, and writes states and gradients into memory that torch allocated. Both ways do the same:

- ``solve(y0, parameters, differentiable)`` returns the states (T, n) for the flat start (n,) and the parameters in the
  documented order, and sets `counts` (evaluations, accepted and rejected steps) and `compiled`;
- ``pullback(cotangent)`` then returns the gradients, for a cotangent (T, n), with respect to the start and each parameter.
"""

from __future__ import annotations

import ctypes
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
from . import session
from .in_process import Inside
from .session import Kept

# Problems that Julia is kept ready for, in the order in which they came.
_MOST_PREPARED = 64


@dataclass
class Asked:
    """A problem without the numbers that autograd follows; `ts` are float64."""

    field: VectorField
    solver: str
    gradient: GradientMethod
    compiled: bool
    control: Control
    ts: np.ndarray
    layout: Layout
    dense: bool

    def request(self) -> dict[str, Any]:
        """Return the problem as plain values and arrays."""
        return solver_request(self.field, self.solver, self.gradient, self.compiled) | {
            "ts": self.ts,
            "control": control_request(self.control, self.layout),
        }


def transfer(asked: Asked, device: torch.device) -> ByAddress | ByValue:
    """Return the way to Julia for a problem whose arrays are on `device`."""
    julia = session.running()
    if isinstance(julia, Inside) and not asked.dense:
        return ByAddress(julia, asked)
    if device.type == "cpu":
        return ByValue(asked)
    if asked.dense:
        raise ArgumentError("dense is True, which Julia has on the CPU only: write y0.cpu(), or engine='torch'.")
    raise ArgumentError(
        f"y0 is on {device}, whose memory Julia in the worker process cannot reach: set PYNEURALODE_JULIA_PROCESS=inside "
        "before anything uses Julia, or write y0.cpu()."
    )


class ByAddress:
    """One solve, on memory of this process."""

    def __init__(self, julia: Inside, asked: Asked):
        self._julia, self._asked = julia, asked
        self._kept: Kept | None = None

    def solve(self, y0: Tensor, parameters: tuple[Tensor, ...], differentiable: bool) -> Tensor:
        y0, parameters = y0.detach().contiguous(), [value.detach().contiguous() for value in parameters]
        states = torch.empty((len(self._asked.ts), len(y0)), dtype=y0.dtype, device=y0.device)

        def run() -> tuple[_Prepared, int, tuple[int, ...]]:
            prepared = _prepared(self._julia, self._asked, y0, differentiable)
            kept = prepared.run(self._julia, self._julia.doors.solve, prepared.kept.number, y0, states, parameters)
            return prepared, kept, tuple(prepared.words[3:6])

        prepared, kept, self.counts = self._julia.run(run)
        self.compiled, self._prepared, self._like = prepared.compiled, prepared, (y0, *parameters)
        self._kept = Kept(kept) if differentiable else None
        return states

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        cotangent = cotangent.detach().contiguous()
        start, *gradients = map(torch.empty_like, self._like)
        pullback = self._julia.doors.pullback
        self._julia.run(
            lambda: self._prepared.run(self._julia, pullback, self._kept.number, cotangent, start, gradients)
        )
        return start, gradients


class _Prepared:
    """A problem that Julia knows by number, and the row of words that a door takes: see julia/src/prepared.jl."""

    def __init__(self, julia: Inside, request: dict[str, Any], parameters: int):
        reply = julia.call("prepare", request)
        self.kept, self.compiled = Kept(reply["kept"]), reply["compiled"]
        self.words = (ctypes.c_int64 * (6 + parameters))()
        self._address = ctypes.addressof(self.words)

    def run(
        self, julia: Inside, door: Any, number: int, given: Tensor, result: Tensor, by_parameter: list[Tensor]
    ) -> int:
        """Go through a door; the tensors, contiguous, are the caller's to keep until this returns."""
        for forgotten in session.forgotten():
            julia.doors.forget(forgotten)
        self.words[0], self.words[1], self.words[2] = number, given.data_ptr(), result.data_ptr()
        self.words[6:] = [value.data_ptr() for value in by_parameter]
        kept = door(self._address)
        if kept < 0:
            julia.call("failure", {})  # raises what it was
        return kept


def place_of(y0: Tensor) -> tuple[str, int]:
    """Return the kind of device that holds a tensor, and its number there."""
    return y0.device.type, y0.device.index or 0


def _prepared(julia: Inside, asked: Asked, y0: Tensor, differentiable: bool) -> _Prepared:
    shape, place = asked.layout.shapes[0], place_of(y0)
    control = tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in vars(asked.control).values())
    key = (asked.field, asked.solver, asked.gradient, asked.compiled, control, asked.ts.tobytes(), shape, y0.dtype, place,
           differentiable)  # fmt: skip
    found = julia.prepared.get(key)
    if found is None:
        if len(julia.prepared) >= _MOST_PREPARED:
            del julia.prepared[next(iter(julia.prepared))]
        name, index = place
        about = {
            "ts": asked.ts.tolist(),
            "shape": list(shape) if len(shape) == 1 else [shape[-1], shape[:-1].numel()],
            "dtype": str(y0.dtype).removeprefix("torch."),
            "device": name,
            "index": index,
            "differentiable": differentiable,
        }
        found = julia.prepared[key] = _Prepared(julia, asked.request() | about, len(asked.field.shapes()))
    return found


class ByValue:
    """One solve, its arrays sent and sent back; it may keep Julia's interpolant."""

    def __init__(self, asked: Asked):
        self._asked, self._names = asked, list(asked.field.shapes())

    def solve(self, y0: Tensor, parameters: tuple[Tensor, ...], differentiable: bool) -> Tensor:
        asked = self._asked
        request = asked.request() | {
            "u0": to_julia(y0.detach().numpy(), asked.layout),
            "parameters": {name: value.detach().numpy() for name, value in zip(self._names, parameters)},
            "dense": asked.dense,
            "differentiable": differentiable,
        }
        reply = session.call("solve", request)
        self.counts = reply["nfev"], reply["accepted"], reply["rejected"]
        self.compiled = reply["compiled"]
        self._kept = None if reply["kept"] is None else Kept(reply["kept"])
        return _flat_states(reply["ys"])

    def pullback(self, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows, shape = cotangent.detach().numpy(), self._asked.layout.shapes[0]
        ysbar = rows.T if len(shape) == 1 else rows.reshape(len(rows), -1, shape[-1]).T
        reply = session.call("pullback", {"kept": self._kept.number, "ysbar": ysbar})
        start = torch.from_numpy(np.ascontiguousarray(reply["u0"].T).reshape(-1))
        return start, [torch.as_tensor(reply["parameters"][name], dtype=cotangent.dtype) for name in self._names]

    def at(self, times: np.ndarray) -> Tensor:
        """Return the states (len(times), n) at any times inside the span, of a dense solve."""
        return _flat_states(session.call("interpolate", {"kept": self._kept.number, "times": times})["ys"])


def _flat_states(ys: np.ndarray) -> Tensor:
    """Return Julia's states (dim, [samples,] T) as (T, n), row-major; a view."""
    return torch.from_numpy(ys.T.reshape(ys.shape[-1], -1))


def solver_request(field: VectorField, solver: str, gradient: GradientMethod, compiled: bool) -> dict[str, Any]:
    """Return what is the same for every solve of a model, as plain values."""
    return {
        "field": field.describe(),
        "solver": solver,
        "gradient": {"kind": type(gradient).__name__, **vars(gradient)},
        "compiled": compiled,
    }


def refuse_tstops(control: Control) -> None:
    """Raise for the one control that the Julia package does not have."""
    if control.tstops:
        raise ArgumentError("tstops are given, which the julia engine does not have yet: write engine='torch'.")


def plain_control(control: Control) -> dict[str, Any]:
    """Return the controls that the Julia package has, by name."""
    refuse_tstops(control)
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
