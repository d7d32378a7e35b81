"""Parsers for options that contain a list of numbers or times."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from ..errors import ArgumentError

Number = TypeVar("Number", int, float)


def parse_numbers(option: str, text: str, kind: Callable[[str], Number], example: str) -> list[Number]:
    """Return the numbers in a text such as ``"1,2.5"``; `option` and `example` are for the error message."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not np.isfinite(numbers).all():
        raise ArgumentError(f"{option} is {text!r}: give comma-separated numbers, such as {example}.")
    return numbers


def parse_times(text: str) -> np.ndarray:
    """Return the increasing times given by ``"first:last:count"`` or a list such as ``"0,1,2.5"``."""
    example = "0:10:101 (first, last, count) or 0,1,2.5"
    if ":" in text:
        try:
            first, last, count = text.split(":")
            times = np.linspace(float(first), float(last), int(count))
        except ValueError:
            raise ArgumentError(f"times is {text!r}: give {example}.") from None
    else:
        times = np.array(parse_numbers("times", text, float, example))
    if len(times) == 0 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ArgumentError(f"times is {text!r}, which is not increasing: give {example}.")
    return times
