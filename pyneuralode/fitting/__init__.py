"""Fitting models to data: the loss, the optimizers, the time spans and the order of the stages."""

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
