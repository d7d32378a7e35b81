"""Checks of arguments, with error messages of the form "name is value: give ...".

Numbers are read strictly: text, dates and booleans are rejected, although NumPy and float() would convert them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ArgumentError, first_line, kind_of, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

# Remedies for values that NumPy would silently convert to floats, by the kind of their dtype.
_REMEDIES = {
    "c": "split it into real and imaginary parts",
    "b": "write {name}.astype(float) if 0 and 1 are meant",
    "M": "give numbers, such as the days since the first date",
    "m": "give numbers, such as {name} / np.timedelta64(1, 'D')",
    "O": "convert it to real numbers, as in {name}.astype(float)",
}


def checked(check: Callable[..., Any], default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """Return a field for a `Checked` dataclass; its value is replaced by ``check(name, value, **options)``."""
    return dataclasses.field(default=default, metadata={"check": functools.partial(check, **options)})


class Checked:
    """Base class of frozen dataclasses that check their values on creation."""

    def __post_init__(self):
        for setting in dataclasses.fields(self):
            if check := setting.metadata.get("check"):
                object.__setattr__(self, setting.name, check(setting.name, getattr(self, setting.name)))


def whole_number(name: str, value: Any, least: int = 1, example: int | None = None) -> int:
    """Return `value` as an int >= `least`; 1e3 is accepted, but True, "3" and 2.5 are not."""
    number = _plain(value)
    if _is_finite(number) and number == int(number) and number >= least:
        return int(number)
    such = "" if example is None else f", such as {example}"
    wanted = "a positive integer" if least == 1 else f"an integer >= {least}"
    raise ArgumentError(f"{name} is {number!r}: give {wanted}{such}.")


def real_number(name: str, value: Any, remedy: str = "give a finite number") -> float:
    """Return `value` as a finite float; True and "3" are rejected."""
    number = _plain(value)
    if _is_finite(number):
        return float(number)
    raise ArgumentError(f"{name} is {number!r}: {remedy}.")


def positive_number(name: str, value: Any, remedy: str = "give a positive number, such as 1.0") -> float:
    """Return `value` as a finite, positive float."""
    number = real_number(name, value, remedy)
    if number > 0:
        return number
    raise ArgumentError(f"{name} is {number}: {remedy}.")


def nonnegative_number(name: str, value: Any, remedy: str = "give a nonnegative number, such as 1.0") -> float:
    """Return `value` as a finite, nonnegative float."""
    number = real_number(name, value, remedy)
    if number >= 0:
        return number
    raise ArgumentError(f"{name} is {number}: {remedy}.")


def whole_numbers(name: str, values: Any, remedy: str) -> tuple[int, ...]:
    """Return `values`, a sequence of positive integers, as a tuple of ints."""
    try:
        return tuple(whole_number(name, value) for value in values)
    except (TypeError, ArgumentError):
        raise ArgumentError(f"{name} is {values!r}: {remedy}.") from None


def known_name(name: str, value: Any, known: Iterable[str], aliases: Mapping[str, str] | None = None) -> str:
    """Return the name in `known` (all lowercase) that equals `value` or has it as an alias, ignoring case."""
    spelled = str(value).lower()
    spelled = (aliases or {}).get(spelled, spelled)
    if spelled in known:
        return spelled
    raise unknown_name(name, value, known)


def real_array(name: str, value: Any) -> np.ndarray:
    """Return `value`, an array, a table or nested lists, as a float32 or float64 array; other dtypes become float64."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ArgumentError(f"{name} is a masked array with masked values: write {name}.filled(np.nan).")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            f"{name} is {kind_of(value)}, not an array ({first_line(error)}): give real numbers."
        ) from None
    if array.dtype.kind in "fiu":
        return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    remedy = _REMEDIES.get(array.dtype.kind, "give real numbers").format(name=name)
    raise ArgumentError(f"{name} has dtype {array.dtype}, which is not a real numeric type: {remedy}.")


def real_tensor(name: str, value: Any, **kind: Any) -> Tensor:
    """Return `value` as a tensor of the given dtype and device; anything `real_array` accepts is copied."""
    import torch  # imported here, because fields and data sets do not need torch

    if not isinstance(value, torch.Tensor):
        return torch.from_numpy(np.array(real_array(name, value))).to(**kind)
    if value.is_complex() or value.dtype == torch.bool:
        remedy = _REMEDIES["c"] if value.is_complex() else f"write {name}.double() if 0 and 1 are meant"
        raise ArgumentError(f"{name} has dtype {value.dtype}, which is not a real numeric type: {remedy}.")
    return value.to(**kind)


def _plain(value: Any) -> Any:
    """Return the number in a NumPy scalar or in an array or tensor of shape (); return any other value as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _is_finite(value: Any) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int too large for a float
        return False
