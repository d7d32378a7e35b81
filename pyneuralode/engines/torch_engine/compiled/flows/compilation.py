"""Compilation of the functions of flows: like the shared ones, some with sums that may be reordered."""

from pathlib import Path

from numba import njit

from ..compilation import INNER, SHARED_SOURCES, fingerprint

SOURCES = fingerprint(Path(__file__).parent, shared=SHARED_SOURCES)

reassociated_function = njit(_nrt=False, fastmath={"contract", "reassoc"}, **INNER)
