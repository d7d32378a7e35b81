"""Whole solves and their exact adjoint, compiled with Numba for the CPU: networks, formulas and flows."""
