"""Callables that both engines, torch and Julia, implement, so that fits that use them can run entirely in Julia."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from ..arguments import real_number, whole_number
from ..errors import ArgumentError


class Serializable:
    """Base class of callables that can run in Julia: frozen dataclasses with a Julia counterpart of the same name."""

    def describe(self) -> dict:
        """Return the class name and the settings as plain values."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class TotalVariation(Serializable):
    """A `penalty` on the total variation of one state component over the times of a fit.

    The penalty is ``weight * sum(sqrt(change^2 + smooth))`` over the changes from one time to the next; `smooth` makes
    it differentiable where the state does not change.

    Parameters
    ----------
    weight : float
        Penalty per unit of variation, in the unit of the loss per unit of the state.
    component : int
        Index of the state component, from 0.
    smooth : float
        Square of the change below which the penalty is nearly quadratic, in the squared unit of the state.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode.fitting import TotalVariation
    >>> ys = torch.tensor([[0.0], [2.0], [1.0]])
    >>> round(TotalVariation(weight=0.1)(torch.arange(3), ys, {}).item(), 4)
    0.3
    """

    weight: float
    component: int = 0
    smooth: float = 1e-10

    def __post_init__(self):
        if real_number("weight", self.weight, "give a nonnegative number, such as 1e-3") < 0:
            raise ArgumentError(f"weight is {self.weight}: give a nonnegative number, such as 1e-3.")
        if real_number("smooth", self.smooth, "give a positive number, such as 1e-10") <= 0:
            raise ArgumentError(f"smooth is {self.smooth}: give a positive number, such as 1e-10.")
        object.__setattr__(self, "component", whole_number("component", self.component, 0))

    def __call__(self, ts: Tensor, ys: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """Return the penalty, of shape (), for states ys (T, ..., d)."""
        return self.weight * (ys[..., self.component].diff(dim=0).square() + self.smooth).sqrt().sum()
