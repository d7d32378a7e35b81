"""Conversion of Julia's replies to a dictionary, or to one of pyneuralode's exceptions with Julia's message."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError, EngineError, SolverError


def read_reply(reply: dict[str, Any]) -> dict[str, Any]:
    """Return the reply, or raise the exception described by its "error" entry."""
    failure = reply.get("error")
    if failure is None:
        return reply
    message = failure["message"]
    if failure["kind"] == "argument":
        raise ArgumentError(message)
    if failure["kind"] == "solver":
        raise SolverError(message, failure["t"], failure["step"])
    raise EngineError(f"Julia failed with an internal error: {message}")
