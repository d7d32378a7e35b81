"""How the functions here are compiled: as those of ..compiled, and some of them into their callers."""

from pathlib import Path

from numba import njit

from ..networks.kernels import INNER, fingerprint, kernel, maker, part
from ..networks.kernels import SOURCES as SHARED

__all__ = ["SOURCES", "inlined", "kernel", "maker", "part"]

HERE = Path(__file__).parent
SOURCES = fingerprint(HERE, *sorted((HERE.parent / "stiff").glob("*.py")), shared=SHARED)

# For what is called from one or two places only: a call passes every field of every array that it is given.
inlined = njit(_nrt=False, forceinline=True, **INNER)
