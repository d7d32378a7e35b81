"""Generation of julia/src/tableaus.jl from `pyneuralode.tableaus`, so that both engines use the same coefficients.

``python -m pyneuralode.engines.julia_engine.tableaus`` rewrites the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...tableaus import TABLEAUS, Tableau

TARGET = Path(__file__).parents[3] / "julia" / "src" / "tableaus.jl"

_HEAD = """\
# Written by `python -m pyneuralode.engines.julia_engine.tableaus` from pyneuralode/tableaus: change those files, then run
# the command again.

const TABLEAUS = Dict(tableau.name => tableau for tableau in (
"""


def julia_source() -> str:
    """Return the text of julia/src/tableaus.jl, which defines TABLEAUS: a Dict from names to objects of type `Tableau`.

    The type is defined in julia/src/discrete/steps.jl.
    """
    return _HEAD + "".join(_entry(tableau) for tableau in TABLEAUS.values()) + "))\n"


def _entry(tableau: Tableau) -> str:
    stages, all_stages = tableau.stages, len(tableau.interpolant)
    rows = np.zeros((all_stages, all_stages))
    rows[:stages, :stages] = tableau.A
    if tableau.extra_A is not None:
        rows[stages:] = tableau.extra_A
    ends = np.vstack([tableau.b] if tableau.error is None else [tableau.b, tableau.error])
    end_stage = 0 if tableau.end_stage is None else tableau.end_stage + 1
    numbers = f"{tableau.order}, {tableau.error_order or 0}, {stages}, {end_stage}"
    parts = ",\n".join(_matrix(matrix) for matrix in (rows.T, ends.T, tableau.interpolant))
    return f'    # {tableau.source}\n    Tableau("{tableau.name}", {numbers},\n{parts}),\n'


def _matrix(matrix: np.ndarray) -> str:
    rows = [" ".join(_number(x) for x in row) for row in matrix]
    return "        [" + ";\n         ".join(rows) + (";;]" if matrix.shape[1] == 1 else "]")


def _number(x: float) -> str:
    return "0" if x == 0 else repr(float(x))


if __name__ == "__main__":
    TARGET.write_text(julia_source(), encoding="utf-8")
