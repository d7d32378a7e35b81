"""Formulas: explicit and stiff solves of any model on the CPU, and their exact adjoint.

A model's formulas become a list of numbers that one small machine, compiled once, runs; nothing is compiled for a model.
"""

from .path import Formulas

__all__ = ["Formulas"]
