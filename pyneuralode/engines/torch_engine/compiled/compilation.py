"""Compilation of the kernels that Python calls and of the functions that they call."""

import logging
import zlib
from collections.abc import Callable
from pathlib import Path

from numba import njit

from .. import step_size
from .constants import MAP_NAMES


def fingerprint(folder: Path, *others: Path, shared: int = 0) -> int:
    """Return a checksum of the Python files in a folder, of the files `others`, and of the number `shared`.

    Numba checks only a kernel's own file to see whether its cache is out of date. As the default of an argument, the
    checksum becomes part of the kernel's signature and represents all files from which the kernel is compiled.
    """
    return zlib.crc32(b"".join(path.read_bytes() for path in (*sorted(folder.glob("*.py")), *others)), shared)


SHARED_SOURCES = fingerprint(
    Path(__file__).parent, Path(step_size.__file__), shared=zlib.crc32(repr(MAP_NAMES).encode())
)

# For functions that are called only by compiled code. Without wrappers for Python they compile in half the time.
# Only functions that allocate arrays need reference counts; without them, small functions run twice as fast.
INNER = dict(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
allocating_function = njit(**INNER)
inner_function = njit(_nrt=False, **INNER)
fma_function = njit(_nrt=False, fastmath={"contract"}, **INNER)


def kernel(function: Callable) -> Callable:
    """Return `function`, compiled at its first call for each dtype."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError as error:  # neither this folder nor the user's cache folder is writable
        logging.getLogger("pyneuralode").info(
            "compiled code cannot be cached (%s): every process compiles it again", error
        )
        return njit(nogil=True, error_model="numpy")(function)
