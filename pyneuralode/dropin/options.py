"""The options of each kind of solver, with torchdiffeq 0.2.5's names and defaults."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import ArgumentError
from .errors import ArgumentTypeError, InvalidArgumentError

T = TypeVar("T")


def read_options(kind: type[T], method: str, options: dict[str, Any], ignored: tuple[str, ...] = ()) -> T:
    """Return the options as an object of `kind`; unknown options are ignored, with a warning."""
    known = [field.name for field in fields(kind)]
    unused = [name for name in options if name not in known and name not in ignored]
    if unused:
        warnings.warn(
            f"{method} ignores the option{'s' * (len(unused) > 1)} {', '.join(map(repr, unused))}: its options "
            f"are {', '.join(known)}.",
            stacklevel=6,
        )
    return kind(**{name: value for name, value in options.items() if name in known})


def check_number(name: str, value: Any, least: float = -math.inf, above: bool = False) -> float:
    """Return an option as a float, checked to be >= `least` (with `above`: > `least`)."""
    try:
        result = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentTypeError(f"{name} is {value!r}: give a number.") from None
    if not (result > least if above else result >= least):
        bound = ">" if above else ">="
        raise ArgumentError(f"{name} is {result:g}: give a number {bound} {least:g}.")
    return result


@dataclass
class FixedOptions:
    """Options of the fixed-step methods.

    step_size : size of the steps; by default, one step from each time to the next.
    grid_constructor : ``(func, y0, t) -> grid``, the times to step through; cannot be combined with step_size.
    interp : "linear" or "cubic" interpolation, for times inside a step.
    perturb : whether to evaluate func one rounding unit inside the ends of a step, to avoid discontinuities there.
    """

    step_size: float | None = None
    grid_constructor: Callable | None = None
    interp: str = "linear"
    perturb: bool = False

    def __post_init__(self):
        if self.step_size is not None:
            self.step_size = check_number("step_size", self.step_size, 0, above=True)
            if self.grid_constructor is not None:
                raise ArgumentError("step_size and grid_constructor are both given: use only one of them.")
        if self.interp not in ("linear", "cubic"):
            raise ArgumentError(f"interp is {self.interp!r}: give 'linear' or 'cubic'.")


@dataclass
class AdamsOptions(FixedOptions):
    """Options of the Adams methods, in addition to those of `FixedOptions`.

    implicit : whether to correct the prediction.
    max_iters : maximum number of corrections in a step.
    max_order : at most 12; the method uses at most max_order - 1 past derivatives.
    """

    implicit: bool = True
    max_iters: int = 4
    max_order: int = 12

    def __post_init__(self):
        super().__post_init__()
        self.max_order = int(check_number("max_order", self.max_order, 1))
        if self.max_order > 12:
            raise InvalidArgumentError(f"max_order is {self.max_order}: give at most 12.")
        if self.max_order < 4:
            warnings.warn(f"max_order is {self.max_order}: below 4, every step is an rk4 step.", stacklevel=8)


@dataclass
class AdaptiveOptions:
    """Options of the adaptive methods.

    min_step, max_step : bounds of the step size; a step of size min_step is accepted regardless of its error.
    first_step : size of the first step.
    step_t : times at which a step must end.
    jump_t : times at which func is discontinuous: a step ends there, and func is evaluated again just after.
    safety, ifactor, dfactor : safety factor, and largest and smallest factor between consecutive step sizes.
    max_num_steps : maximum number of steps, accepted or rejected, between consecutive output times.
    dtype : precision of times and step sizes.
    norm : ``state -> number``, the norm applied to error / tolerance.
    """

    min_step: float = 0.0
    max_step: float = math.inf
    first_step: float | None = None
    step_t: Tensor | None = None
    jump_t: Tensor | None = None
    safety: float = 0.9
    ifactor: float = 10.0
    dfactor: float = 0.2
    max_num_steps: int = 2**31 - 1
    dtype: torch.dtype = torch.float64
    norm: Callable | None = None

    def __post_init__(self):
        self.min_step = check_number("min_step", self.min_step, 0)
        self.max_step = check_number("max_step", self.max_step, self.min_step)
        if self.first_step is not None:
            self.first_step = check_number("first_step", self.first_step, 0, above=True)
        for name in ("safety", "ifactor", "dfactor"):
            setattr(self, name, check_number(name, getattr(self, name), 0, above=True))
        self.max_num_steps = check_number("max_num_steps", self.max_num_steps)

    def stop_times(self, direction: float, t0: float) -> list[tuple[float, bool]]:
        """Return the sorted internal times >= `t0` at which a step must end, and whether each is a jump."""
        forced = []
        for name, jump in (("step_t", False), ("jump_t", True)):
            value = getattr(self, name)
            if value is not None:
                times = torch.as_tensor(value, dtype=torch.float64).reshape(-1).tolist()
                forced += [(direction * t, jump) for t in times if direction * t >= t0]
        forced.sort()
        for (a, _), (b, _) in zip(forced, forced[1:]):
            if a == b:
                raise ArgumentError(f"step_t and jump_t contain {direction * a:g} twice: give each time once.")
        return forced


@dataclass
class ScipyOptions:
    """Options of scipy_solver: `solver` is the `method` of scipy.integrate.solve_ivp."""

    solver: str = "LSODA"
    min_step: float = 0.0
    max_step: float = math.inf
