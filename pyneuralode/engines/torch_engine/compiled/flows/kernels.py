"""How the functions here are compiled: as those of ..compiled, and with sums that may be taken in any order."""

from pathlib import Path

from numba import njit

from ..networks.kernels import INNER, fingerprint
from ..networks.kernels import SOURCES as SHARED

SOURCES = fingerprint(Path(__file__).parent, shared=SHARED)

summing = njit(_nrt=False, fastmath={"contract", "reassoc"}, **INNER)
