"""Normalizing flows: densities obtained from simple ones by invertible maps."""

from .continuous import ContinuousFlow, FlowTerms
from .distribution import FlowDistribution
from .planar import PlanarFlow
from .training import FlowFit

__all__ = ["ContinuousFlow", "FlowDistribution", "FlowFit", "FlowTerms", "PlanarFlow"]
