"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ArgumentError


def check_writable(out: Path) -> None:
    """Raise, before anything is computed, if `out` is no folder or cannot be written to."""
    with one_sentence(out):
        nearest = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise ArgumentError(f"out is {str(out)!r}, but {nearest} is a file: give a folder.")
        with tempfile.TemporaryFile(dir=nearest):
            pass


def check_folder(out: Path, names: Collection[str]) -> None:
    """Raise, before anything is computed, if `out` cannot be written to or holds other files than `names`."""
    check_writable(out)
    with one_sentence(out):
        others = sorted({path.name for path in out.iterdir()} - set(names)) if out.exists() else []
    if others:
        raise ArgumentError(f"out is {str(out)!r}, which holds {others[0]!r}: give a folder of its own.")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out` to write to, and put it in the place of `out` at the end."""
    out = out.resolve()
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    former = out.with_name(f".{out.name}.{os.getpid()}.former")
    with one_sentence(out):
        try:
            partial.mkdir(parents=True)
            yield partial
            if out.exists():
                out.rename(former)
            try:
                partial.rename(out)
            except OSError:
                if former.exists():
                    former.rename(out)
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(former, ignore_errors=True)


@contextmanager
def whole_files(*finals: Path) -> Iterator[list[Path]]:
    """Yield a path to write each of these files to, and move all of them into place at the end."""
    partials = [path.with_name(f".{os.getpid()}.{path.name}") for path in finals]
    with one_sentence(finals[0]):
        try:
            for path in finals:
                path.parent.mkdir(parents=True, exist_ok=True)
            yield partials
            for partial, path in zip(partials, finals):
                partial.replace(path)
        finally:
            for partial in partials:
                partial.unlink(missing_ok=True)


@contextmanager
def one_sentence(out: Path) -> Iterator[None]:
    """Turn the system's complaint about a file into a sentence about `out`."""
    try:
        yield
    except OSError as error:
        raise ArgumentError(
            f"out is {str(out)!r}, which cannot be written to ({error.strerror or error}): give another."
        ) from error
