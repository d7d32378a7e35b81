"""What a contender is given and what it hands back; NumPy is all that is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Arrays by name, and settings such as the tolerances; the same for every library."""

    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]

    @classmethod
    def read(cls, path: str) -> Problem:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return cls(arrays, json.loads(str(arrays.pop("settings"))))

    def with_settings(self, changes: dict[str, Any]) -> Problem:
        return replace(self, settings={**self.settings, **changes})

    @property
    def tolerances(self) -> dict[str, float]:
        return {name: self.settings[name] for name in ("rtol", "atol")}

    def parameters(self) -> dict[str, np.ndarray]:
        """The arrays with respect to which the gradient is wanted."""
        return {name: self.arrays[name] for name in self.settings.get("parameters", ())}


@dataclass(frozen=True)
class Found:
    """States (..., components), gradient by parameter, and counts (dtype, accepted, rejected, evaluations, path)."""

    states: Any
    gradient: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A problem made ready: `iterate()` is what is timed, complete when it returns; `found()` says what comes out."""

    iterate: Callable[[], Any]
    found: Callable[[], Found]
