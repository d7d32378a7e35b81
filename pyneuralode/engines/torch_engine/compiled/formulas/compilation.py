"""Decorators for the compiled functions of formulas; one of them inlines a function into its callers."""

from pathlib import Path

from numba import njit

from ... import stiff
from ..compilation import INNER, SHARED_SOURCES, allocating_function, fingerprint, inner_function, kernel

__all__ = ["SOURCES", "allocating_function", "inlined_function", "inner_function", "kernel"]

SOURCES = fingerprint(Path(__file__).parent, *sorted(Path(stiff.__file__).parent.glob("*.py")), shared=SHARED_SOURCES)

# For functions called in only one or two places: a call that is not inlined passes every field of each array argument.
inlined_function = njit(_nrt=False, forceinline=True, **INNER)
