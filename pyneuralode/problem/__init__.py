"""The inputs and outputs of engines: problems with their controls and events, the values of a solve, and solutions."""

from .control import NORMS, Control, make_control
from .event import Event, read_events
from .problem import BATCHES, PathIntegrals, Problem, Values
from .signature import Signature, value_key
from .solution import EventTrace, Integrals, Solution, Statistics

__all__ = [
    "BATCHES",
    "NORMS",
    "Control",
    "Event",
    "EventTrace",
    "Integrals",
    "PathIntegrals",
    "Problem",
    "Signature",
    "Solution",
    "Statistics",
    "Values",
    "make_control",
    "read_events",
    "value_key",
]
