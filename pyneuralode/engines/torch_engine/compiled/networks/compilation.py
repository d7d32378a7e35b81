"""The fingerprint of all sources from which the network kernels are compiled."""

from pathlib import Path

from ..compilation import SHARED_SOURCES, fingerprint

SOURCES = fingerprint(Path(__file__).parent, shared=SHARED_SOURCES)
