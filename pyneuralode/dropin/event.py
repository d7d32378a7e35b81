"""Where an event function crosses zero within a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def locate(event: Callable[[float, Tensor], float], state: Callable[[float], Tensor], start: float, t: float,
           t_end: float, atol: float | Tensor) -> float:
    """Return the time in [t, t_end] where `event` loses the sign of `start`, to within `atol`."""
    width = float(atol.min()) if isinstance(atol, Tensor) else atol
    while t_end - t > width:
        middle = (t + t_end) / 2
        if not t < middle < t_end:
            break
        if event(middle, state(middle)) * start > 0:
            t = middle
        else:
            t_end = middle
    return (t + t_end) / 2
