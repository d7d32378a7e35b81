"""Continuous flows with one hidden layer: samples and the integral of the exact trace, and the solve's exact adjoint."""

from .path import CompiledFlows

__all__ = ["CompiledFlows"]
