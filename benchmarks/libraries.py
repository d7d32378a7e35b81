"""Find out which libraries are installed, and in which Python."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from pyneuralode.errors import ArgumentError, unknown_name

from .tasks import OTHER_LIBRARIES, OURS

_PROBE = "import importlib.util, sys; sys.exit(importlib.util.find_spec({!r}) is None)"


def read_pythons(texts: Iterable[str]) -> dict[str, Path]:
    """Parse strings such as ``"diffrax=/path/to/python"``; check that each Python runs and has the library."""
    pythons = {}
    for text in texts:
        library, separator, path = text.partition("=")
        if not separator or not path:
            raise ArgumentError(f"python is {text!r}: give a library and its Python, such as diffrax=/path/to/python.")
        if library not in OTHER_LIBRARIES:
            raise unknown_name("the library in python", library, OTHER_LIBRARIES)
        pythons[library] = Path(path).absolute()
        try:
            found = subprocess.run([path, "-c", _PROBE.format(library)], check=False, capture_output=True, timeout=1800)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ArgumentError(f"python is {text!r}, which cannot run ({error}): give another executable.") from None
        if found.returncode != 0:
            raise ArgumentError(
                f"python is {text!r}, which has no {library}: install it there, or give another Python."
            )
    return pythons


def installed(pythons: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the libraries that can run: pyneuralode, and the others installed in this Python or one of `pythons`."""
    return (OURS, *(library for library in OTHER_LIBRARIES if library in pythons or find_spec(library) is not None))
