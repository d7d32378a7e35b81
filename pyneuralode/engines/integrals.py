"""What an engine gives back of a continuous flow's solve."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Integrals:
    """The end of a solve: the state (n, d), and per sample (n,) the integrals along its path.

    `trace` has the sign of the direction in which the time ran; `kinetic` and `jacobian` are positive, or None where
    they were not asked for. `evaluations` counts those of the field, `accepted` and `rejected` the steps (0 where the
    engine does not say).
    """

    state: Tensor
    trace: Tensor
    kinetic: Tensor | None
    jacobian: Tensor | None
    evaluations: int
    accepted: int = 0
    rejected: int = 0
