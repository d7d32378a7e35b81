"""Errors that are also instances of torchdiffeq's error classes, so that existing ``except`` clauses keep working."""

from ..errors import ArgumentError, SolverError


class InvalidArgumentError(ArgumentError, AssertionError):
    """An argument that torchdiffeq rejects with an assertion."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument of the wrong type."""


class SolveFailedError(SolverError, AssertionError):
    """A solve that cannot continue: step underflow, too many steps, or a non-finite state."""
