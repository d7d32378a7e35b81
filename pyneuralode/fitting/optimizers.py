"""Optimizer settings as dataclasses; `make` returns the corresponding torch optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from inspect import signature

import torch

from ..arguments import real_number, whole_number
from ..errors import ArgumentError, unknown_name

# Where the curvature changes during a fit (as with a nonsmooth penalty), old curvature pairs mislead L-BFGS: fits that
# stall for thousands of iterations progress again once its memory is cleared. Keep this equal to the constant in
# julia/src/fitting/lbfgs.jl.
MEMORY_LIFE = 500
SCHEDULES = ("constant", "cosine", "exponential")


@dataclass(frozen=True)
class Optimizer:
    """Base class of optimizer settings.

    Parameters
    ----------
    lr : float
        Learning rate at the start of a stage.
    schedule : {"constant", "cosine", "exponential"}
        How the learning rate decreases from `lr` to ``final * lr`` over the iterations of a stage.
    final : float
        Last learning rate, as a fraction of the first.
    clip : float, optional
        Maximum norm of the gradient; a larger gradient is scaled down to it.

    Raises
    ------
    ArgumentError
        If a setting is out of range.
    """

    lr: float = 1e-3
    schedule: str = "constant"
    final: float = 0.01
    clip: float | None = None

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        for name in ("lr", "final", "clip"):
            value = getattr(self, name)
            given = name != "clip" or value is not None
            if given and real_number(name, value, "give a positive number") <= 0:
                raise ArgumentError(f"{name} is {value}: give a positive number.")
        for name in ("eps", "momentum", "weight_decay", "tolerance"):
            if real_number(name, getattr(self, name, 0.0), "give a nonnegative number") < 0:
                raise ArgumentError(f"{name} is {getattr(self, name)}: give a nonnegative number.")
        for name, parts in (("betas", getattr(self, "betas", ())), ("alpha", (getattr(self, "alpha", 0.0),))):
            for part in parts:
                if not 0 <= real_number(name, part, "give numbers >= 0 and < 1") < 1:
                    raise ArgumentError(f"{name} is {getattr(self, name)}: give numbers >= 0 and < 1.")

    def rate(self, iteration: int, iterations: int) -> float:
        """Return the learning rate of an iteration, counted from 0, of a stage with `iterations` iterations."""
        part = iteration / max(1, iterations - 1)
        if self.schedule == "cosine":
            return self.lr * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * part)))
        return self.lr * self.final**part if self.schedule == "exponential" else self.lr

    def needs_restart(self, losses: list[float], started: int) -> bool:
        """Whether to clear the memory and restart.

        `losses` contains the loss at the beginning of each iteration; the last start was at iteration `started`.
        """
        return False

    def make(self, tensors: list[torch.Tensor]) -> torch.optim.Optimizer:
        """Return the torch optimizer for these tensors."""
        shared = {f.name for f in fields(Optimizer)} - {"lr"}
        settings = {name: value for name, value in vars(self).items() if name not in shared}
        kind = getattr(torch.optim, type(self).__name__)
        # A fused optimizer updates all tensors in one call; in small models, a loop over them dominates the cost.
        if "fused" in signature(kind).parameters and all(t.device.type in ("cpu", "cuda") for t in tensors):
            settings["fused"] = True
        return kind(tensors, **settings)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as in torch.optim.Adam."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as in torch.optim.AdamW."""

    weight_decay: float = 1e-2


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012), as in torch.optim.RMSprop."""

    alpha: float = 0.99
    eps: float = 1e-8


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, optionally with momentum and weight decay, as in torch.optim.SGD."""

    momentum: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class LBFGS(Optimizer):
    """L-BFGS with a strong Wolfe line search (Nocedal and Wright, Numerical Optimization, ch. 7).

    Each iteration uses one search direction; its line search may need several evaluations. The memory is cleared, and
    the search restarts from the best parameters, after every 500 iterations and whenever `patience` consecutive
    iterations each decrease the loss by less than a relative `tolerance`. The stage ends when a restart brings no
    improvement.

    Parameters
    ----------
    lr : float
        Initial step length of a line search, as a fraction of the quasi-Newton step.
    history : int
        Number of stored pairs of steps and gradient changes.
    tolerance : float
        Smallest relative decrease of the loss that counts as progress.
    patience : int
        Number of iterations without progress before a restart.
    """

    lr: float = 1.0
    history: int = 50
    tolerance: float = 1e-12
    patience: int = 5

    def __post_init__(self):
        super().__post_init__()
        for name in ("history", "patience"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))

    def needs_restart(self, losses: list[float], started: int) -> bool:
        recent = losses[max(started, len(losses) - self.patience - 1) :]
        steps = zip(recent, recent[1:])
        stuck = len(recent) > self.patience and all(a - b <= self.tolerance * abs(a) for a, b in steps)
        return stuck or len(losses) - started >= MEMORY_LIFE

    def make(self, tensors: list[torch.Tensor]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(
            tensors,
            lr=self.lr,
            max_iter=1,
            max_eval=1000,  # the line search has its own limit
            history_size=self.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
