"""How the functions of formulas are compiled: as the shared ones, some of them into their callers."""

from pathlib import Path

from numba import njit

from ... import stiff
from ..compilation import INNER, SHARED_SOURCES, allocating_function, fingerprint, inner_function, kernel

__all__ = ["SOURCES", "allocating_function", "inlined_function", "inner_function", "kernel"]

SOURCES = fingerprint(Path(__file__).parent, *sorted(Path(stiff.__file__).parent.glob("*.py")), shared=SHARED_SOURCES)

# For what is called from one or two places only: a call passes every field of every array that it is given.
inlined_function = njit(_nrt=False, forceinline=True, **INNER)
