"""The embedded engine: everything in PyTorch, from wheels alone."""

from .solve import lacking, slope, solve

__all__ = ["lacking", "slope", "solve"]
