"""Training of a flow by `fitting.stochastic.train`, with the flow as part of the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..fitting.stochastic import BatchLoss, StochasticFit
from ..fitting.stochastic import train as train_module

__all__ = ["BatchLoss", "FlowFit", "train"]


@dataclass
class FlowFit(StochasticFit):
    """The result of fitting a flow.

    Attributes
    ----------
    flow
        The fitted flow, with the parameters of the last update, or the best ones so far if the fit stopped early.
    losses, objectives, evaluations, seconds, finished, interrupted, message
        As in `StochasticFit`; losses are in nats unless stated otherwise.
    """

    flow: Any


def train(flow: nn.Module, compute: Callable[[int], BatchLoss], **options: Any) -> FlowFit:
    """Train a flow; the arguments are as in `fitting.stochastic.train`."""
    return FlowFit(**vars(train_module(flow, compute, **options)), flow=flow)
