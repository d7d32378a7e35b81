"""Which engine solves a problem: what "auto" means here, and what the Julia engine takes."""

from __future__ import annotations

import logging
import os

from ..errors import ArgumentError, EngineError, unknown_name
from ..problem import Problem, Solution
from . import torch_engine
from .julia_engine import session
from .julia_engine.probe import probe

log = logging.getLogger("pyneuralode")

ENGINES = ("auto", "torch", "julia")
_announced: set[str] = set()


def choose_engine(engine: str) -> str:
    """Return the engine that `engine` means here: "torch" or "julia".

    "auto" is what the environment variable `PYNEURALODE_ENGINE` says, else Julia where it is installed and ready, else
    torch; the log says once which one, and why. Nothing is started.

    Raises EngineError for "julia" where there is none, with what to do.
    """
    name = str(engine).lower()
    if name not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if name == "auto":
        return _automatic()
    if name == "julia" and not session.runs():
        found = probe()
        if not found.found:
            raise EngineError(f"engine is 'julia', and {found.reason}")
    return name


def _automatic() -> str:
    wanted = (os.environ.get("PYNEURALODE_ENGINE") or "auto").lower()
    if wanted not in ENGINES:
        raise unknown_name("PYNEURALODE_ENGINE", wanted, ENGINES)
    if wanted != "auto":
        _announce(f"engine: {wanted}, as PYNEURALODE_ENGINE says")
        return choose_engine(wanted)
    if session.runs():
        _announce("engine: julia, which runs already")
        return "julia"
    found = probe()
    if found.found:
        _announce(f"engine: julia, Julia {found.version} at {found.executable}")
        return "julia"
    _announce(f"engine: torch, since {found.reason}")
    return "torch"


def _announce(sentence: str) -> None:
    if sentence not in _announced:
        _announced.add(sentence)
        log.info(sentence)


def solve(problem: Problem, engine: str) -> Solution:
    """Solve on the engine asked for; "auto" takes Julia, and torch for what the Julia engine cannot do."""
    if choose_engine(engine) == "torch":
        return torch_engine.solve(problem)
    from .julia_engine import python_fields  # not before: most installations never need it
    from .julia_engine import solve as julia

    refused = julia.refusal(problem) if str(engine).lower() == "auto" else None
    if refused is None:
        return julia.solve(problem)
    lacking = torch_engine.lacking(problem)
    # A Python function is solved by Julia where that is asked for, as torch's own sentence says.
    if lacking is not None and not python_fields.applies(problem):
        cause, _, remedy = refused.partition(": ")
        raise ArgumentError(f"{lacking}, and {cause}: {'change one of the two.' if 'engine=' in remedy else remedy}")
    return torch_engine.solve(problem)
