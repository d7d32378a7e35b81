"""Training of a module with stochastic gradients: the training loop of flows and image models, and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..arguments import whole_number
from ..errors import ArgumentError
from ..progress import Progress, ProgressTask, open_progress
from .optimizers import LBFGS, Optimizer
from .run import FitRun, NonFiniteLoss, copy_tensors

# The lowest of many noisy losses is low by chance, so the best parameters are those with the lowest running mean.
MOMENTUM = 0.95

Schedule = str | Callable[[int], float] | None


@dataclass
class StochasticFit:
    """The result of training with stochastic gradients.

    The module has the parameters of the last update, or the best ones so far if the training stopped early.

    Attributes
    ----------
    losses : (updates,)
        Loss of each update's batch, without penalties.
    objectives : (updates,)
        Loss of each update's batch, with penalties: the quantity that was minimized.
    evaluations : (updates,)
        Number of field evaluations in each update's solve; 0 for updates without a solve.
    seconds : float
        Total time of the updates, in seconds.
    finished, interrupted : bool
        Whether all updates ran, and whether Ctrl-C stopped the training.
    message : str
        Why the training ended.
    """

    losses: np.ndarray
    objectives: np.ndarray
    evaluations: np.ndarray
    seconds: float
    finished: bool
    interrupted: bool
    message: str

    def running(self, momentum: float = 0.99) -> np.ndarray:
        """Return the running mean (updates,) of the losses, m <- momentum m + (1 - momentum) loss.

        The running mean starts at the first loss.
        """
        return np.array([*accumulate(self.losses, lambda mean, loss: momentum * mean + (1 - momentum) * loss)])


@dataclass(frozen=True)
class BatchLoss:
    """The result of one update: loss and objective of shape (), field evaluations, and a note for the progress bar."""

    loss: Tensor
    objective: Tensor
    evaluations: int = 0
    note: str = ""


def train(
    module: nn.Module,
    compute: Callable[[int], BatchLoss],
    *,
    updates: int,
    optimizer: Optimizer,
    schedule: Schedule = None,
    progress: bool | Progress = False,
    callback: Callable[[int, float], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
    identity: Mapping[str, str] | None = None,
    records: Mapping[str, list[float]] | None = None,
) -> StochasticFit:
    """Minimize ``compute(update).objective`` over the parameters of `module`.

    Parameters
    ----------
    module : nn.Module
        Trained in place; parameters that do not require a gradient stay unchanged.
    compute : callable
        ``compute(update)`` -> BatchLoss. The same update and parameters must give the same result; otherwise a
        resumed run ends differently from an uninterrupted one.
    updates : int
        Number of updates.
    optimizer : Optimizer
        Any except LBFGS, whose line search needs an objective without noise.
    schedule : str or callable, optional
        Replaces the optimizer's own schedule: a name, or ``schedule(update)`` -> learning rate.
    progress : bool or Progress
        True displays a progress bar.
    callback : callable, optional
        ``callback(update, loss)`` is called after each update.
    checkpoint, checkpoint_every, resume
        File to which the training is saved every `checkpoint_every` updates and at the end; with ``resume=True`` a
        stopped run continues from there and ends exactly as if it had not been stopped.
    identity : mapping of str to str, optional
        Additional settings that must match for a run to resume, keyed by their names in error messages.
    records : mapping of str to list of float, optional
        Lists to which `callback` adds measurements; a checkpoint stores them.

    Returns
    -------
    StochasticFit
        Also returned after Ctrl-C, a failed solve or a non-finite loss: `message` then states the reason.

    Raises
    ------
    ArgumentError
        If an argument is invalid, or the checkpoint belongs to a different training run.
    ModelFileError
        If the checkpoint is damaged.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode.fitting import Adam
    >>> from pyneuralode.fitting.stochastic import BatchLoss, train
    >>> module = torch.nn.Linear(1, 1)
    >>> def compute(update):
    ...     x = torch.randn(16, 1, generator=torch.Generator().manual_seed(update))
    ...     loss = (module(x) - 2 * x).square().mean()
    ...     return BatchLoss(loss, loss)
    >>> train(module, compute, updates=5, optimizer=Adam(0.1)).message
    'all updates ran'
    """
    updates = whole_number("updates", updates, 1, 1000)
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, LBFGS):
        raise ArgumentError(f"optimizer is {optimizer!r}: use an optimizer for noisy gradients, such as Adam(1e-3).")
    if isinstance(schedule, str):
        optimizer, schedule = replace(optimizer, schedule=schedule), None
    varies = callable(schedule) or optimizer.schedule != "constant"
    identity = {
        **(identity or {}),
        "optimizer": repr(optimizer),
        "schedule": f"{getattr(schedule, '__qualname__', schedule)} over {updates} updates" if varies else "constant",
    }
    rate = schedule or (lambda update: optimizer.rate(update, updates))
    run = _UpdateRun(module, identity, compute, updates, optimizer, rate, records or {})
    with open_progress(progress) as bars:
        run.execute(bars, callback, checkpoint, checkpoint_every, resume)
    history = run.history
    return StochasticFit(
        np.array(history.losses),
        np.array(history.objectives),
        np.array(history.evaluations, dtype=int),
        history.seconds,
        **run.ending("all updates ran"),
    )


@dataclass
class _UpdateHistory:
    losses: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    mean: float = math.nan  # the running mean of the objectives; `best_mean` is its lowest value so far
    best_mean: float = math.inf
    seconds: float = 0.0


class _UpdateRun(FitRun):
    """A training run in progress."""

    def __init__(
        self,
        module: nn.Module,
        identity: Mapping[str, str],
        compute: Callable[[int], BatchLoss],
        updates: int,
        settings: Optimizer,
        rate: Callable[[int], float],
        records: Mapping[str, list[float]],
    ):
        self.compute, self.updates, self.clip, self.rate, self.records = compute, updates, settings.clip, rate, records
        self.history = _UpdateHistory()
        free = {name: value for name, value in module.named_parameters() if value.requires_grad}
        if not free:
            raise ArgumentError(
                "the model has no parameters to fit: use a field that has parameters, such as HyperMLP."
            )
        saved = module.state_dict()
        buffers = {name: value for name, value in module.named_buffers() if name in saved}  # for example, running means
        super().__init__({**free, **buffers}, identity)
        self.optimizer = settings.make(self.free)

    def position(self) -> str:
        return f"after {len(self.history.losses)} updates"

    def state(self) -> dict[str, Any]:
        return {"history": vars(self.history), "records": dict(self.records)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.history = _UpdateHistory(**state["history"])
        for name, values in self.records.items():
            values[:] = state["records"][name]

    def iterate(self, progress: Progress) -> None:
        task = progress.task("updates", self.updates)
        task.advance(len(self.history.losses))
        self.start_clock()
        for update in range(len(self.history.losses), self.updates):
            self._update(update, task)

    def _update(self, update: int, task: ProgressTask) -> None:
        rate = float(self.rate(update))
        self.set_rate(rate)
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.compute(update)
        loss, objective = batch.loss.item(), batch.objective.item()
        if not math.isfinite(objective):
            raise NonFiniteLoss(
                f"the loss is {objective} at a learning rate of {rate:g} (a smaller rate, or `clip`, may help)"
            )
        self._keep_best(objective)
        batch.objective.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.free, self.clip)
        self.optimizer.step()
        self.history.evaluations.append(int(batch.evaluations))
        self.record(loss, objective, self.updates, task, f"loss {self.history.mean:.4f}{batch.note}")

    def _keep_best(self, objective: float) -> None:
        history = self.history
        first = math.isnan(history.mean)
        history.mean = objective if first else MOMENTUM * history.mean + (1 - MOMENTUM) * objective
        if history.mean < history.best_mean:
            history.best_mean = history.mean
            self.best = copy_tensors(self.tensors)
