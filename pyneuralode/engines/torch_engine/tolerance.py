"""How large an error of a flat state may be, and the functions that say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Slope = Callable[[float, Tensor], Tensor]
Norm = Callable[[Tensor], Tensor]


class Tolerance(NamedTuple):
    """How large an error is: its norm, in units of rtol |y| + atol."""

    rtol: float | Tensor
    atol: float | Tensor
    norm: Norm
