"""Epidemics: fitting the SEIR model and neural ODEs to epidemic curves."""

from .neural import fit_neural, neural_curve, neural_model, neural_plan
from .seir import EpidemicFit, fit_seir

__all__ = ["EpidemicFit", "fit_neural", "fit_seir", "neural_curve", "neural_model", "neural_plan"]
