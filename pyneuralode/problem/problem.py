"""Problems: an equation, the method that solves it, and the shapes and dtypes of its values, but not the values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ArgumentError, kind_of, unknown_name
from ..fields import VectorField
from ..gradients import GradientMethod, find_gradient
from ..solvers import Solver
from ..tableaus import Tableau
from .control import Control
from .event import Event
from .signature import Signature
from .values import check_times, flatten, read_parameters

BATCHES = ("joint", "independent")


@dataclass(frozen=True)
class PathIntegrals:
    """The integrals that a continuous flow computes along the path of each sample, in addition to its state.

    Attributes
    ----------
    estimated : bool
        Whether the trace of the Jacobian is estimated as e^T J e with noise e (Hutchinson) or computed exactly.
    kinetic, jacobian : bool
        Whether |f|^2 and the squared Frobenius norm of the Jacobian are integrated too.
    """

    estimated: bool = False
    kinetic: bool = False
    jacobian: bool = False


@dataclass(frozen=True)
class Noise:
    """Noise ``size(t, y) dW`` in the sense of Ito, independent for each component.

    `seed` is the random seed; `parameters` belong to `size`, if it is a `VectorField`.
    """

    size: VectorField | Callable
    seed: int
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class MassMatrix:
    """``matrix dy/dt = f(t, y)``, with matrix (n, n)."""

    matrix: np.ndarray


@dataclass(frozen=True)
class Residual:
    """``f(t, y, dy/dt) = 0``, initially with dy/dt = dy0; `differential` marks components whose derivatives occur."""

    dy0: Any
    differential: Any = None


@dataclass(frozen=True)
class Delays:
    """``dy/dt = f(t, y(t), y(t - lags[0]), ...)``, with ``y(t) = history(t)`` before the first time."""

    lags: tuple[float, ...]
    history: Callable


@dataclass(frozen=True)
class Values:
    """The values of a solve: the flat initial state (n,), the times (as tensor and floats), the parameters by name."""

    y0: Tensor
    ts: Tensor
    times: list[float]
    parameters: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """An initial-value problem without its values: everything that stays the same when the solve is repeated.

    Attributes
    ----------
    field : VectorField, torch.nn.Module or callable
        The right-hand side f(t, y); with delays also Julia source.
    signature : Signature
        The shapes, dtypes and devices of the values: parameters, initial state and times.
    solver : Solver or Tableau
        A solver of the catalog, or an explicit method defined by the caller.
    gradient : GradientMethod
    control : Control
        Its tolerances are numbers or flat arrays (n,).
    dense, compiled, batch, events
        As in `pyneuralode.solve`.
    integrals : PathIntegrals or None
        The additional integrals of a continuous flow.
    form : Noise, MassMatrix, Residual, Delays or None
        The form of the equations, if they are not ``dy/dt = f(t, y)``.
    path : {"auto", "sciml", "fast"}
        The Julia engine's code path; see `pyneuralode.Julia`.

    Raises
    ------
    ArgumentError
        If parts of the problem are incompatible on any engine.
    """

    field: VectorField | nn.Module | Callable
    signature: Signature
    solver: Solver | Tableau
    gradient: GradientMethod
    control: Control
    dense: bool = False
    compiled: bool = True
    batch: str = "joint"
    events: tuple[Event, ...] = ()
    integrals: PathIntegrals | None = None
    form: Noise | MassMatrix | Residual | Delays | None = None
    path: str = "auto"

    def __post_init__(self):
        if self.batch not in BATCHES:
            raise unknown_name("batch", self.batch, BATCHES)
        object.__setattr__(
            self, "gradient", find_gradient(self.gradient)
        )  # the attribute of a model may have been reassigned
        if not isinstance(self.control, Control):
            raise ArgumentError(f"control is {kind_of(self.control)}: give a Control, such as Control(rtol=1e-6).")
        for name in ("dense", "compiled"):
            if not isinstance(value := getattr(self, name), (bool, np.bool_)):
                raise ArgumentError(f"{name} is {value!r}: give True or False.")
        if not (isinstance(self.form, Delays) and isinstance(self.field, str)):  # a string is Julia source
            check_field(self.field, *_arguments_of(self.form))
        if self.batch == "independent":
            self._check_independent()
        elif self.signature.times != "shared":
            raise ArgumentError(
                f"ts has {'two axes' if self.signature.times == 'rows' else 'a row for each sample'}: use shape (T,), or "
                "batch='independent' for a row of times for each sample."
            )
        if isinstance(self.field, VectorField):
            self._check_shapes(self.field)
        object.__setattr__(self, "control", flat_control(self.control, self.signature.layout))

    def read(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Values:
        """Return the values of a joint solve; raise if they are not finite, times are not sorted, or tolerances are too tight."""
        start, layout = flatten(y0)
        moments = check_times(ts)
        if moments.dtype != start.dtype:
            # Double-precision times with a float32 state keep the step arithmetic exact; gradients of the times flow
            # through the cast.
            moments = moments.to(torch.float64)
        if layout.numpy:
            moments = moments.detach()
        self.check_tolerances(start)
        named = read_parameters(self.field, parameters, start, constant=layout.numpy)
        return Values(start, moments, moments.detach().tolist(), named)

    def check_tolerances(self, y0: Tensor) -> None:
        """Raise if the tolerances of adaptive steps are too tight for the dtype of the state y0 (n,)."""
        eps = torch.finfo(y0.dtype).eps
        if self.adaptive and not self.control.suits_any_state(eps):
            self.control.check_against(y0.detach().cpu().double().numpy(), str(y0.dtype).removeprefix("torch."), eps)

    @property
    def own(self) -> bool:
        """Whether the field itself defines the names of its parameters."""
        return isinstance(self.field, (VectorField, nn.Module))

    @property
    def differentiated(self) -> bool:
        """Whether autograd records any of the values."""
        return bool(self.signature.differentiated)

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its steps from an error estimate."""
        return self.solver.adaptive and self.control.step_size is None

    def _check_independent(self) -> None:
        layout = self.signature.layout
        if layout.is_tuple or not layout.shapes[0]:
            found = "a tuple" if layout.is_tuple else "one number"
            raise ArgumentError(
                f"y0 is {found} with batch='independent': give an array (B, *state) with samples along the first axis."
            )
        if self.dense:
            raise ArgumentError(
                "dense is True, but batch='independent' has no dense output: list the times in ts; they may differ between samples."
            )

    def _check_shapes(self, field: VectorField) -> None:
        """Raise unless state and parameters have the shapes that a described field (a `VectorField`) requires."""
        layout, given = self.signature.layout, self.signature.parameters
        name, shape = type(field).__name__, tuple(layout.shapes[0])
        independent = self.batch == "independent"
        if layout.is_tuple or len(shape) <= independent or shape[-1] != field.dim:
            got = "is a tuple" if layout.is_tuple else f"has shape {shape}"
            wanted = f"({shape[0]}, {field.dim})" if independent and shape else f"(..., {field.dim})"
            raise ArgumentError(
                f"y0 {got}, but the state of {name} has dimension {field.dim}: give y0 of shape {wanted}."
            )
        shapes = field.shapes()
        for name in given:
            if name not in shapes:
                raise unknown_name("a parameter", name, shapes)
        for name, expected in shapes.items():
            if name not in given:
                raise ArgumentError(f"parameters does not contain {name!r}: give all of {', '.join(shapes)}.")
            each = (shape[0], *expected)
            if given[name] == tuple(expected) or (independent and given[name] == each):
                continue
            more = f", or {each} for separate values per sample" if independent else ""
            raise ArgumentError(f"{name} has shape {given[name]}: use shape {expected}{more}.")


def _arguments_of(form: Any) -> tuple[str, ...]:
    """Return the names of the arguments of a field that is a function, for equations of this form."""
    if isinstance(form, Residual):
        return "t", "y", "dy"
    delayed = len(form.lags) if isinstance(form, Delays) else 0
    return "t", "y", *(f"y{k + 1}" for k in range(delayed))


def check_field(field: Any, *names: str, name: str = "the field") -> None:
    """Raise unless the field is a `VectorField` or can be called with these arguments, by default ``(t, y)``."""
    if isinstance(field, VectorField):
        return
    if not callable(field):
        raise ArgumentError(
            f"{name} is {kind_of(field)}: give a VectorField such as MLP((2, 50, 2)), a torch.nn.Module or a "
            "callable f(t, y)."
        )
    names = names or ("t", "y")
    try:
        signature = inspect.signature(field.forward if isinstance(field, nn.Module) else field)
    except (TypeError, ValueError):  # compiled code without a signature
        return
    try:
        signature.bind(*names)
    except TypeError:
        name = type(field).__name__ if isinstance(field, nn.Module) else name
        wanted = ", ".join(names)
        example = {
            2: "as in lambda t, y: net(y), or in a module with forward(self, t, y)",
            3: f"as in lambda {wanted}: {names[-1]} - f(t, y)",
        }.get(len(names), f"as in lambda {wanted}: ...")
        raise ArgumentError(
            f"{name} has the signature {signature}: it must accept ({wanted}); wrap it, {example}."
        ) from None


def flat_control(control: Control, layout: Any) -> Control:
    """Return the controls with the tolerances as numbers or flat arrays."""
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
                f"{name} has shape {np.shape(value)}, but the state has shape {tuple(shape)}: give a number, or one "
                "number for each component."
            ) from None
    return replace(control, **changes) if changes else control
