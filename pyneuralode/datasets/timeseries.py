"""A user's time series, read from a CSV file with one column of times and columns of values."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError, unknown_name

_MISSING = {"", "na", "n/a", "nan", "null"}


@dataclass(frozen=True)
class TimeSeries:
    """Values over time.

    Attributes
    ----------
    time : str
        Name of the time column.
    columns : tuple of str
        Names of the k value columns.
    ts : (T,)
        Increasing times.
    values : (T, k)
        Values, NaN where missing.
    """

    time: str
    columns: tuple[str, ...]
    ts: np.ndarray
    values: np.ndarray


def read_timeseries(path: str | Path, *, time: str | None = None, columns: Sequence[str] | None = None) -> TimeSeries:
    """Read a time series from a CSV file whose first line names the columns.

    Commas, semicolons or tabs separate the cells. An empty cell, NaN, NA or null is a missing value.

    Parameters
    ----------
    path : path
    time : str, optional
        Name of the time column; by default the first column.
    columns : sequence of str, optional
        Names of the value columns; by default, all except the time column.

    Returns
    -------
    TimeSeries
        At least two rows; rows without any value are left out.

    Raises
    ------
    DataError
        If the file is missing, empty or not a table, if a column is missing, if a requested column contains anything
        other than numbers or no number at all, or if the times do not increase.
    """
    path = Path(path)
    lines = _lines(path)
    names = [name.strip() for name in next(lines)[1]]
    time, columns = _choose(path, names, time, columns)
    places = [names.index(name) for name in (time, *columns)]
    rows: list[list[float]] = []
    for line, cells in lines:
        if len(cells) != len(names):
            raise DataError(
                f"{path} has {len(cells)} cells in line {line}, but {len(names)} columns: give one cell per column."
            )
        row = [_number(path, names[place], line, cells[place]) for place in places]
        _check_time(path, time, line, row[0], rows[-1][0] if rows else -math.inf)
        rows.append(row)
    if not rows:
        raise DataError(f"{path} has no row of numbers: give at least two rows.")
    table = np.array(rows)
    missing = np.isnan(table[:, 1:])
    for name, gone in zip(columns, missing.all(axis=0)):
        if gone:
            raise DataError(f"column {name!r} of {path} contains no number: leave the column out, or add values.")
    table = table[~missing.all(axis=1)]
    if len(table) == 1:
        raise DataError(f"{path} has only one row with a value: give at least two such rows.")
    return TimeSeries(time, columns, table[:, 0], table[:, 1:])


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of every nonblank line; raise DataError if there is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next((line for line in file if line.strip()), "")
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count), strict=True)
            blank = True
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    blank = False
                    yield reader.line_num, cells
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): give the path of a CSV file.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file ({error}): give a text file in UTF-8.") from None
    if blank:
        raise DataError(f"{path} is empty: give a CSV file whose first line names the columns.")


def _choose(
    path: Path, names: list[str], time: str | None, columns: Sequence[str] | None
) -> tuple[str, tuple[str, ...]]:
    """Return the names of the time column and of the value columns."""
    if all(_is_number(name) for name in names):
        raise DataError(f"{path} begins with the number {names[0]}: put the names of the columns in the first line.")
    time = names[0] if time is None else time
    columns = tuple(name for name in names if name != time) if columns is None else tuple(columns)
    for name in (time, *columns):
        if name not in names:
            raise DataError(str(unknown_name(f"a column of {path}", name, names)))
        if names.count(name) > 1:
            raise DataError(f"{path} has more than one column {name!r}: give each column a different name.")
        if (time, *columns).count(name) > 1:
            raise DataError(
                f"column {name!r} of {path} is chosen twice: choose each column once, and not the time column."
            )
    if not columns:
        raise DataError(f"{path} has only the column {time!r}: add at least one column of values.")
    return time, columns


def _number(path: Path, column: str, line: int, cell: str) -> float:
    if cell.strip().lower() in _MISSING:
        return math.nan
    if not _is_number(cell):
        raise DataError(
            f"column {column!r} of {path} contains {cell.strip()!r} in line {line}: write a finite number "
            "there, or choose other columns."
        )
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        return "_" not in cell and math.isfinite(float(cell))  # reject 1_000, which Python accepts as a number
    except ValueError:
        return False


def _check_time(path: Path, name: str, line: int, now: float, before: float) -> None:
    if math.isnan(now):
        raise DataError(f"column {name!r} of {path} has no time in line {line}: add it, or remove the line.")
    if now <= before:
        wrong = "a second time" if now == before else f"after {before:g}"
        raise DataError(
            f"column {name!r} of {path} has the time {now:g} in line {line} {wrong}: sort the lines by time "
            "and give each time once."
        )
