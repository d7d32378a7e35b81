"""What one stage of a fit returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class StageResult:
    """One stage: its last time, the loss and the objective (loss and penalty) where every iteration began, those
    of the best parameters by the objective, and the work done."""

    end: float | None
    optimizer: str
    losses: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    best_loss: float = float("inf")
    best_objective: float = float("inf")
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    evaluations: int = 0
    seconds: float = 0.0
