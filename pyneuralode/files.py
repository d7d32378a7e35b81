"""Files that are written completely or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ArgumentError


def check_writable(out: Path) -> None:
    """Raise, before anything is computed, if `out` is not a folder or cannot be written to."""
    with explain_write_errors(out):
        nearest = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise ArgumentError(f"out is {str(out)!r}, but {nearest} is a file: give a folder.")
        with tempfile.TemporaryFile(dir=nearest):
            pass


def check_folder(out: Path, names: Collection[str]) -> None:
    """Raise, before anything is computed, if `out` cannot be written to or contains files other than `names`."""
    check_writable(out)
    with explain_write_errors(out):
        others = sorted({path.name for path in out.iterdir()} - set(names)) if out.exists() else []
    if others:
        raise ArgumentError(f"out is {str(out)!r}, which contains {others[0]!r}: choose another folder.")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty temporary folder next to `out` for writing; at the end it replaces `out`."""
    out = out.resolve()
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    former = out.with_name(f".{out.name}.{os.getpid()}.former")
    with explain_write_errors(out):
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
    """Yield a temporary path for each of the files `finals`; at the end, move all files into place."""
    partials = [path.with_name(f".{os.getpid()}.{path.name}") for path in finals]
    with explain_write_errors(finals[0]):
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
def explain_write_errors(out: Path) -> Iterator[None]:
    """Turn an OSError into an ArgumentError about `out`."""
    try:
        yield
    except OSError as error:
        raise ArgumentError(
            f"out is {str(out)!r}, which cannot be written to ({error.strerror or error}): choose another path."
        ) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to a JSON file; NumPy values become Python values, and non-finite numbers become null."""
    text = json.dumps(_json_value(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _json_value(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
