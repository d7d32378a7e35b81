"""MNIST's handwritten digits (LeCun, Cortes and Burges), from the four original files."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, unknown_name
from .download import fetch, read_original
from .places import cache_folder, find_file

_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_PREFIX = {"train": "train", "test": "t10k"}
_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_UNSIGNED_BYTES = 0x08
_REMEDY = (
    "put the original file there, or download all four with pyneuralode.datasets.download_mnist() (on the command "
    "line, --download)"
)


def mnist_images(part: str = "train", folder: str | Path | None = None) -> np.ndarray:
    """Return MNIST's images, uint8 (n, 28, 28), with ink 255 on background 0.

    Parameters
    ----------
    part : {"train", "test"}
        60,000 or 10,000 images.
    folder : path, optional
        Folder with the files, under their original names, compressed (.gz) or not. By default, the folder ``mnist`` in
        $PYNEURALODE_DATA (if set) and then the cache of `download_mnist` are searched. This function downloads nothing.

    Raises
    ------
    DataError
        If the file is missing or damaged.
    """
    images = _read(part, "images-idx3-ubyte", folder)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DataError(
            f"MNIST's {part} images have shape {images.shape}: use the original file, with shape (n, 28, 28)."
        )
    return images


def mnist_labels(part: str = "train", folder: str | Path | None = None) -> np.ndarray:
    """Return MNIST's labels, uint8 (n,) from 0 to 9; arguments and errors are those of `mnist_images`."""
    labels = _read(part, "labels-idx1-ubyte", folder)
    if labels.ndim != 1:
        raise DataError(f"MNIST's {part} labels have shape {labels.shape}: use the original file, with shape (n,).")
    return labels


def download_mnist(folder: str | Path | None = None, progress: Any = None) -> Path:
    """Download the four files (11.6 MB) to `folder` or to the cache, unless they are already there; return the folder.

    The checksums of the files are verified. Raises DataError if a file is on none of the mirrors. With a
    `progress.Progress`, such as ``RichProgress()``, a progress bar is shown per file.
    """
    return fetch(_MD5, _MIRRORS, cache_folder("mnist") if folder is None else Path(folder), progress)


def _read(part: str, kind: str, folder: str | Path | None) -> np.ndarray:
    if part not in _PREFIX:
        raise unknown_name("part", part, _PREFIX)
    name = f"{_PREFIX[part]}-{kind}"
    path = find_file([f"{name}.gz", name], "mnist", folder, f"MNIST's {name}.gz", _REMEDY)
    try:
        content = read_original(path, _MD5.get(path.name), "MNIST")
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): put MNIST's original file there.") from None
    return _parse(path, content)


def _parse(path: Path, content: bytes) -> np.ndarray:
    """Return the array of an IDX file: two zero bytes, type, number of dimensions, dimensions, values."""
    if len(content) >= 4 and content[:3] == bytes([0, 0, _UNSIGNED_BYTES]):
        dimensions = content[3]
        start = 4 + 4 * dimensions
        if len(content) >= start:
            shape = struct.unpack(f">{dimensions}I", content[4:start])
            if len(content) == start + int(np.prod(shape)):
                return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
    raise DataError(f"{path} is not a complete IDX file of bytes: put MNIST's original file there.")
