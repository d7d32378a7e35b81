"""The compiled path for formulas: explicit and stiff solves of any model on the CPU, and their exact adjoint, in Numba.

A model's formulas become a list of numbers that one small machine, compiled once, runs; nothing is compiled for a model.
"""

from .function import applies, applies_each, prepare, solve_each

__all__ = ["applies", "applies_each", "prepare", "solve_each"]
