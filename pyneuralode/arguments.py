"""Numbers as callers give them, read strictly: what merely can be converted (text, dates, truth values) is refused."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

# What NumPy would turn into floats without a word, by the kind of its dtype, and what to do instead.
_REMEDIES = {
    "c": "split it into real and imaginary parts",
    "b": "write {name}.astype(float) if 0 and 1 are meant",
    "M": "give numbers, such as the days since the first date",
    "m": "give numbers, such as {name} / np.timedelta64(1, 'D')",
    "O": "give real numbers, such as {name}.astype(float)",
}


def whole_number(name: str, value: Any, least: int = 1, example: int | None = None) -> int:
    """Return `value` as an int of at least `least`; 1e3 is a whole number, True, "3" and 2.5 are none."""
    number = _plain(value)
    if _is_finite(number) and number == int(number) and number >= least:
        return int(number)
    such = "" if example is None else f", such as {example}"
    wanted = "a positive whole number" if least == 1 else f"a whole number of at least {least}"
    raise ArgumentError(f"{name} is {number!r}: give {wanted}{such}.")


def real_number(name: str, value: Any, remedy: str = "give a finite number") -> float:
    """Return `value` as a finite float; True and "3" are none."""
    number = _plain(value)
    if _is_finite(number):
        return float(number)
    raise ArgumentError(f"{name} is {number!r}: {remedy}.")


def real_array(name: str, value: Any) -> np.ndarray:
    """Return `value`, an array, a table or nested lists, as float32 or float64; what is neither becomes float64."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ArgumentError(f"{name} is a masked array with hidden values: write {name}.filled(np.nan).")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        complaint = str(error).splitlines()[0].rstrip(".")
        kind = type(value).__name__
        raise ArgumentError(f"{name} is a {kind} and no array ({complaint}): give real numbers.") from None
    if array.dtype.kind in "fiu":
        return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    remedy = _REMEDIES.get(array.dtype.kind, "give real numbers").format(name=name)
    raise ArgumentError(f"{name} has dtype {array.dtype}, which is not of real numbers: {remedy}.")


def real_tensor(name: str, value: Any, **kind: Any) -> Tensor:
    """Return a tensor, or a copy of what `real_array` takes, as a tensor of the given dtype and device."""
    import torch  # here, so that fields and data sets do without it

    if not isinstance(value, torch.Tensor):
        return torch.from_numpy(np.array(real_array(name, value))).to(**kind)
    if value.is_complex() or value.dtype == torch.bool:
        remedy = _REMEDIES["c"] if value.is_complex() else f"write {name}.double() if 0 and 1 are meant"
        raise ArgumentError(f"{name} has dtype {value.dtype}, which is not of real numbers: {remedy}.")
    return value.to(**kind)


def _plain(value: Any) -> Any:
    """Return the number in a NumPy scalar or in an array or tensor of shape ()."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _is_finite(value: Any) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False
