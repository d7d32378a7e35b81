"""The fingerprint of this package's files and of the stiff methods' constants, with which kernels are cached; see `..fused.kernels`."""

import zlib
from pathlib import Path

from numba import njit

from ..fused.kernels import SOURCES as SHARED
from ..fused.kernels import kernel, maker, part

__all__ = ["SOURCES", "inlined", "kernel", "maker", "part"]

HERE = Path(__file__).parent
FILES = (*sorted(HERE.glob("*.py")), *sorted((HERE.parent / "stiff").glob("*.py")))
SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in FILES), SHARED)

# For what is called from one or two places only: a call passes every field of every array that it is given.
inlined = njit(_nrt=False, forceinline=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
