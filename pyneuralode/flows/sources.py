"""Sources that a flow can be fitted to: rows of data, new points from a sampler, or a log density."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import real_array
from ..errors import ArgumentError, DataError


class DataSource:
    """Rows of data (n, d), drawn with replacement, or all rows if they fit in one batch."""

    name = "data"

    def __init__(self, data: Any, dim: int):
        values = real_array("data", data.detach().cpu() if isinstance(data, Tensor) else data)
        if values.ndim != 2 or values.shape[1] != dim:
            raise DataError(f"data has shape {values.shape}: use shape (n, {dim}), one row for each point.")
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
            raise DataError(f"data contains a non-finite number in row {row}: remove that row.")
        if len(values) <= dim:
            raise DataError(f"data has {len(values)} points of dimension {dim}: give at least {dim + 1} points.")
        self.values = values
        digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        self.identity = f"data {digest}"

    def __call__(self, n: int, rng: np.random.Generator) -> np.ndarray:
        if len(self.values) <= n:
            return self.values
        return self.values[rng.integers(len(self.values), size=n)]


class SamplerSource:
    """New points from a sampler, whose shape is checked."""

    name = "sampler"

    def __init__(self, sampler: Callable[[int, np.random.Generator], Any], dim: int):
        _require_callable("sampler", sampler, "(n, rng)")
        self.sampler, self.dim = sampler, dim
        self.identity = f"sampler {_name_of(sampler)}"

    def __call__(self, n: int, rng: np.random.Generator) -> Any:
        points = self.sampler(n, rng)
        if tuple(np.shape(points)) != (n, self.dim):
            raise DataError(f"sampler returned shape {np.shape(points)}: return points of shape ({n}, {self.dim}).")
        return points


class LogDensitySource:
    """A log density, whose values are checked."""

    def __init__(self, log_density: Callable[[Tensor], Tensor]):
        _require_callable("log_density", log_density, "(x)")
        self.log_density = log_density
        self.identity = f"log density {_name_of(log_density)}"

    def __call__(self, x: Tensor) -> Tensor:
        values = self.log_density(x)
        if not isinstance(values, torch.Tensor) or values.shape != x.shape[:1]:
            got = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise ArgumentError(
                f"log_density returned {got}: return a tensor of shape ({len(x)},), computed with torch operations."
            )
        return values


def make_source(data: Any, sampler: Any, log_density: Any, dim: int) -> DataSource | SamplerSource | LogDensitySource:
    """Return the given source; raises ArgumentError unless exactly one is given."""
    given = [n for n, v in (("data", data), ("sampler", sampler), ("log_density", log_density)) if v is not None]
    if len(given) != 1:
        found = (
            f"{' and '.join(given)} are given together" if given else "none of data, sampler and log_density is given"
        )
        raise ArgumentError(f"{found}: give exactly one of the three.")
    if data is not None:
        return DataSource(data, dim)
    return SamplerSource(sampler, dim) if sampler is not None else LogDensitySource(log_density)


def _require_callable(name: str, value: Any, arguments: str) -> None:
    if not callable(value):
        raise ArgumentError(f"{name} is of type {type(value).__name__}: give a function of {arguments}.")


def _name_of(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
