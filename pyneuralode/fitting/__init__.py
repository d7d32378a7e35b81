"""Fitting models to data: what is minimised, by which optimiser, over which spans of time, in which order."""

from .curricula import GrowingSpan, Stage
from .described import TotalVariation
from .fit import fit
from .optimisers import LBFGS, SGD, Adam, AdamW, RMSprop
from .result import FitResult, StageResult

__all__ = [
    "LBFGS",
    "SGD",
    "Adam",
    "AdamW",
    "FitResult",
    "GrowingSpan",
    "RMSprop",
    "Stage",
    "StageResult",
    "TotalVariation",
    "fit",
]
