"""The exceptions of pyneuralode: one sentence each, naming the argument, its value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PyNeuralODEError(Exception):
    """Base class of every exception that pyneuralode raises on purpose."""


class ArgumentError(PyNeuralODEError, ValueError):
    """An argument has a value, shape, dtype or device that cannot be used."""


class DataError(ArgumentError):
    """A data set or data file does not hold what was asked of it."""


class ModelFileError(PyNeuralODEError, ValueError):
    """A file is not a model that this version of pyneuralode can read."""


class EngineError(PyNeuralODEError, RuntimeError):
    """The engine asked for is absent or could not do its work."""


class SolverError(PyNeuralODEError, RuntimeError):
    """A solve could not reach its end: step underflow, too many steps, a non-finite state.

    Attributes
    ----------
    t : float
        Time that the solve had reached.
    step : float
        Size of the step that was tried there.
    """

    def __init__(self, message: str, t: float = float("nan"), step: float = float("nan")):
        super().__init__(message)
        self.t = t
        self.step = step


def nearest_name(value: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most like `value`, case aside; None where none is like it."""
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(value).lower(), lowered, n=1, cutoff=0.5)
    return lowered[close[0]] if close else None


def unknown_name(argument: str, value: object, known: Iterable[str]) -> ArgumentError:
    """Return the error for a name that is not in a catalog; it suggests the nearest known one."""
    known = list(known)
    near = nearest_name(value, known)
    hint = f"did you mean {near!r}? Known: " if near else "known are "
    return ArgumentError(f"{argument} is {value!r}, which is not known: {hint}{', '.join(known)}.")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, without its full stop; its kind if it says nothing."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
