"""The page of results: one HTML file, self-contained except for the figures. The template is ``page.html.j2``."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .format import number
from .store import PAGE_MARK

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def render(results: list[dict[str, Any]]) -> str:
    """Return the page for results from `store.read_results`, in the same order."""
    loader = PackageLoader("pyneuralode", "reports")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": _cell, "duration": _duration, "numeric_columns": _numeric_columns}
    environment.tests["better"] = _is_better
    return environment.get_template("page.html.j2").render(results=results, page_mark=PAGE_MARK)


def _is_better(row: dict[str, Any]) -> bool:
    """Return whether our number is strictly better than the published one."""
    ours, theirs = row["ours"], row["theirs"]
    sign = {"lower": -1, "higher": 1, "match": 0}[row["better"]]
    return None not in (ours, theirs) and sign * (ours - theirs) > 0


def _numeric_columns(table: dict[str, Any]) -> list[int]:
    """Return the indices of a table's columns that contain only numbers; these are right-aligned."""
    return [
        column
        for column in range(len(table["columns"]))
        if all(isinstance(cells[column], (int, float, type(None))) for cells in table["rows"])
    ]


def _cell(value: object, trim: bool = False) -> str:
    """Return the text of a cell; a number has a typographic minus sign and power of ten."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    text = re.sub(r"e(-?\d+)$", lambda power: "×10" + power[1].translate(_SUPERSCRIPTS), number(value, trim))
    return text.replace("-", "−")


def _duration(seconds: float) -> str:
    """Return a duration as text, with no-break spaces."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if seconds < 60:
        words = f"{_cell(float(seconds), trim=True)} s"
    else:
        words = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
    return words.replace(" ", "\N{NO-BREAK SPACE}")
