"""`pyneuralode solve`: solve a saved model at given times, and write a table and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import ArgumentError, ModelFileError, kind_of
from ..files import whole_files
from ..fitting.trajectory_loss import states_at
from ..model_files import load
from ..models import NeuralODE
from ..plotting.fits import solution_columns
from .description import DESCRIPTION, MODEL, Description


@dataclass(frozen=True)
class SolutionTable:
    """States (T, k) of the named columns at times (T,); `time` names the time column.

    States after `end`, the last fitted time, are a forecast; `end` is infinite if the initial state is not the fitted
    one.
    """

    time: str
    columns: tuple[str, ...]
    ts: np.ndarray
    states: np.ndarray
    end: float = np.inf


def solve_saved(path: Path, times: np.ndarray | None, y0: list[float] | None) -> SolutionTable:
    """Solve a saved model.

    Parameters
    ----------
    path : path
        A saved model, or the folder of a fit.
    times : (T,), optional
        Increasing times; by default 201 times over the fitted span.
    y0 : k numbers, optional
        State at the first time. By default, the solve starts from the fitted state at the first fitted time.

    Raises
    ------
    ModelFileError, ArgumentError, SolverError
    """
    path = path / MODEL if path.is_dir() else path
    model = load(path)
    if not isinstance(model, NeuralODE):
        raise ModelFileError(f"{path} contains {kind_of(model)}, not a NeuralODE: choose a saved NeuralODE.")
    beside = path.with_name(DESCRIPTION)
    dim = model.field.dim - getattr(model, "augment_dim", 0)
    if beside.is_file():
        about = Description.load(beside)
        if not len(about.columns) == len(about.y0) == dim:
            raise ModelFileError(f"{beside} does not match the model in {path}: keep the two files of a fit together.")
    elif times is None or y0 is None:
        lacking = "times" if times is None else "y0"
        raise ArgumentError(f"{lacking} is not given and {beside} does not exist: give --y0 1,0 and --times 0:10:101.")
    else:
        names = getattr(model.field, "components", [f"y{i}" for i in range(1, dim + 1)])
        about = Description("t", tuple(names[:dim]), times[0], times[-1], tuple(y0))
    if times is None:
        times = np.linspace(about.t0, about.t1, 201)
    if y0 is None and times[0] < about.t0:
        raise ArgumentError(
            f"times begins with {times[0]:g}, before the fitted initial state at {about.t0:g}: begin at that time or "
            f"later, or give --y0, the state at {times[0]:g}."
        )
    if y0 is not None and len(y0) != dim:
        raise ArgumentError(
            f"y0 has {len(y0)} numbers, but the model has {dim} columns: give one number for each "
            f"({', '.join(about.columns)})."
        )
    start, state = (about.t0, about.y0) if y0 is None else (times[0], y0)
    states = states_at(model, np.array(state, dtype=float), times, start)
    return SolutionTable(about.time, about.columns, times, states[:, :dim], about.t1 if y0 is None else np.inf)


def write_solution(out: Path, table: SolutionTable) -> tuple[Path, Path]:
    """Write OUT.csv and OUT.png, or solution.csv and solution.png in a folder; return the two paths."""
    final = out if out.suffix.lower() == ".csv" else out / "solution.csv"
    picture = final.with_suffix(".png")
    figure = solution_columns(table.ts, table.states, table.columns, table.time, table.end)
    with whole_files(final, picture) as (csv_path, png_path):
        rows = pd.DataFrame(np.column_stack([table.ts, table.states]), columns=[table.time, *table.columns])
        rows.to_csv(csv_path, index=False, lineterminator="\n", na_rep="nan")
        figure.savefig(png_path, dpi=150)
    return final, picture
