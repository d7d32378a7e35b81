"""CIFAR-10's small photographs (Krizhevsky 2009), from the original archive or a reduced set."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, unknown_name
from .download import fetch, read_original
from .places import cache_folder, find_file

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ARCHIVE = "cifar-10-binary.tar.gz"
_ARCHIVE_MD5 = {_ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530"}
_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
_FILES = {"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)}
_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
}
_REDUCED = {"train": "train10k.npz", "test": "test1k.npz"}
_REMEDY = (
    "put the original archive there, or download it with pyneuralode.datasets.download_cifar10() (on the command line, "
    "--download)"
)
_REDUCED_REMEDY = "put it there, or use the full set (reduced=False; on the command line, without --reduced)"
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32


def read_cifar10(
    part: str = "train", folder: str | Path | None = None, reduced: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return CIFAR-10's images, uint8 (n, 3, 32, 32), and labels, uint8 (n,) from 0 to 9; see `CLASSES`.

    Parameters
    ----------
    part : {"train", "test"}
        50,000 or 10,000 images.
    folder : path, optional
        Folder with the archive `cifar-10-binary.tar.gz` or its contents. By default, the folder ``cifar10`` in
        $PYNEURALODE_DATA (if set) and then the cache of `download_cifar10` are searched. This function downloads
        nothing.
    reduced : bool
        Read 10,000 and 1,000 images from `train10k.npz` and `test1k.npz` instead: arrays ``x`` (n, 32, 32, 3)
        and ``y`` (n,).

    Raises
    ------
    DataError
        If a file is missing or damaged.
    """
    if part not in _FILES:
        raise unknown_name("part", part, _FILES)
    if reduced:
        name = _REDUCED[part]
        return _read_reduced(find_file([name], "cifar10", folder, f"CIFAR-10's {name}", _REDUCED_REMEDY))
    names = [_FILES[part][0], f"cifar-10-batches-bin/{_FILES[part][0]}", _ARCHIVE]
    path = find_file(names, "cifar10", folder, f"CIFAR-10's {_ARCHIVE}", _REMEDY)
    read = _from_archive if path.name == _ARCHIVE else _from_files
    records = np.concatenate([_records(path, content) for content in read(path, _FILES[part])])
    return records[:, 1:].reshape(-1, *_SHAPE), records[:, 0]


def download_cifar10(folder: str | Path | None = None, progress: Any = None) -> Path:
    """Download the archive (170 MB) to `folder` or to the cache, unless it is already there, and return the folder.

    The archive's checksum is verified. Raises DataError if no mirror has the archive. With a `progress.Progress`, such
    as ``RichProgress()``, a progress bar is shown.
    """
    return fetch(_ARCHIVE_MD5, _MIRRORS, cache_folder("cifar10") if folder is None else Path(folder), progress)


def _from_archive(path: Path, names: tuple[str, ...]) -> list[bytes]:
    """Return the contents of the named files in the archive."""
    try:
        content = read_original(path, _ARCHIVE_MD5[_ARCHIVE], "CIFAR-10")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            return [archive.extractfile(f"cifar-10-batches-bin/{name}").read() for name in names]
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): put CIFAR-10's original archive there.") from None


def _from_files(first: Path, names: tuple[str, ...]) -> list[bytes]:
    """Return the contents of the named files in the folder of `first`; known checksums are verified."""
    contents = []
    for name in names:
        path = first.with_name(name)
        try:
            contents.append(read_original(path, _MD5.get(name), "CIFAR-10"))
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}): put CIFAR-10's original file there.") from None
    return contents


def _records(path: Path, content: bytes) -> np.ndarray:
    """Return the records of one file; each record is a label followed by the pixels, ordered by color and row."""
    if not content or len(content) % _RECORD:
        raise DataError(f"{path} contains no image or an incomplete one: put CIFAR-10's original file there.")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() >= len(CLASSES):
        raise DataError(f"{path} has the label {records[:, 0].max()}: put CIFAR-10's original file there.")
    return records


def _read_reduced(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["x"], arrays["y"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): give a file with the arrays x and y.") from None
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path} has x of {images.dtype} {images.shape} and y of shape {labels.shape}: use uint8 "
            "(n, 32, 32, 3) for x and shape (n,) for y."
        )
    if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise DataError(f"{path} has labels from {labels.min()} to {labels.max()}: use labels from 0 to 9.")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.uint8)
