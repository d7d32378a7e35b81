"""Whole solves of continuous flows with one hidden layer on the CPU, and their exact adjoint, in compiled code."""

from .function import applies, solve

__all__ = ["applies", "solve"]
