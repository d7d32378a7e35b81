"""Which libraries are there, and in which Python."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from ..errors import ArgumentError, unknown_name
from .tasks import OURS, PEERS

_PROBE = "import importlib.util, sys; sys.exit(importlib.util.find_spec({!r}) is None)"


def read_pythons(texts: Iterable[str]) -> dict[str, Path]:
    """Return the Python executables of ``"diffrax=/path/to/python"``, each seen to have its library."""
    pythons = {}
    for text in texts:
        peer, separator, path = text.partition("=")
        if not separator or not path:
            raise ArgumentError(f"python is {text!r}: give a peer and its Python, such as diffrax=/path/to/python.")
        if peer not in PEERS:
            raise unknown_name("the peer in python", peer, PEERS)
        pythons[peer] = Path(path).absolute()
        try:
            found = subprocess.run([path, "-c", _PROBE.format(peer)], check=False, capture_output=True, timeout=1800)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ArgumentError(f"python is {text!r}, which cannot run ({error}): give another executable.") from None
        if found.returncode != 0:
            raise ArgumentError(f"python is {text!r}, which has no {peer}: install it there, or give another.")
    return pythons


def installed(pythons: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the libraries that can contend: ours, the peers of this Python and those of the others."""
    return (OURS, *(peer for peer in PEERS if peer in pythons or find_spec(peer) is not None))
