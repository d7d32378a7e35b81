"""The numbers that a fit moves: unbounded tensors, and the parameters within bounds that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..arguments import real_number
from ..errors import ArgumentError

Bound = tuple[float | None, float | None]


class Variables:
    """Free and fixed parameters by name; free ones are leaves that an optimizer moves without bounds.

    A lower or an upper bound is kept by an exponential, a pair of them by a logistic curve.
    """

    def __init__(self, start: Mapping[str, Tensor], bounds: Mapping[str, Bound], fixed: tuple[str, ...]):
        if not start:
            raise ArgumentError(
                "the model has no parameters to fit: give it a field that has, such as MLP((2, 50, 2))."
            )
        for label, names in (("bounds", bounds), ("fixed", fixed)):
            for name in names:
                if name not in start:
                    raise ArgumentError(
                        f"{label} names {name!r}, which is not a parameter: known are {', '.join(start)}."
                    )
        for name, bound in bounds.items():
            if not isinstance(bound, (tuple, list)) or len(bound) != 2:
                raise ArgumentError(f"bounds of {name} is {bound!r}: give a pair (low, high), None for an open end.")
        ends = {name: tuple(_end(name, end) for end in bound) for name, bound in bounds.items()}
        self.bounds = {name: bound for name, bound in ends.items() if bound != (None, None)}
        self.fixed = {name: start[name].detach().clone() for name in fixed}
        self.free = {
            name: _unbounded(name, value.detach().clone(), self.bounds.get(name, (None, None)))
            .contiguous()  # torch's L-BFGS takes no other
            .requires_grad_()
            for name, value in start.items()
            if name not in self.fixed
        }
        if not self.free:
            raise ArgumentError("fixed names every parameter: leave at least one free.")
        self.order = list(start)

    def values(self) -> dict[str, Tensor]:
        """Return all parameters within their bounds, connected to the free tensors."""
        return {
            name: self.fixed[name]
            if name in self.fixed
            else _bounded(self.free[name], self.bounds.get(name, (None, None)))
            for name in self.order
        }

    def arrays(self) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {name: value.cpu().numpy().copy() for name, value in self.values().items()}

    def snapshot(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.free.items()}

    @torch.no_grad()
    def place(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Move to these parameters; what rounding has put on a bound goes just inside."""
        for name, free in self.free.items():
            low, high = self.bounds.get(name, (None, None))
            value = torch.as_tensor(parameters[name]).to(free)
            width = 1.0 if low is None or high is None else high - low
            least = 4 * torch.finfo(free.dtype).eps
            if low is not None:
                value = value.clamp(min=low + least * max(width, abs(low)))
            if high is not None:
                value = value.clamp(max=high - least * max(width, abs(high)))
            free.copy_(_unbounded(name, value, (low, high)))

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        for name, value in snapshot.items():
            self.free[name].copy_(value)


def _end(name: str, end: float | None) -> float | None:
    """Return one end of bounds; None where it is open, which infinity means too."""
    if end is None or (isinstance(end, float) and math.isinf(end)):
        return None
    return real_number(f"a bound of {name}", end, "give a number, or None for an open end")


def _unbounded(name: str, value: Tensor, bound: Bound) -> Tensor:
    low, high = bound
    if low is not None and high is not None and not low < high:
        raise ArgumentError(f"bounds of {name} are ({low}, {high}): give a lower one below the upper one.")
    if (low is not None and bool((value <= low).any())) or (high is not None and bool((value >= high).any())):
        raise ArgumentError(f"{name} starts at {value.tolist()}, not inside its bounds ({low}, {high}): start inside.")
    if low is not None and high is not None:
        return torch.logit((value - low) / (high - low))
    if low is not None:
        return torch.log(value - low)
    return torch.log(high - value) if high is not None else value


def _bounded(value: Tensor, bound: Bound) -> Tensor:
    low, high = bound
    if low is not None and high is not None:
        return low + (high - low) * torch.sigmoid(value)
    if low is not None:
        return low + torch.exp(value)
    return high - torch.exp(value) if high is not None else value
