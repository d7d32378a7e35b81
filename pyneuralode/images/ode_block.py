"""`ODEBlock`: a layer whose output is the final state of an ODE that starts from its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import real_number, whole_number
from ..errors import ArgumentError, SolverError
from ..fields import VectorField
from ..gradients import Backprop, GradientMethod
from ..models import NeuralODE, solve
from .fixed_steps import autocast_settings, check_input

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class ODEBlock(nn.Module):
    """The map from the state x(t0) to the state x(t1) under x' = f(t, x) (Chen et al. 2018).

    Parameters
    ----------
    dynamics : torch.nn.Module, callable or VectorField
        ``f(t, x)`` returns dx/dt with the shape of x; t has shape (). A module or function runs on the torch engine, a
        described field (a `VectorField`, such as `ConcatConv` or `MLP`) on either engine.
    times : (float, float)
        t0 and t1.
    solver, engine, seed, **settings
        As in `NeuralODE`.
    steps : int, optional
        Number of steps of equal size; by default, a solver that estimates its error adapts the steps.
    gradient : str or GradientMethod
        As in `NeuralODE`. Only `Backprop` stores every layer of every step for the backward pass.
    dtype : torch.dtype, optional
        Dtype of a described field's parameters; by default, torch's default dtype.

    Raises SolverError if the solve fails before t1 or x is not finite, and ArgumentError for invalid arguments.

    Images may have any shape and memory format. A described field of dimension d accepts states (..., d), and images of
    d numbers each, which are flattened to vectors. Under ``torch.autocast``, a module computes in the lower precision
    and the state stays in float32; a described field computes entirely in float32.

    In training, batch normalization in the dynamics normalizes every evaluation by the batch's statistics. Its running
    statistics are updated only in the forward pass, even if the gradient method evaluates the dynamics again. Dropout
    requires `Backprop`, since a repeated evaluation would drop different values.

    With ``engine="julia"``, a described field is solved forward by a SciML solver and backward by a SciML adjoint.
    Parameters and gradients are torch tensors, whose memory Julia reads and writes directly (a worker process gets
    copies: see `start_julia`). On a CUDA device, Julia needs CUDA.jl, an `MLP`, `Linear` or `SEIR`, an explicit solver
    and a continuous adjoint; **none of this has run on a GPU yet**.

    `evaluations` is the number of evaluations in the last forward pass; `ode` is the `NeuralODE` with the parameters
    and settings.
    """

    def __init__(
        self,
        dynamics: VectorField | nn.Module | Callable,
        *,
        times: tuple[float, float] = (0.0, 1.0),
        steps: int | None = None,
        gradient: str | GradientMethod = "Checkpointed",
        dtype: torch.dtype | None = None,
        **settings: Any,
    ):
        super().__init__()
        self.times = _check_times(times)
        if steps is not None:
            steps = whole_number("steps", steps, 1, 20)
            if settings.get("step_size") is not None:
                raise ArgumentError(f"steps is {steps} and step_size is {settings['step_size']}: give one of the two.")
            settings["step_size"] = abs(self.times[1] - self.times[0]) / steps
        self.ode = NeuralODE(dynamics, gradient=gradient, dtype=dtype or torch.get_default_dtype(), **settings)
        if not isinstance(self.ode.gradient, Backprop):
            _refuse_dropout(dynamics, self.ode.gradient)
        self.evaluations = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the state at t1, with the shape of x."""
        x = check_input("x", x)
        if not bool(torch.isfinite(x.detach()).all()):
            raise SolverError(
                "x contains a non-finite number: check the input; if it arose in training, lower the learning rate.",
                self.times[0],
            )
        return self._described(x) if isinstance(self.ode.field, VectorField) else self._called(x)

    def _described(self, x: Tensor) -> Tensor:
        dim = self.ode.field.dim
        vectors = x if x.shape[-1:] == (dim,) or x.ndim < 2 or x[0].numel() != dim else x.flatten(1)
        with torch.autocast(x.device.type, enabled=False):
            solution = self.ode.solve(vectors, self.times)
        self.evaluations = solution.nfev
        return solution.ys[-1].reshape(x.shape)

    def _called(self, x: Tensor) -> Tensor:
        evaluation, ode = Dynamics(self.ode.field, x), self.ode
        solution = solve(
            evaluation if isinstance(ode.field, nn.Module) else evaluation.forward,
            evaluation.state_of(x),
            self.times,
            solver=ode.solver,
            gradient=ode.gradient,
            engine=ode.engine,
            batch=ode.batch,
            **vars(ode.control),
        )
        evaluation.forwards = False  # later evaluations are repeats, made by a gradient method
        self.evaluations = solution.nfev
        return evaluation.image_of(solution.ys[-1])

    def extra_repr(self) -> str:
        gradient, control = type(self.ode.gradient).__name__, self.ode.control
        steps = (
            f"rtol={control.rtol}, atol={control.atol}"
            if control.step_size is None
            else f"step_size={control.step_size:g}"
        )
        return f"times={self.times}, solver={self.ode.solver}, {steps}, gradient={gradient}"


class Dynamics(nn.Module):
    """The dynamics for one input, always evaluated with that input's memory format and autocast settings.

    Solvers treat a state as one long vector. Images with their channels last in memory are converted to a vector and
    back without a copy if the channels are also the last axis.
    """

    def __init__(self, dynamics: nn.Module | Callable, x: Tensor):
        super().__init__()
        self.dynamics = dynamics
        self.channels_last = (
            x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        )
        # Gradient methods evaluate the dynamics again outside the caller's context. Autograd records only some of these
        # evaluations, and the others must not share cached weights with them, so autocast's cache is disabled.
        self.precision = {**autocast_settings(x.device.type), "cache_enabled": False}
        self.forwards = True

    def state_of(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1) if self.channels_last else x

    def image_of(self, state: Tensor) -> Tensor:
        return state.permute(0, 3, 1, 2) if self.channels_last else state

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        x = self.image_of(state)
        with torch.autocast(**self.precision), nullcontext() if self.forwards else _frozen_statistics(self.dynamics):
            slope = self.dynamics(t, x)
        if not isinstance(slope, Tensor) or slope.shape != x.shape:
            return slope  # the engine reports this error
        if self.precision["enabled"]:
            slope = slope.to(x.dtype)
        return self.state_of(slope)


@contextmanager
def _frozen_statistics(dynamics: nn.Module | Callable) -> Iterator[None]:
    """Keep normalization layers from updating their running statistics; they still use the batch's statistics."""
    tracking = [m for m in _modules_of(dynamics) if m.training and getattr(m, "track_running_stats", False)]
    momenta = [m.momentum for m in tracking]
    for m in tracking:
        m.track_running_stats, m.momentum = False, 0.0
    try:
        yield
    finally:
        for m, momentum in zip(tracking, momenta):
            m.track_running_stats, m.momentum = True, momentum


def _check_times(times: Any) -> tuple[float, float]:
    try:
        t0, t1 = (real_number("times", t) for t in times)
    except (TypeError, ValueError):
        raise ArgumentError(f"times is {times!r}: give the two numbers t0 and t1, such as (0.0, 1.0).") from None
    if not np.isfinite([t0, t1]).all() or t0 == t1:
        raise ArgumentError(f"times is {times!r}: give two different finite numbers, such as (0.0, 1.0).")
    return t0, t1


def _modules_of(dynamics: Any) -> Iterable[nn.Module]:
    return dynamics.modules() if isinstance(dynamics, nn.Module) else ()


def _refuse_dropout(dynamics: Any, gradient: GradientMethod) -> None:
    for module in _modules_of(dynamics):
        if isinstance(module, _DROPOUTS) and module.p > 0:
            name = type(gradient).__name__
            raise ArgumentError(
                f"gradient is {name!r}, which evaluates the dynamics again, so that their "
                f"{type(module).__name__} would drop different values: write gradient='Backprop', or remove dropout."
            )
