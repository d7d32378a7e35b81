"""Decorators for the compiled functions of flows; one of them lets the compiler reorder sums."""

from pathlib import Path

from numba import njit

from ..compilation import INNER, SHARED_SOURCES, fingerprint

SOURCES = fingerprint(Path(__file__).parent, shared=SHARED_SOURCES)

reassociated_function = njit(_nrt=False, fastmath={"contract", "reassoc"}, **INNER)
