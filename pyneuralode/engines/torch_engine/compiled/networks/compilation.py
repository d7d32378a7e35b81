"""The fingerprint of everything from which the kernels of networks are compiled."""

from pathlib import Path

from ..compilation import SHARED_SOURCES, fingerprint

SOURCES = fingerprint(Path(__file__).parent, shared=SHARED_SOURCES)
