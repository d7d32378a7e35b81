"""The compiled path: whole solves of small described fields on the CPU, and their exact adjoint, in Numba."""

from .function import applies, prepare

__all__ = ["applies", "prepare"]
