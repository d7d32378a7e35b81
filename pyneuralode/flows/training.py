"""Updates of a flow by stochastic gradients: the loop is `fitting.stochastic`'s, the result knows its flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..fitting.stochastic import Outcome, Schedule, StochasticFit
from ..fitting.stochastic import train as train_module

__all__ = ["FlowFit", "Outcome", "Schedule", "train"]


@dataclass
class FlowFit(StochasticFit):
    """The outcome of fitting a flow.

    Attributes
    ----------
    flow
        The flow that was fitted, with the parameters of the last update; the best so far where the fit stopped early.
    losses, objectives, evaluations, seconds, finished, interrupted, message
        As in `StochasticFit`; the losses are in nats unless said otherwise.
    """

    flow: Any


def train(flow: nn.Module, compute: Callable[[int], Outcome], **options: Any) -> FlowFit:
    """Train a flow as `fitting.stochastic.train` does, whose arguments these are."""
    return FlowFit(**vars(train_module(flow, compute, **options)), flow=flow)
