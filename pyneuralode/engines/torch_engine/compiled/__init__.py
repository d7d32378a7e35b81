"""Whole solves and their exact adjoint as compiled code on the CPU, in Numba: networks, formulas and flows."""
