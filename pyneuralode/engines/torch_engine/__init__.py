"""The embedded engine: everything in PyTorch, from wheels alone."""

from .solve import slope, solve

__all__ = ["slope", "solve"]
