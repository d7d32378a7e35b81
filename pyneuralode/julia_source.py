"""Julia source that users hand in: text, a file, or the name of an object in a Julia package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ArgumentError, kind_of


def read_source(name: str, value: Any) -> str:
    """Return Julia source as text; `value` is the text itself, a `Path`, or the name of a file that ends in ".jl"."""
    if not isinstance(value, (str, Path)):
        raise ArgumentError(f"{name} is {kind_of(value)}, not Julia source: give a string, or the path of a .jl file.")
    if isinstance(value, str) and ("\n" in value or not value.endswith(".jl")):
        if not value.strip():
            raise ArgumentError(
                f"{name} is empty: give Julia source, such as 'Chain(Dense(2 => 8, tanh), Dense(8 => 2))'."
            )
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ArgumentError(
            f"{name} is {str(value)!r}, which cannot be read ({reason}): give an existing file."
        ) from None


def without_source(name: str, source: str) -> dict[str, str]:
    """Return what a model file contains in place of Julia source: a name, and the SHA-256 of the source."""
    return {"name": name, "sha256": hashlib.sha256(source.encode()).hexdigest()}


def call_without_source(source: str) -> dict[str, str]:
    """Return what a model file contains in place of a call in Julia, under the name of the function that is called."""
    return without_source(source.partition("(")[0].strip(), source)


def find_source(saved: Mapping[str, str], sources: Mapping[str, Any], path: Any) -> str:
    """Return the source that `sources` gives for an entry of the model file `path` written by `without_source`.

    Raises ArgumentError if there is no source of that name, or if it is not the source that was saved.
    """
    name = saved["name"]
    if name not in sources:
        raise ArgumentError(
            f"julia is missing {name!r}, whose Julia source is not in {path}: use load(path, julia={{{name!r}: source}})."
        )
    source = read_source(f"julia[{name!r}]", sources[name])
    if without_source(name, source)["sha256"] != saved["sha256"]:
        raise ArgumentError(
            f"julia[{name!r}] is not the source with which the model in {path} was saved: give that source, unchanged."
        )
    return source


def is_call(name: Any) -> bool:
    """Return whether the name of a solver or gradient method is a call in Julia, such as "QNDF(autodiff=false)"."""
    return isinstance(name, str) and "(" in name
