"""The result of a fit, and of each of its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .diagnosis import Diagnosis
from .stage_result import StageResult


@dataclass
class FitResult:
    """The result of a fit; printing it shows a short report.

    Attributes
    ----------
    model
        The fitted model, with the best parameters.
    loss : float
        Loss of the best parameters, without the penalty.
    parameters : dict of arrays
        The best parameters by name, including those passed as `extra` (such as initial conditions).
    stages : list of StageResult
        The history, stage by stage.
    finished : bool
        Whether the whole plan ran.
    interrupted : bool
        Whether Ctrl-C stopped the fit.
    message : str
        Why the fit ended, and whether it converged.
    diagnosis : Diagnosis or None
        How much of the data the fit explains, whether it converged, how far the parameters moved, and what to change;
        None if the loss could never be computed.
    """

    model: Any
    loss: float
    parameters: dict[str, np.ndarray]
    stages: list[StageResult]
    finished: bool
    interrupted: bool
    message: str
    diagnosis: Diagnosis | None = None

    def __str__(self) -> str:
        count = sum(len(stage.losses) for stage in self.stages)
        lines = [
            f"{self.message[:1].upper()}{self.message[1:]}.",
            f"loss {self.loss:.6g} after {count} iterations and {self.evaluations} evaluations in {self.seconds:.3g} s",
        ]
        return "\n".join(lines if self.diagnosis is None else [*lines, str(self.diagnosis)])

    @property
    def losses(self) -> np.ndarray:
        """The loss of every iteration (iterations,), over all stages in order."""
        return np.concatenate([stage.losses for stage in self.stages])

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the loss and its gradient."""
        return sum(stage.evaluations for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Total time of the iterations, in seconds."""
        return sum(stage.seconds for stage in self.stages)
