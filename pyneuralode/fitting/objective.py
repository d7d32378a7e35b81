"""The loss of a prediction against data: weighted squared errors of the observed components."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import real_array, real_tensor, whole_number
from ..errors import ArgumentError, DataError, unknown_name

REDUCTIONS = ("sum", "mean")


class Objective:
    """Time-series data, and the loss of a prediction against them.

    Parameters
    ----------
    ts : (T,)
        Times of the data, increasing, in the model's unit of time.
    data : (T,) or (T, ..., k)
        Values of the k observed components, in their units. If the data are a table, the diagnosis of a fit uses its
        column names.
    observed : sequence of int, optional
        Indices of the observed components in the state, by default 0 to k - 1.
    observe : callable, optional
        ``observe(ts, ys, parameters)`` -> (T,) or (T, ..., k), a function of the states (T, ..., d) whose values are
        compared with the data in place of `observed` components.
    weights : array, optional
        Weight of each squared error: one for each row if the shape is (T,); other shapes broadcast to that of the data.
    mask : "nan" or boolean array, optional
        Which values to include: an array with the shape of the data or (T,), True where a value is included; "nan"
        skips NaN.
    reduction : {"sum", "mean"}
        Sum or weighted mean of the squared errors.
    dtype, device
        Dtype and device of the computation.

    Raises
    ------
    DataError
        If the data are empty, not increasing in time, or not finite where they are included.
    ArgumentError
        If another argument is invalid.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode.fitting.objective import Objective
    >>> objective = Objective([0.0, 1.0], [2.0, 5.0], weights=[1.0, 0.5])
    >>> objective.loss(torch.tensor([[1.0], [3.0]], dtype=torch.float64)).item()
    3.0
    """

    def __init__(
        self,
        ts: Any,
        data: Any,
        *,
        observed: Sequence[int] | None = None,
        observe: Callable | None = None,
        weights: Any = None,
        mask: Any = None,
        reduction: str = "sum",
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        if reduction not in REDUCTIONS:
            raise unknown_name("reduction", reduction, REDUCTIONS)
        if observed is not None and observe is not None:
            raise ArgumentError("observed and observe are both given: give only one of them.")
        self.ts = np.array(real_array("ts", ts.detach().cpu() if isinstance(ts, Tensor) else ts), dtype=float)
        values = real_tensor("data", data, dtype=dtype, device=device).detach()
        if values.ndim == 1:
            values = values[:, None]
        names = getattr(data, "columns", [f"column {k + 1}" for k in range(values.shape[-1])])
        self.names = tuple(map(str, names))
        if self.ts.ndim != 1 or len(self.ts) != len(values):
            raise DataError(
                f"data has {len(values)} rows, but ts has shape {self.ts.shape}: give one time for each row."
            )
        if len(self.ts) == 0:
            raise DataError("data is empty: give at least one row.")
        if not np.isfinite(self.ts).all() or (np.diff(self.ts) <= 0).any():
            raise DataError("ts is not increasing or not finite: sort the data by time, and use each time only once.")
        self.data, counted = _masked(values, mask)
        self.weights = counted.to(dtype) if weights is None else _weighted(counted.to(dtype), weights)
        columns = values.shape[-1]
        self.observed = list(range(columns)) if observed is None else _components(observed)
        first, count = min(self.observed, default=0), len(self.observed)
        side_by_side = self.observed == list(range(first, first + count))
        self.columns = slice(first, first + count) if side_by_side else self.observed  # indexing with a slice is faster
        if observe is None and count != columns:
            raise ArgumentError(
                f"observed has {count} entries, but data has {columns} columns: give one index for each column."
            )
        self.observe, self.reduction = observe, reduction

    def digest(self) -> str:
        """Return a fingerprint of times, data and weights."""
        parts = (self.ts, self.data.cpu().numpy(), self.weights.cpu().numpy())
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    def rows(self, end: float | None) -> int:
        """Return the number of rows at or before time `end`, or of all rows if `end` is None."""
        return len(self.ts) if end is None else int(np.searchsorted(self.ts, end, side="right"))

    def predict(self, ts: Tensor, ys: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """Return the values (T, ..., k) to compare with the data, computed from states ys (T, ..., d)."""
        if self.observe is not None:
            prediction = self.observe(ts, ys, parameters)
            return prediction[:, None] if prediction.ndim == 1 else prediction
        if max(self.observed) >= ys.shape[-1] or min(self.observed) < 0:
            raise ArgumentError(
                f"observed is {self.observed}: give indices of state components, from 0 to {ys.shape[-1] - 1}."
            )
        return ys[..., self.columns]

    def loss(self, prediction: Tensor) -> Tensor:
        """Return the loss, of shape (), of a prediction (rows, ..., k) for the first rows of the data."""
        rows = len(prediction)
        data, weights = self.data[:rows], self.weights[:rows]
        if prediction.shape != data.shape:
            shapes = f"the prediction has shape {tuple(prediction.shape)}, but data has shape {tuple(data.shape)}"
            raise ArgumentError(f"{shapes}: use data of shape (T, ..., k) for states (T, ..., d).")
        total = (weights * (prediction - data) ** 2).sum()
        return total if self.reduction == "sum" else total / weights.sum()


def _weighted(counted: Tensor, weights: Any) -> Tensor:
    """Return the weight of every value: the given weight, or 0 where `counted` is 0 because the value is masked."""
    weights = real_tensor("weights", weights, dtype=counted.dtype, device=counted.device).detach()
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ArgumentError("weights contains a negative or non-finite number: give nonnegative, finite numbers.")
    try:
        counted = counted * (_by_row(weights, counted) if weights.ndim == 1 else weights.expand_as(counted))
    except RuntimeError:
        shapes = f"weights has shape {tuple(weights.shape)}, but data has shape {tuple(counted.shape)}"
        raise ArgumentError(f"{shapes}: give one weight for each row, or use a shape that broadcasts.") from None
    if not bool(counted.any()):
        raise ArgumentError("weights is 0 for every unmasked value: give at least one of them a positive weight.")
    return counted


def _by_row(values: Tensor, data: Tensor) -> Tensor:
    """Broadcast `values`, one for each row, to the shape of the data."""
    return values.reshape(-1, *[1] * (data.ndim - 1)).expand_as(data)


def _components(observed: Any) -> list[int]:
    """Return the indices of the observed components as a list; a boolean mask is rejected."""
    try:
        return [whole_number("observed", i, 0) for i in np.atleast_1d(observed)]
    except ArgumentError:
        raise ArgumentError(
            f"observed is {observed!r}: give component indices, counted from 0, such as [0, 2]."
        ) from None


def _boolean_mask(mask: Any) -> np.ndarray:
    """Return a mask as booleans; it may also contain zeros and ones."""
    array = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ArgumentError(
            f"mask contains values other than True and False (its dtype is {array.dtype}): use only these two."
        )
    return array.astype(bool)


def _masked(values: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    """Return the values, with masked ones set to zero, and a mask that is True for the included ones."""
    finite = torch.isfinite(values)
    if isinstance(mask, str):
        if mask != "nan":
            raise unknown_name("mask", mask, ["nan"])
        counted = ~torch.isnan(values)
    elif mask is None:
        counted = torch.ones_like(finite)
    else:
        counted = torch.as_tensor(_boolean_mask(mask), device=values.device)
        if counted.shape == values.shape[:1]:  # one entry for each row
            counted = _by_row(counted, values)
        if counted.shape != values.shape:
            raise ArgumentError(f"mask has shape {tuple(counted.shape)}: use the shape of data, {tuple(values.shape)}.")
    if bool((counted & ~finite).any()):
        row = int((counted & ~finite).flatten(1).any(1).nonzero()[0])
        raise DataError(
            f"data contains a non-finite number in row {row}: remove the row, or use mask='nan' to skip NaN."
        )
    if not bool(counted.any()):
        raise DataError("data contains no unmasked value: leave at least one value unmasked.")
    return values.masked_fill(~counted, 0.0), counted
