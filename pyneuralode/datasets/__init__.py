"""Data sets, read from small tables that the package carries."""

from .sweden import sweden

__all__ = ["sweden"]
