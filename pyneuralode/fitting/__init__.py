"""Fitting models to data: losses, optimizers, and plans of stages over growing time spans."""

from .curricula import GrowingSpan, Stage
from .fit import fit
from .optimizers import LBFGS, SGD, Adam, AdamW, RMSprop
from .result import FitResult, StageResult
from .shooting import collocate_data, multiple_shoot
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
    "collocate_data",
    "fit",
    "multiple_shoot",
]
