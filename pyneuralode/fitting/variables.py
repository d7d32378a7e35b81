"""Bounded parameters, represented by unbounded tensors that an optimizer can change freely."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..arguments import real_number
from ..errors import ArgumentError

Bound = tuple[float | None, float | None]
OPEN: Bound = (None, None)


class Variables:
    """Free and fixed parameters, by name.

    A free parameter is a function of an unbounded tensor: an exponential enforces a lower or an upper bound, and a
    logistic function enforces both.

    Parameters
    ----------
    start : mapping of Tensor
        The initial parameters, in order.
    bounds : mapping of name to (low, high)
        Strict bounds; None or infinity means no bound.
    fixed : tuple of str
        Names of the parameters that stay constant.

    Attributes
    ----------
    free : dict of Tensor
        The unbounded tensors; they require a gradient.
    """

    def __init__(self, start: Mapping[str, Tensor], bounds: Mapping[str, Bound], fixed: tuple[str, ...]):
        if not start:
            raise ArgumentError(
                "the model has no parameters to fit: use a field that has parameters, such as MLP((2, 50, 2))."
            )
        for label, names in (("bounds", bounds), ("fixed", fixed)):
            for name in names:
                if name not in start:
                    raise ArgumentError(
                        f"{label} contains {name!r}, which is not a parameter: use names from {', '.join(start)}."
                    )
        for name, bound in bounds.items():
            if not isinstance(bound, (tuple, list)) or len(bound) != 2:
                raise ArgumentError(f"bounds of {name} are {bound!r}: give a pair (low, high), with None for no bound.")
        ends = {name: tuple(_end(name, end) for end in bound) for name, bound in bounds.items()}
        self.bounds = {name: bound for name, bound in ends.items() if bound != OPEN}
        self.fixed = {name: start[name].detach().clone() for name in fixed}
        self.free = {
            name: _unbounded(name, value.detach().clone(), self.bounds.get(name, OPEN))
            .contiguous()  # required by torch's L-BFGS
            .requires_grad_()
            for name, value in start.items()
            if name not in self.fixed
        }
        if not self.free:
            raise ArgumentError("fixed contains every parameter: leave at least one free.")
        self.order = list(start)

    def values(self) -> dict[str, Tensor]:
        """Return all parameters within their bounds; gradients flow through them to the free tensors."""
        return {
            name: _bounded(self.free[name], self.bounds.get(name, OPEN)) if name in self.free else self.fixed[name]
            for name in self.order
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters as NumPy arrays, by name."""
        with torch.no_grad():
            return {name: value.cpu().numpy().copy() for name, value in self.values().items()}

    @torch.no_grad()
    def set_arrays(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Set the free parameters to these values; a value that was rounded onto a bound is moved just inside."""
        for name, free in self.free.items():
            low, high = self.bounds.get(name, OPEN)
            value = torch.as_tensor(parameters[name]).to(free)
            width = 1.0 if low is None or high is None else high - low
            least = 4 * torch.finfo(free.dtype).eps
            if low is not None:
                value = value.clamp(min=low + least * max(width, abs(low)))
            if high is not None:
                value = value.clamp(max=high - least * max(width, abs(high)))
            free.copy_(_unbounded(name, value, (low, high)))


def _end(name: str, end: float | None) -> float | None:
    """Return a lower or upper bound as a float, or None if there is no bound."""
    if end is None or (isinstance(end, float) and math.isinf(end)):
        return None
    return real_number(f"a bound of {name}", end, "give a number, or None for no bound")


def _unbounded(name: str, value: Tensor, bound: Bound) -> Tensor:
    """Return the unbounded tensor that represents a bounded parameter."""
    low, high = bound
    if low is not None and high is not None and not low < high:
        raise ArgumentError(f"bounds of {name} are ({low}, {high}): give a lower bound below the upper one.")
    if (low is not None and bool((value <= low).any())) or (high is not None and bool((value >= high).any())):
        raise ArgumentError(
            f"{name} starts at {value.tolist()}, not inside its bounds ({low}, {high}): choose a value inside, or "
            "widen the bounds."
        )
    if low is not None and high is not None:
        return torch.logit((value - low) / (high - low))
    if low is not None:
        return torch.log(value - low)
    return torch.log(high - value) if high is not None else value


def _bounded(value: Tensor, bound: Bound) -> Tensor:
    """Return the bounded parameter that an unbounded tensor represents."""
    low, high = bound
    if low is not None and high is not None:
        return low + (high - low) * torch.sigmoid(value)
    if low is not None:
        return low + torch.exp(value)
    return high - torch.exp(value) if high is not None else value
