"""The embedded engine: everything in PyTorch, from wheels alone."""

from .solve import solve

__all__ = ["solve"]
