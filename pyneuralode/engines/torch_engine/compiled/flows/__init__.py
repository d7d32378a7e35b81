"""Continuous flows with one hidden layer: the samples with the integral of the exact trace, and their exact adjoint."""

from .path import CompiledFlows

__all__ = ["CompiledFlows"]
