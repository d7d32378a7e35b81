"""Epidemics: fits of the SEIR model and of neural ODEs to case counts."""

from .neural import fit_neural, neural_curve, neural_model, neural_plan
from .seir import EpidemicFit, fit_seir

__all__ = ["EpidemicFit", "fit_neural", "fit_seir", "neural_curve", "neural_model", "neural_plan"]
