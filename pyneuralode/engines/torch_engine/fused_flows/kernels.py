"""How the functions here are compiled: as those of ..fused, and with sums that may be taken in any order."""

import zlib
from pathlib import Path

from numba import njit

from ..fused.kernels import SOURCES as SHARED

# Part of the kernels' signatures, so that what Numba kept is compiled anew where any file of these has changed.
SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))), SHARED)

summing = njit(
    _nrt=False,
    fastmath={"contract", "reassoc"},
    error_model="numpy",
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
)
