"""The times of a compiled solve, read and checked once and cached for solves at the same times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ....problem import Control
from ....problem.values import check_times
from ..march import fixed_grid, stop_times

# The number of different time arrays that a prepared problem caches, such as the time spans of a fit.
MOST = 8


@dataclass(frozen=True)
class Times:
    """Output times as a float64 array (T,), the times at which steps must end, and whether the steps are adaptive."""

    ts: np.ndarray
    stops: np.ndarray
    adaptive: bool


class KnownTimes:
    """A cache of the checked times of solves with the same method and `Control`."""

    def __init__(self, tableau: Any, control: Control):
        self.tableau, self.control = tableau, control
        self._known: dict[bytes, Times] = {}

    def read(self, ts: Any) -> Times:
        """Return the times as `Times`; raise an error unless they are finite and strictly monotone."""
        array = ts.detach().cpu().numpy() if isinstance(ts, Tensor) else ts
        plain = isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype in (np.float64, np.float32)
        key = array.tobytes() + array.dtype.char.encode() if plain else None
        found = self._known.get(key) if plain else None
        if found is not None:
            return found
        found = self.plan(check_times(ts).detach().tolist())
        if plain:
            self._known = dict(list(self._known.items())[1 - MOST :]) | {key: found}
        return found

    def plan(self, times: list[float]) -> Times:
        """Return as `Times` times that are already checked, without caching them."""
        grid = fixed_grid(self.tableau, times, self.control)
        stops = stop_times(times, self.control) if grid is None else grid
        return Times(np.array(times), np.array(stops, dtype=float), grid is None)
