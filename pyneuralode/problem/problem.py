"""A problem: what is integrated, how, and the kind of values it is solved for. The values themselves come later."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ArgumentError, unknown_name
from ..fields import VectorField
from ..gradients import OF_STEPS, GradientMethod
from ..solvers import Solver
from .control import Control
from .event import Event
from .signature import Signature

BATCHES = ("joint", "independent")


@dataclass(frozen=True)
class PathIntegrals:
    """What a continuous flow integrates along each sample's path beside its state.

    Attributes
    ----------
    estimated : bool
        Whether the trace of the Jacobian is estimated with a noise e as e^T J e (Hutchinson), or exact.
    kinetic, jacobian : bool
        Whether |f|^2 and the squared Frobenius norm of the Jacobian are integrated too.
    """

    estimated: bool = False
    kinetic: bool = False
    jacobian: bool = False


@dataclass(frozen=True)
class Noise:
    """Ito's noise ``size(t, y) dW``, independent for each component, drawn from `seed`."""

    size: Callable
    seed: int


@dataclass(frozen=True)
class MassMatrix:
    """``matrix dy/dt = f(t, y)``, with matrix (n, n)."""

    matrix: np.ndarray


@dataclass(frozen=True)
class Residual:
    """``f(t, y, dy/dt) = 0`` from the slope dy0; `differential` marks the components whose slopes occur in it."""

    dy0: Any
    differential: Any = None


@dataclass(frozen=True, eq=False)
class Problem:
    """An initial-value problem without its numbers: all that does not change while a solve is repeated.

    Attributes
    ----------
    field : VectorField, torch.nn.Module or callable
        What is integrated.
    signature : Signature
        The kind of the values: parameters, initial state and times.
    solver : Solver or Tableau
        A solver of the catalog, or an explicit method of the caller's.
    gradient : GradientMethod
    control : Control
        With tolerances as numbers or flat arrays (n,).
    dense, compiled, batch, events
        As in `pyneuralode.solve`.
    integrals : PathIntegrals or None
        What a continuous flow integrates along with its state.
    form : Noise, MassMatrix, Residual or None
        What makes the equations other than ``dy/dt = f(t, y)``.

    Raises ArgumentError where these do not fit together, whatever the engine.
    """

    field: VectorField | nn.Module | Callable
    signature: Signature
    solver: Any
    gradient: GradientMethod
    control: Control
    dense: bool = False
    compiled: bool = True
    batch: str = "joint"
    events: tuple[Event, ...] = ()
    integrals: PathIntegrals | None = None
    form: Noise | MassMatrix | Residual | None = None

    def __post_init__(self):
        if self.batch not in BATCHES:
            raise unknown_name("batch", self.batch, BATCHES)
        check_field(self.field, 3 if isinstance(self.form, Residual) else 2)
        if self.batch == "independent":
            self._check_independent()
        elif self.signature.times != "shared":
            raise ArgumentError(
                f"ts has {'two axes' if self.signature.times == 'rows' else 'rows of its own for each sample'}: give (T,), or "
                "batch='independent' for a row of times for each sample."
            )
        if isinstance(self.field, VectorField):
            self._check_shapes()
        object.__setattr__(self, "control", flat_control(self.control, self.signature.layout))

    @property
    def own(self) -> bool:
        """Whether the field says itself which parameters it has."""
        return isinstance(self.field, (VectorField, nn.Module))

    @property
    def differentiated(self) -> bool:
        """Whether autograd follows any of the values backwards."""
        return bool(self.signature.differentiated)

    @property
    def adaptive(self) -> bool:
        """Whether steps are chosen by an estimate of their error."""
        adaptive = self.solver.adaptive if isinstance(self.solver, Solver) else self.solver.error is not None
        return adaptive and self.control.step_size is None

    def _check_independent(self) -> None:
        layout = self.signature.layout
        if layout.is_tuple or not layout.shapes[0]:
            found = "a tuple" if layout.is_tuple else "one number"
            raise ArgumentError(
                f"y0 is {found} with batch='independent': give one array whose first axis counts the samples, (B, *state)."
            )
        if self.dense:
            raise ArgumentError(
                "dense is True with batch='independent': give the times wanted in ts, where every sample may have its own."
            )
        if not isinstance(self.gradient, OF_STEPS):
            raise ArgumentError(
                f"gradient is {type(self.gradient).__name__!r} with batch='independent': write 'Backprop' or 'Checkpointed'."
            )

    def _check_shapes(self) -> None:
        """Raise unless state and parameters have the shapes that a described field wants."""
        field, layout, given = self.field, self.signature.layout, self.signature.parameters
        name, shape = type(field).__name__, tuple(layout.shapes[0])
        independent = self.batch == "independent"
        if layout.is_tuple or len(shape) <= independent or shape[-1] != field.dim:
            got = "a tuple" if layout.is_tuple else f"shape {shape}"
            wanted = f"({shape[0]}, {field.dim})" if independent and shape else f"(..., {field.dim})"
            raise ArgumentError(f"y0 has {got} and {name} a state of {field.dim}: give y0 of shape {wanted}.")
        for name, expected in field.shapes().items():
            if name not in given:
                raise ArgumentError(f"parameters lacks {name!r}: give {', '.join(field.shapes())}.")
            each = (shape[0], *expected)
            if given[name] == expected or (independent and given[name] == each):
                continue
            more = f", or {each} for one of its own a sample" if independent else ""
            raise ArgumentError(f"{name} has shape {given[name]}: give {expected}{more}.")


def check_field(field: Any, arguments: int = 2) -> None:
    """Raise unless a field can be integrated: a described one, or what takes time and state (and slope)."""
    if isinstance(field, VectorField):
        return
    if not callable(field):
        raise ArgumentError(
            f"the field is a {type(field).__name__}: give a VectorField such as MLP((2, 50, 2)), a torch.nn.Module or a "
            "callable f(t, y)."
        )
    try:
        signature = inspect.signature(field.forward if isinstance(field, nn.Module) else field)
    except (TypeError, ValueError):  # compiled code that does not tell
        return
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        name = type(field).__name__ if isinstance(field, nn.Module) else "the field"
        wanted = "(t, y)" if arguments == 2 else "(t, y, dy)"
        raise ArgumentError(
            f"{name} is called as {name}{signature}: it must take {wanted}; wrap it, as in lambda t, y: net(y), or in a module "
            "with forward(self, t, y)."
        ) from None


def flat_control(control: Control, layout: Any) -> Control:
    """Return the controls with tolerances as numbers or flat arrays."""
    changes = {}
    for name in ("rtol", "atol"):
        value = getattr(control, name)
        if isinstance(value, (int, float)) or np.ndim(value) == 0:
            continue
        if isinstance(value, Tensor):
            value = value.detach().cpu()
        count = sum(shape.numel() for shape in layout.shapes)
        if np.shape(value) == (count,):
            changes[name] = np.array(value, dtype=float)
            continue
        shape = torch.Size([count]) if layout.is_tuple else layout.shapes[0]
        try:
            changes[name] = np.broadcast_to(np.asarray(value, dtype=float), shape).reshape(-1).copy()
        except ValueError:
            raise ArgumentError(
                f"{name} has shape {np.shape(value)} and the state {tuple(shape)}: give a number or one per component."
            ) from None
    return replace(control, **changes) if changes else control
