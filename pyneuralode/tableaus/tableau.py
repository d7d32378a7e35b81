"""`Tableau`: the coefficients of an explicit Runge-Kutta method, checked once when it is created."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from pyneuralode.errors import ArgumentError

# The tolerance for coefficients rounded to 17 digits, for all magnitudes that occur in common methods; the error from a
# mistyped digit is far larger.
ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class Tableau:
    """An explicit Runge-Kutta method.

    A step of size h ends at y0 + h sum_i b_i k_i with the stages k_i = f(t + c_i h, y0 + h sum_j A_ij k_j). Every array
    may be given as nested lists; it is stored as a read-only float64 array.

    Parameters
    ----------
    name : str
        Name of the method.
    order : int
        Order of the propagated solution.
    A : (s, s)
        Stage weights, strictly lower triangular.
    b : (s,)
        Weights of the solution.
    c : (s,), optional
        Stage times as fractions of the step; by default the row sums of A.
    error : (s,) or (m, s), optional
        Weights b - b_hat of the error estimate, where b_hat is the embedded solution. Two rows are DOP853's
        estimates e5 (row 0) and e3 (row 1), which combine to |h| e5^2 / sqrt(e5^2 + 0.01 e3^2). Without
        `error`, the method takes only fixed steps.
    error_order : int, optional
        Order q of the embedded solution; the step controller's exponent is 1 / (q + 1). The default is order - 1.
    extra_A, extra_c : (x, s + x) and (x,), optional
        Rows of extra stages that only the interpolant needs.
    interpolant : (s + x, p), optional
        Dense output y(t + theta h) = y0 + h sum_i b_i(theta) k_i with b_i(theta) = sum_q interpolant[i, q] theta^(q +
        1). The default is the cubic Hermite interpolant, for which a method that is not FSAL gets one extra stage, f at
        the end of the step.
    interpolant_order : int, optional
        Order of the dense output; required with `interpolant`, and otherwise not allowed.
    source : str
        The reference for the coefficients.

    Raises
    ------
    ArgumentError
        If the arrays have inconsistent shapes, do not describe an explicit and consistent method, or contain values
        that are not finite numbers.

    References
    ----------
    E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., 1993, II.1-II.6.

    Examples
    --------
    >>> from pyneuralode import Tableau
    >>> Tableau("Ralston", 2, A=[[0, 0], [2/3, 0]], b=[1/4, 3/4]).stages
    2
    """

    # As in a `Solver` of the catalog.
    kind: ClassVar[str] = "explicit"
    engines: ClassVar[tuple[str, ...]] = ("torch",)

    name: str
    order: int
    A: np.ndarray = field(repr=False)
    b: np.ndarray = field(repr=False)
    c: np.ndarray | None = field(default=None, repr=False)
    error: np.ndarray | None = field(default=None, repr=False)
    error_order: int | None = None
    extra_A: np.ndarray | None = field(default=None, repr=False)
    extra_c: np.ndarray | None = field(default=None, repr=False)
    interpolant: np.ndarray | None = field(default=None, repr=False)
    interpolant_order: int | None = None
    source: str = field(default="", repr=False)

    def __post_init__(self):
        _check_order("order", self.order, at_least=1)
        self._set_stages()
        self._set_error()
        if self.interpolant is None:
            self._set_hermite_interpolant()
        else:
            self._set_own_interpolant()

    @property
    def adaptive(self) -> bool:
        """Whether steps can be chosen from an error estimate."""
        return self.error is not None

    @property
    def stages(self) -> int:
        """Number of stages of a step, s; the extra stages of the interpolant are not included."""
        return len(self.b)

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is also the first stage of the next step ("first same as last")."""
        return bool(np.array_equal(self.A[-1], self.b) and abs(self.c[-1] - 1.0) < ROUNDING)

    @cached_property
    def end_stage(self) -> int | None:
        """Index of the stage that equals f at the end of the step and is the first stage of the next step, or None.

        It is s - 1 for an FSAL method, and s if the first extra stage has row b and time 1.
        """
        if self.fsal:
            return self.stages - 1
        if self.extra_A is None or not np.array_equal(self.extra_A[0, : self.stages], self.b):
            return None
        return self.stages if abs(self.extra_c[0] - 1.0) < ROUNDING else None

    def _set_stages(self):
        b = self._store("b", self.b, 1)
        s = len(b)
        if s == 0:
            raise ArgumentError("b is empty: give one weight per stage.")
        A = self._store("A", self.A, 2, (s, s))
        _check_earlier_stages_only("A", A, first=0)
        if abs(b.sum() - 1.0) > ROUNDING:
            raise ArgumentError(f"b sums to {b.sum():.12g}: give weights that sum to 1.")
        self._store_times("c", self.c, A)

    def _set_error(self):
        if self.error is None:
            if self.error_order is not None:
                raise ArgumentError(f"error_order is {self.error_order}, but error is missing: give error too.")
            return
        rows = np.atleast_2d(_numbers("error", self.error))
        error = self._store("error", rows, 2, (None, self.stages))
        if len(error) not in (1, 2):
            raise ArgumentError(f"error has {len(error)} rows: give one row of weights, or two as for DOP853.")
        for total in error.sum(axis=1):
            if abs(total) > ROUNDING:
                raise ArgumentError(f"error sums to {total:.12g}: give b - b_hat, whose sum is 0.")
        if self.error_order is None:
            object.__setattr__(self, "error_order", self.order - 1)
        _check_order("error_order", self.error_order, at_least=0)

    def _set_own_interpolant(self):
        _check_order("interpolant_order", self.interpolant_order, at_least=1)
        x = 0
        if self.extra_A is not None:
            x = len(_numbers("extra_A", self.extra_A, 2))
            extra_A = self._store("extra_A", self.extra_A, 2, (x, self.stages + x))
            _check_earlier_stages_only("extra_A", extra_A, first=self.stages)
            self._store_times("extra_c", self.extra_c, extra_A)
        elif self.extra_c is not None:
            raise ArgumentError("extra_c is given without extra_A: give extra_A too, the rows of the extra stages.")
        interpolant = self._store("interpolant", self.interpolant, 2, (self.stages + x, None))
        gap = np.abs(interpolant.sum(axis=1) - np.append(self.b, np.zeros(x))).max()
        if gap > ROUNDING:
            raise ArgumentError(
                f"interpolant differs from b by {gap:.3g} at theta = 1: give rows whose sums are the weights b, "
                "and 0 for extra stages."
            )

    def _set_hermite_interpolant(self):
        for label in ("extra_A", "extra_c", "interpolant_order"):
            if getattr(self, label) is not None:
                raise ArgumentError(f"{label} is given without interpolant: give both or neither.")
        weights = self.b
        if not self.fsal:
            weights = np.append(self.b, 0.0)
            self._store("extra_A", [weights], 2)
            self._store("extra_c", [1.0], 1)
        self._store("interpolant", hermite_interpolant(weights), 2)
        object.__setattr__(self, "interpolant_order", min(self.order, 3))

    def _store(self, label: str, value, ndim: int, shape: tuple[int | None, ...] = ()) -> np.ndarray:
        array = _numbers(label, value, ndim)
        if any(n not in (None, m) for n, m in zip(shape, array.shape)):
            wanted = " x ".join("any" if n is None else str(n) for n in shape)
            found = " x ".join(map(str, array.shape))
            raise ArgumentError(f"{label} has shape {found}: give {wanted}, since b has {self.stages} weights.")
        array.setflags(write=False)
        object.__setattr__(self, label, array)
        return array

    def _store_times(self, label: str, value, rows: np.ndarray):
        sums = rows.sum(axis=1)
        times = self._store(label, sums if value is None else value, 1, (len(rows),))
        wrong = np.flatnonzero(np.abs(times - sums) > ROUNDING)
        if wrong.size:
            i = wrong[0]
            raise ArgumentError(
                f"{label}[{i}] is {times[i]:.12g}, but the weights in that row sum to "
                f"{sums[i]:.12g}: omit {label} or give the row sums."
            )


def hermite_interpolant(weights: np.ndarray) -> np.ndarray:
    """Return the cubic Hermite interpolant of a step, in the form of `Tableau.interpolant`.

    Parameters
    ----------
    weights : (n,)
        Weights of the solution for all n stages. The first stage is f at the start of the step, the last one is f at
        its end.

    Returns
    -------
    (n, 3)

    References
    ----------
    Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.6, eq. (6.7).
    """
    interpolant = np.outer(weights, [0.0, 3.0, -2.0])
    interpolant[0] += [1.0, -2.0, 1.0]
    interpolant[-1] += [0.0, -1.0, 1.0]
    return interpolant


def table(text: str) -> np.ndarray:
    """Return the array written in `text`: rows end with semicolons, and short rows are padded with zeros on the right.

    Numbers are decimals or fractions without spaces, as in "0; 1/2; 0 3/4".
    """
    rows = [[_quotient(*number.split("/")) for number in row.split()] for row in text.split(";")]
    array = np.zeros((len(rows), max(map(len, rows))))
    for filled, row in zip(array, rows):
        filled[: len(row)] = row
    return array


def _quotient(numerator: str, denominator: str = "1") -> float:
    return float(numerator) / float(denominator)


def _numbers(label: str, value, ndim: int | None = None) -> np.ndarray:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(f"{label} is {value!r}: give numbers in rows of equal length.") from None
    if ndim is not None and array.ndim != ndim:
        raise ArgumentError(f"{label} is {array.ndim}-dimensional: give a {ndim}-dimensional array.")
    if not np.isfinite(array).all():
        raise ArgumentError(f"{label} contains {array[~np.isfinite(array)][0]}: give finite numbers.")
    return array


def _check_order(label: str, value, at_least: int):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ArgumentError(f"{label} is {value!r}: give an integer >= {at_least}.")


def _check_earlier_stages_only(label: str, rows: np.ndarray, first: int):
    later = np.argwhere(np.triu(rows, k=first))
    if later.size:
        i, j = later[0]
        raise ArgumentError(
            f"{label}[{i}, {j}] is {rows[i, j]:.12g}: set it to 0, since a stage of an explicit "
            "method may use only earlier stages."
        )
