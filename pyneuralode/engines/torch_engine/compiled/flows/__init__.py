"""Compiled solves of continuous flows with one hidden layer and the exact trace, and their exact adjoint."""

from .path import CompiledFlows

__all__ = ["CompiledFlows"]
