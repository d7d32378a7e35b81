"""The description stored with the model of a saved fit: the column names, the initial state and the fitted times."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import ModelFileError
from ..files import write_json

FORMAT = 1
MODEL, DESCRIPTION = "model.safetensors", "fit.json"


@dataclass(frozen=True)
class Description:
    """Names of the time column and of the k value columns, first and last fitted time, and the state (k,) at `t0`."""

    time: str
    columns: tuple[str, ...]
    t0: float
    t1: float
    y0: tuple[float, ...]

    def save(self, path: Path) -> None:
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Description:
        """Read a file that `save` wrote; raises ModelFileError if it is damaged or has a newer format."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = int(values["format"])
            if version <= FORMAT:
                y0 = tuple(float(value) for value in values["y0"])
                names = tuple(str(name) for name in values["columns"])
                return cls(str(values["time"]), names, float(values["t0"]), float(values["t1"]), y0)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise ModelFileError(
                f"{path} is damaged or does not describe a fit: fit again, or remove it and give --y0 and --times."
            ) from None
        raise ModelFileError(
            f"{path} has format {version}, but this version reads formats up to {FORMAT}: update pyneuralode."
        )
