"""The exceptions of pyneuralode. Each message is one sentence that names the argument, its value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PyNeuralODEError(Exception):
    """Base class of all exceptions that pyneuralode deliberately raises."""


class ArgumentError(PyNeuralODEError, ValueError):
    """An argument has a value, shape, dtype or device that cannot be used."""


class DataError(ArgumentError):
    """A data set or data file does not contain the expected data."""


class ModelFileError(PyNeuralODEError, ValueError):
    """A file is not a model that this version of pyneuralode can read."""


class EngineError(PyNeuralODEError, RuntimeError):
    """The requested engine is not available or failed."""


class SolverError(PyNeuralODEError, RuntimeError):
    """A solve failed before the last time: step underflow, too many steps, or a non-finite state.

    Attributes
    ----------
    t : float
        Time that the solve reached.
    step : float
        Size of the step attempted at that time.
    """

    def __init__(self, message: str, t: float = float("nan"), step: float = float("nan")):
        super().__init__(message)
        self.t = t
        self.step = step


def nearest_name(value: object, known: Iterable[str]) -> str | None:
    """Return the known name most similar to `value`, ignoring case, or None if none is similar."""
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(value).lower(), lowered, n=1, cutoff=0.5)
    return lowered[close[0]] if close else None


def unknown_name(argument: str, value: object, known: Iterable[str]) -> ArgumentError:
    """Return the error for a name that is not in `known`; it suggests the most similar name."""
    known = list(known)
    near = nearest_name(value, known)
    hint = f"did you mean {near!r}? Known: " if near else "use one of "
    return ArgumentError(f"{argument} is {value!r}, which is unknown: {hint}{', '.join(known)}.")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without a final period; the class name if the message is empty."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def kind_of(value: object) -> str:
    """Return the name of a value's type, with an indefinite article.

    Examples
    --------
    >>> from pyneuralode.errors import kind_of
    >>> kind_of(3), kind_of([]), kind_of(None)
    ('an int', 'a list', 'None')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    spelled = name[:2].isupper() or name == "ndarray"  # as in "an MLP"
    return f"{'an' if name[0] in ('AEFHILMNORSXn' if spelled else 'AEIOaeio') else 'a'} {name}"
