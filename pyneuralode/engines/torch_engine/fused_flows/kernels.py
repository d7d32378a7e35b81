"""How the functions here are compiled: as those of ..fused, and with sums that may be taken in any order."""

from pathlib import Path

from numba import njit

from ..fused.kernels import INNER, fingerprint
from ..fused.kernels import SOURCES as SHARED

SOURCES = fingerprint(Path(__file__).parent, shared=SHARED)

summing = njit(_nrt=False, fastmath={"contract", "reassoc"}, **INNER)
