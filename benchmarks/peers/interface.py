"""The input and output of the peers' scripts; needs only NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ProblemData:
    """A problem as arrays and settings, which are the same for every library.

    Attributes
    ----------
    arrays : dict of str to array
        Initial states, times, data, parameters.
    settings : dict
        JSON values: `rtol`, `atol`, `dtype`, the field; `parameters` lists the arrays with respect to which the loss is
        differentiated.
    reference_settings : dict
        Changes to the settings for the reference solve; not written to the file.
    """

    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    reference_settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> ProblemData:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return cls(arrays, json.loads(str(arrays.pop("settings"))))

    def write(self, path: str | Path) -> None:
        np.savez(path, settings=np.array(json.dumps(self.settings)), **self.arrays)

    def with_settings(self, changes: dict[str, Any]) -> ProblemData:
        return replace(self, settings={**self.settings, **changes})

    @property
    def tolerances(self) -> dict[str, float]:
        return {name: self.settings[name] for name in ("rtol", "atol")}

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the arrays with respect to which the loss is differentiated."""
        return {name: self.arrays[name] for name in self.settings.get("parameters", ())}


@dataclass(frozen=True)
class Result:
    """States (..., components), gradient by parameter, and counts (dtype, accepted, rejected, evaluations, path)."""

    states: Any
    gradient: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A problem prepared for timing.

    Attributes
    ----------
    iterate : callable
        Runs one iteration, and returns when it is complete; only this is timed.
    result : callable
        Solves once more and returns the `Result`.
    """

    iterate: Callable[[], Any]
    result: Callable[[], Result]
