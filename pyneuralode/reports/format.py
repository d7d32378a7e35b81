"""Formatting of numbers for the reader, with four significant digits."""

from __future__ import annotations


def number(value: float, trim: bool = False) -> str:
    """Return `value` with four significant digits, such as 0.01124, 13.43 or 1.970e-4.

    Values of type int are counts and are written in full, in groups of three digits. With `trim`, trailing zeros
    are dropped, so that a published 0.0173 does not look more precise than it is.
    """
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.3e}".split("e")
    power = int(exponent)
    if -3 <= power < 6:
        text = f"{float(f'{value:.3e}'):.{max(0, 3 - power)}f}"
        return text.rstrip("0").rstrip(".") if trim and "." in text else text
    if trim:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{power}"
