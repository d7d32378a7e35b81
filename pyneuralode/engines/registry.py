"""The registry of backends, and the selection of a backend for each problem.

Examples
--------
>>> from pyneuralode.engines.registry import engines
>>> engines()[:3]
('auto', 'julia', 'torch')
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from ..errors import ArgumentError, EngineError, unknown_name
from ..fields import VectorField
from ..gradients import GradientMethod
from ..problem import Control, Event, PathIntegrals, Problem, Signature, value_key
from ..problem.problem import Delays, MassMatrix, Noise, Residual
from ..solvers import Solver
from ..tableaus import Tableau
from .backend import Backend, Prepared
from .julia_engine import session
from .julia_engine.probe import probe
from .selection import Julia

log = logging.getLogger("pyneuralode")


def _torch() -> Backend:
    from .torch_engine.paths import TORCH

    return TORCH


def _julia() -> Backend:
    from .julia_engine.backend import JULIA  # imported only when used: most installations never need it

    return JULIA


# The order in which "auto" tries the installed backends.
_BACKENDS: dict[str, Callable[[], Backend]] = {"julia": _julia, "torch": _torch}
_announced: set[str] = set()


def register(backend: Backend) -> None:
    """Register a backend, so that problems can select it by ``engine=backend.name``."""
    if backend.name != backend.name.lower():
        raise ArgumentError(
            f"name is {backend.name!r}: give a lowercase name, as engine names are compared in lowercase."
        )
    if backend.name in ("auto", *_BACKENDS):
        raise ArgumentError(f"name is {backend.name!r}, which is already a backend: choose another name.")
    _BACKENDS[backend.name] = lambda: backend


def engines() -> tuple[str, ...]:
    """Return the values accepted for `engine`."""
    return ("auto", *_BACKENDS)


def choose_engine(engine: str | Julia) -> str:
    """Return the name of the engine that `engine` selects on this machine, before a problem is known.

    "auto" selects the engine named by the environment variable `PYNEURALODE_ENGINE`, else Julia if it is installed and
    ready, else torch. The log states once which engine was selected, and why. No engine is started.

    Raises EngineError for "julia" if Julia is not ready; the message says what to do.
    """
    name = str(engine).lower()
    if name not in engines():
        raise unknown_name("engine", engine, engines())
    if name == "auto":
        return _automatic()
    if name == "julia" and not session.runs():
        found = probe()
        if not found.found:
            raise EngineError(f"engine is 'julia', but {found.reason}")
    return name


def _automatic() -> str:
    wanted = (os.environ.get("PYNEURALODE_ENGINE") or "auto").lower()
    if wanted not in engines():
        raise unknown_name("PYNEURALODE_ENGINE", wanted, engines())
    if wanted != "auto":
        _announce(f"engine: {wanted}, set by PYNEURALODE_ENGINE")
        return choose_engine(wanted)
    if session.runs():
        _announce("engine: julia, which is already running")
        return "julia"
    found = probe()
    if found.found:
        _announce(f"engine: julia (Julia {found.version} at {found.executable})")
        return "julia"
    _announce(f"engine: torch, because {found.reason}")
    return "torch"


def _announce(sentence: str) -> None:
    if sentence not in _announced:
        _announced.add(sentence)
        log.info(sentence)


def _circumstances(engine: str | Julia) -> tuple:
    """Return everything that `choose` depends on besides the problem; cheap to compute."""
    if engine != "auto":
        return engine, session.runs()
    get = os.environ.get
    return engine, session.runs(), get("PYNEURALODE_ENGINE"), get("PYNEURALODE_JULIA"), get("PATH")


def choose(problem: Problem, engine: str | Julia) -> Backend:
    """Return the backend that solves a problem: the one named by `engine` or, with "auto", the first that supports it.

    Raises ArgumentError if the problem is not supported; the message names an engine that supports it, or else states
    what to change for each engine.
    """
    first = choose_engine(engine)
    automatic = str(engine).lower() == "auto"
    reasons: dict[str, str] = {}
    able = None
    for name in dict.fromkeys((first, "torch") if automatic else (first,)):
        backend = _BACKENDS[name]()
        reason = backend.unsupported(problem)
        if reason is None:
            able = able or backend
            reason = backend.yields(problem) if automatic else None
            if reason is None:
                if name != first:
                    _announce(f"engine: {name} instead of {first}: {reasons[first]}")
                return backend
        reasons[name] = reason
    if able is None:
        raise _refusal(problem, reasons)
    return able


def _refusal(problem: Problem, sentences: dict[str, str]) -> ArgumentError:
    """Return the error for a problem that some engines do not support; `sentences` gives each engine's reason."""
    if problem.form is not None:  # only one engine supports such a form; its functions have no argument `engine`
        return ArgumentError(next(iter(sentences.values())))
    for name in ("torch", "julia"):
        if name in sentences:
            continue
        sentence = _BACKENDS[name]().unsupported(problem)
        if sentence is None:
            reason = next(iter(sentences.values())).rstrip(".")
            return ArgumentError(f"{reason}{', or' if ': ' in reason else ':'} write engine={name!r}.")
        sentences = sentences | {name: sentence}
    told = "; ".join(f"{name}: {sentence.rstrip('.')}" for name, sentence in sentences.items())
    return ArgumentError(f"no engine supports this problem as it is ({told}).")


def prepare(problem: Problem, engine: str | Julia = "auto") -> Prepared:
    """Prepare a problem for solving, on the named engine or, with "auto", on the first that supports it."""
    return choose(problem, engine).prepare(problem)


class Settings(NamedTuple):
    """The parts of a problem that the caller chooses; see `Problem`."""

    field: VectorField | nn.Module | Callable
    solver: Solver | Tableau
    gradient: GradientMethod
    control: Control
    dense: bool = False
    compiled: bool = True
    batch: str = "joint"
    events: tuple[Event, ...] = ()
    integrals: PathIntegrals | None = None
    form: Noise | MassMatrix | Residual | Delays | None = None
    path: str = "auto"

    def problem(self, parameters: Mapping[str, Any], y0: Any, ts: Any) -> Problem:
        """Return the problem with these settings, for values with the same shapes and dtypes as those given."""
        return Problem(signature=Signature.of(parameters, y0, ts), **self._asdict())


class PreparedProblems:
    """A cache of prepared problems; each is reused while the objects that it depends on remain the same.

    A copy of a cache is empty. Two threads may prepare the same problem twice, which is harmless.
    """

    MOST = 16

    def __init__(self):
        self._kept: dict[Any, tuple[Prepared, Settings]] = {}

    def find(
        self, settings: Settings, engine: str | Julia, parameters: Mapping[str, Any], y0: Any, ts: Any
    ) -> Prepared:
        """Return the prepared problem for these settings and this kind of values, from the cache if possible."""
        # The settings are kept too, so that their ids cannot be reused by other objects.
        key = (tuple(map(id, settings)), _circumstances(engine), value_key(parameters, y0, ts))
        found = self._kept.get(key)
        if found is not None:
            return found[0]
        prepared = prepare(settings.problem(parameters, y0, ts), engine)
        self._kept = dict(list(self._kept.items())[1 - self.MOST :]) | {key: (prepared, settings)}
        return prepared

    def __deepcopy__(self, memo: dict) -> PreparedProblems:
        return PreparedProblems()

    def __reduce__(self) -> tuple:
        return PreparedProblems, ()
