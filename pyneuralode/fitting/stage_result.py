"""The result of one stage of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class StageResult:
    """The history of one stage.

    Attributes
    ----------
    end : float or None
        Last data time that the stage used; None if it used all data.
    optimizer : str
    losses, objectives : list of float
        Loss, and loss plus penalty, at the beginning of each iteration.
    best_loss, best_objective : float
        Loss and objective of the best parameters, which have the lowest objective.
    parameters : dict of arrays
        The best parameters, by name.
    evaluations : int
        Number of evaluations of the loss and its gradient.
    seconds : float
    """

    end: float | None
    optimizer: str
    losses: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    best_loss: float = float("inf")
    best_objective: float = float("inf")
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    evaluations: int = 0
    seconds: float = 0.0
