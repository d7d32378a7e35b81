"""How functions are compiled: the two kernels that Python calls and the parts they are made of."""

import logging
import zlib
from collections.abc import Callable
from pathlib import Path

from numba import njit


def fingerprint(folder: Path, *outside: Path, shared: int = 0) -> int:
    """Return a number that changes with the Python files of a folder, with those `outside` it, and with `shared`.

    Numba looks at a kernel's own file to see whether what it kept is out of date. As the default of an argument, the
    number becomes part of the kernel's signature and stands for all files from which it is compiled.
    """
    return zlib.crc32(b"".join(path.read_bytes() for path in (*sorted(folder.glob("*.py")), *outside)), shared)


HERE = Path(__file__).parent
SOURCES = fingerprint(HERE, HERE.parents[1] / "step_size.py", HERE.parents[3] / "fields" / "networks.py")

# For functions that only compiled code calls. Without doors for Python they compile in half the time; without
# reference counts, which only makers of arrays need, small ones run twice as fast.
INNER = dict(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
maker = njit(**INNER)
part = njit(_nrt=False, **INNER)
contracted = njit(_nrt=False, fastmath={"contract"}, **INNER)


def kernel(function: Callable) -> Callable:
    """Return `function`, compiled at its first call for each dtype."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError as error:  # neither this folder nor a user's cache folder can be written to
        logging.getLogger("pyneuralode").info("%s: compiling anew in every process", error)
        return njit(nogil=True, error_model="numpy")(function)
