"""Fitting models to data: what is minimized, by which optimizer, over which spans of time, in which order."""

from .curricula import GrowingSpan, Stage
from .fit import fit
from .optimizers import LBFGS, SGD, Adam, AdamW, RMSprop
from .result import FitResult, StageResult
from .specs import TotalVariation

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
