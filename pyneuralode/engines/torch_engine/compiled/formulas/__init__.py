"""Compiled explicit and stiff solves, on the CPU, of any model given by formulas, and their exact adjoint.

A model's formulas are encoded as a list of integer instructions for a small register machine that is compiled once;
nothing is compiled for each model.
"""

from .path import Formulas

__all__ = ["Formulas"]
