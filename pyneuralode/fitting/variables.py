"""The numbers that a fit moves: unbounded tensors, and the parameters within bounds that they stand for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError

Bound = tuple[float | None, float | None]


class Variables:
    """Free and fixed parameters by name; free ones are leaves that an optimiser moves without bounds.

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
        self.bounds = {name: (low, high) for name, (low, high) in bounds.items() if (low, high) != (None, None)}
        self.fixed = {name: start[name].detach().clone() for name in fixed}
        self.free = {
            name: _unbounded(name, value.detach().clone(), self.bounds.get(name, (None, None))).requires_grad_()
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
    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        for name, value in snapshot.items():
            self.free[name].copy_(value)


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
