"""Pieces of a fit that both engines know: callables that can say what they are, so that a fit may run in Julia."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from ..arguments import real_number, whole_number
from ..errors import ArgumentError


class Serializable:
    """Base of the described pieces: frozen dataclasses, called in torch and repeated by name in Julia."""

    def describe(self) -> dict:
        """Return plain values that define the piece: its kind and its settings."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class TotalVariation(Serializable):
    """The total variation of one state component over the times of a fit, as its `penalty`.

    It is ``weight * sum(sqrt(step^2 + smooth))`` over the steps from one time to the next: smooth where the
    curve turns.

    Parameters
    ----------
    weight : float
        Price of a unit of variation, in the unit of the loss per unit of the state.
    component : int
        Which component of the state.
    smooth : float
        Square of the step below which the variation is quadratic, in the squared unit of the state.
    """

    weight: float
    component: int = 0
    smooth: float = 1e-10

    def __post_init__(self):
        if real_number("weight", self.weight, "give a price of at least 0, such as 1e-3") < 0:
            raise ArgumentError(f"weight is {self.weight}: give a price of at least 0, such as 1e-3.")
        if real_number("smooth", self.smooth, "give a positive number, such as 1e-10") <= 0:
            raise ArgumentError(f"smooth is {self.smooth}: give a positive number, such as 1e-10.")
        object.__setattr__(self, "component", whole_number("component", self.component, 0))

    def __call__(self, ts: Tensor, ys: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """Return the price, of shape (), of states ys (T, ..., d)."""
        return self.weight * (ys[..., self.component].diff(dim=0).square() + self.smooth).sqrt().sum()
