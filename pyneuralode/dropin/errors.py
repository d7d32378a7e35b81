"""Our errors in the kinds that torchdiffeq raises, so that an existing ``except`` clause goes on working."""

from ..errors import ArgumentError, SolverError


class RefusedError(ArgumentError, AssertionError):
    """An argument that torchdiffeq refuses by an assertion."""


class KindError(ArgumentError, TypeError):
    """An argument of a type that cannot be used."""


class StuckError(SolverError, AssertionError):
    """A solve that cannot go on: step underflow, too many steps, a non-finite state."""
