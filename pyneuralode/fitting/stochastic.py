"""Updates of a module by stochastic gradients: the loop of flows and image models, its result, its checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import whole_number
from ..errors import ArgumentError, SolverError
from ..progress import Progress, RichProgress, SilentProgress
from .checkpoint_file import CheckpointFile
from .optimizers import LBFGS, Optimizer

# "The best so far" of noisy losses is where their running mean was lowest.
MOMENTUM = 0.95

Schedule = str | Callable[[int], float] | None


@dataclass
class StochasticFit:
    """The outcome of updates by stochastic gradients.

    The module has the parameters of the last update; the best so far where the fit stopped early.

    Attributes
    ----------
    losses : (updates,)
        The loss of every update's batch, penalties not counted.
    objectives : (updates,)
        The same with the penalties: what was minimized.
    evaluations : (updates,)
        Evaluations of the field that each update's solve took; 0 where nothing is solved.
    seconds : float
        Time of the updates.
    finished, interrupted : bool
        Whether all updates ran; whether Ctrl-C stopped them.
    message : str
        Why the fit ended.
    """

    losses: np.ndarray
    objectives: np.ndarray
    evaluations: np.ndarray
    seconds: float
    finished: bool
    interrupted: bool
    message: str

    def running(self, momentum: float = 0.99) -> np.ndarray:
        """Return the running mean (updates,), m <- momentum m + (1 - momentum) loss, from the first loss on."""
        means = self.losses.copy()
        for k in range(1, len(means)):
            means[k] = momentum * means[k - 1] + (1 - momentum) * means[k]
        return means


@dataclass(frozen=True)
class Outcome:
    """What one update computes: loss and objective (tensors of shape ()), the evaluations, words for the progress."""

    loss: Tensor
    objective: Tensor
    evaluations: int = 0
    note: str = ""


def train(
    module: nn.Module,
    compute: Callable[[int], Outcome],
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
    """Move the parameters of `module` down the gradient of ``compute(update).objective``, `updates` times.

    `compute` must give the same for the same update and parameters: then a resumed fit ends as an uninterrupted one.
    `identity` is what has to be the same for a fit to go on from a checkpoint; `records` are lists to which
    `callback` adds what it measures, and which a checkpoint keeps.
    """
    updates = whole_number("updates", updates, 1, 1000)
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, LBFGS):
        raise ArgumentError(f"optimizer is {optimizer!r}: give one for noisy gradients, such as Adam(1e-3).")
    if isinstance(schedule, str):
        optimizer, schedule = replace(optimizer, schedule=schedule), None
    varies = callable(schedule) or optimizer.schedule != "constant"
    identity = {
        **(identity or {}),
        "optimizer": repr(optimizer),
        "parameters": repr({name: (str(p.dtype), *p.shape) for name, p in module.named_parameters()}),
        "schedule": f"{getattr(schedule, '__qualname__', schedule)} over {updates} updates" if varies else "constant",
    }
    run = _Run(module, optimizer, schedule, updates, records or {})
    store = (
        None if checkpoint is None else _Checkpoint(Path(checkpoint), dict(sorted(identity.items())), checkpoint_every)
    )
    if store is not None and resume and store.exists():
        store.load(run)
    with RichProgress() if progress is True else nullcontext(progress or SilentProgress()) as bars:
        task = bars.task("updates", run.updates)
        task.advance(len(run.losses))
        message, interrupted = None, False
        try:
            run.execute(compute, task, callback, store)
        except KeyboardInterrupt:
            message, interrupted = f"interrupted after {len(run.losses)} updates", True
        except (SolverError, _Failed) as error:
            message = f"stopped at update {len(run.losses)}: {error}"
    if message is not None:
        run.restore(run.best)
        message += "; the parameters are the best so far"
    return StochasticFit(
        losses=np.array(run.losses),
        objectives=np.array(run.objectives),
        evaluations=np.array(run.evaluations, dtype=int),
        seconds=run.seconds,
        finished=message is None,
        interrupted=interrupted,
        message=message or "all updates ran",
    )


class _Failed(Exception):
    """The objective at the current parameters is not a finite number."""


@dataclass
class _Run:
    """The state of a fit between two updates; all of it goes into a checkpoint."""

    module: nn.Module
    settings: Optimizer
    schedule: Callable[[int], float] | None
    updates: int
    records: Mapping[str, list[float]]
    losses: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    mean: float = math.nan
    best_mean: float = math.inf
    seconds: float = 0.0

    def __post_init__(self):
        self.free = {name: value for name, value in self.module.named_parameters() if value.requires_grad}
        if not self.free:
            raise ArgumentError("the model has no parameters to fit: give a field that has some, such as HyperMLP.")
        kept = self.module.state_dict()
        buffers = {name: value for name, value in self.module.named_buffers() if name in kept}
        self.state = {**self.free, **buffers}  # buffers too: batch normalization's running means
        self.best = self.snapshot()
        self.optimizer = self.settings.make(list(self.free.values()))

    def snapshot(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.state.items()}

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.state[name].copy_(value)

    def execute(self, compute: Callable[[int], Outcome], task, callback, store: _Checkpoint | None) -> None:
        tick = time.perf_counter()
        while len(self.losses) < self.updates:
            k = len(self.losses)
            loss, note = self._update(k, compute)
            now = time.perf_counter()
            self.seconds += now - tick
            tick = now
            task.advance(1, f"loss {self.mean:.4f}{note}")
            if callback is not None:
                callback(k, loss)
            if store is not None and (len(self.losses) % store.every == 0 or len(self.losses) == self.updates):
                store.save(self)

    def _update(self, k: int, compute: Callable[[int], Outcome]) -> tuple[float, str]:
        rate = self.settings.rate(k, self.updates) if self.schedule is None else float(self.schedule(k))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        outcome = compute(k)
        loss, total = outcome.loss.item(), outcome.objective.item()
        if not math.isfinite(total):
            raise _Failed(f"the loss is {total} at a learning rate of {rate:g} (a smaller one or clip may help)")
        self._account(total)
        outcome.objective.backward()
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(list(self.free.values()), self.settings.clip)
        self.optimizer.step()
        self.losses.append(loss)
        self.objectives.append(total)
        self.evaluations.append(outcome.evaluations)
        return loss, outcome.note

    def _account(self, total: float) -> None:
        self.mean = total if math.isnan(self.mean) else MOMENTUM * self.mean + (1 - MOMENTUM) * total
        if self.mean < self.best_mean:
            self.best_mean = self.mean
            self.best = self.snapshot()


class _Checkpoint(CheckpointFile):
    """The file of one fit: parameters, best parameters, optimizer state and history."""

    KEY, OF = "pyneuralode_updates", "such a fit"

    def save(self, run: _Run) -> None:
        tensors = {f"now/{name}": value for name, value in run.snapshot().items()}
        tensors |= {f"best/{name}": value for name, value in run.best.items()}
        for index, state in run.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    tensors[f"optimizer/{index}/{name}"] = torch.as_tensor(value).clone()
        for name in ("losses", "objectives", "evaluations"):
            tensors[f"history/{name}"] = torch.tensor(getattr(run, name), dtype=torch.float64)
        for name, values in run.records.items():
            tensors[f"record/{name}"] = torch.tensor(values, dtype=torch.float64)
        numbers = {"mean": run.mean, "best_mean": run.best_mean, "seconds": run.seconds}
        self.write(tensors, {"numbers": numbers})

    def load(self, run: _Run) -> None:
        tensors, header = self.read()
        run.restore(self.part(tensors, "now", run.state))
        run.best = self.part(tensors, "best", run.state)
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, name = key.split("/")
                states.setdefault(int(index), {})[name] = value
        self.load_optimizer(run.optimizer, states)
        run.losses = tensors["history/losses"].tolist()
        run.objectives = tensors["history/objectives"].tolist()
        run.evaluations = [int(n) for n in tensors["history/evaluations"]]
        for name, values in run.records.items():
            values[:] = tensors[f"record/{name}"].tolist()
        for name, value in header["numbers"].items():
            setattr(run, name, value)
