"""A block of a torch model that Julia solves: forward by a SciML solver, backward by its adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import real_tensor
from .errors import ArgumentError
from .fields import VectorField
from .models import NeuralODE


class JuliaODE(NeuralODE):
    """A neural ODE on the Julia engine, as a layer of a torch model.

    Parameters
    ----------
    field : VectorField
        A described field, such as `MLP`: Julia evaluates it and its vector-Jacobian products.
    ts : sequence of float
        Times of the solve when the layer is called with a state alone.
    solver, gradient, compiled, seed, dtype, **control
        As in `NeuralODE`.

    ``layer(y0)`` takes a batch (..., dim) and returns the states (..., dim) at the last of `ts`;
    ``layer(y0, ts)`` returns the states (T, ..., dim) at given times, as `NeuralODE` does. Parameters and gradients are
    torch's, so that any optimizer and any model around it work. Julia reads and writes torch's own memory, nothing is copied
    between the two (a worker process gets copies: see `start_julia`).

    On a CUDA device (parameters and state there) Julia needs CUDA.jl in its environment, the field must be an `MLP`,
    `Linear` or `SEIR`, the solver an explicit one, and the gradient "InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint" or
    "BacksolveAdjoint". **None of this has run on a GPU yet**: the same lines were tested with the processor's memory, and with
    arrays that forbid what a GPU is slow at, in the device's place. With ``engine="auto"`` torch solves what is on a GPU.

    Raises EngineError where there is no Julia.

    Examples
    --------
    >>> net = torch.nn.Sequential(torch.nn.Linear(784, 8), JuliaODE(MLP((8, 32, 8)), solver="Tsit5"), torch.nn.Linear(8, 10))
    ... # doctest: +SKIP
    """

    def __init__(
        self,
        field: VectorField,
        ts: Sequence[float] = (0.0, 1.0),
        *,
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ):
        if not isinstance(field, VectorField):
            raise ArgumentError(
                f"field is a {type(field).__name__}: give a described field, such as MLP((2, 50, 2)); a torch module is "
                "solved by NeuralODE."
            )
        super().__init__(field, engine="julia", dtype=dtype, **settings)
        self.ts = real_tensor("ts", ts, dtype=torch.float64)  # no buffer, which would be rounded as the layer is

    def forward(self, y0: Tensor, ts: Any = None) -> Tensor:
        return super().forward(y0, self.ts)[-1] if ts is None else super().forward(y0, ts)
