"""Code shared by all fits: keeping the best parameters, stopping on Ctrl-C, and resuming from checkpoints."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SolverError
from ..progress import Progress, ProgressTask
from .checkpoint import Checkpoint


class NonFiniteLoss(Exception):
    """The loss at the current parameters is not a finite number."""


class FitRun(ABC):
    """A fit in progress.

    A subclass creates the optimizer, runs the iterations and calls `record` after each. Its `history` contains the
    lists `losses` and `objectives` and the number `seconds`.

    Parameters
    ----------
    tensors : mapping of Tensor
        Tensors that the fit changes in place, by name: parameters (which require a gradient) and buffers.
    identity : mapping of str to str
        Settings that must match those in a checkpoint for a fit to resume from it, in addition to the tensors' shapes.

    Attributes
    ----------
    best : dict of Tensor
        Copies of `tensors` at the lowest objective so far.
    """

    optimizer: torch.optim.Optimizer
    history: Any
    stage: tuple[int, ...] = ()  # index of the stage, if there are stages: a callback's first argument

    def __init__(self, tensors: Mapping[str, Tensor], identity: Mapping[str, str]):
        shapes = {name: (str(tensor.dtype), *tensor.shape) for name, tensor in tensors.items()}
        self.identity = {"kind of fit": type(self).__name__, **identity, "parameters": repr(shapes)}
        self.tensors = tensors
        self.free = [tensor for tensor in tensors.values() if tensor.requires_grad]
        self.best = copy_tensors(tensors)
        self._interrupted, self._failure = False, None

    @abstractmethod
    def iterate(self, progress: Progress) -> None:
        """Run all remaining iterations."""

    @abstractmethod
    def position(self) -> str:
        """Return the position of the run as a phrase that can follow "stopped", such as "after 10 updates"."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the values that a checkpoint stores in addition to the tensors and the optimizer's state."""

    @abstractmethod
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a saved `state`, and create an optimizer to continue from it."""

    def execute(
        self, progress: Progress, callback: Callable | None, checkpoint: str | Path | None, every: int, resume: bool
    ) -> None:
        """Run to the end; after Ctrl-C, a failed solve or a non-finite loss, stop and restore the best tensors."""
        self._callback = callback
        self._checkpoint = None if checkpoint is None else Checkpoint(checkpoint, self.identity, every)
        if self._checkpoint is not None and resume and self._checkpoint.exists():
            self._load(self._checkpoint.load())
        try:
            self.iterate(progress)
        except KeyboardInterrupt:
            self._interrupted, reason = True, f"interrupted {self.position()}"
        except (SolverError, NonFiniteLoss) as error:
            reason = f"stopped {self.position()}: {error}"
        else:
            return
        assign_tensors(self.tensors, self.best)
        self._failure = f"{reason}; the parameters are the best so far"

    def ending(self, message: str) -> dict[str, Any]:
        """Return how the run ended, as attributes of a result; `message` is used unless the run was stopped."""
        finished = self._failure is None
        return {"finished": finished, "interrupted": self._interrupted, "message": self._failure or message}

    def start_clock(self) -> None:
        self._tick = time.perf_counter()

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def record(self, loss: float, objective: float, total: int, task: ProgressTask, note: str) -> None:
        """Add an iteration, one of at most `total`, to the history; report it, and save a checkpoint if one is due."""
        history = self.history
        history.losses.append(loss)
        history.objectives.append(objective)
        now = time.perf_counter()
        history.seconds += now - self._tick
        self._tick = now
        count = len(history.losses)
        task.advance(1, note)
        if self._callback is not None:
            self._callback(*self.stage, count - 1, loss)
        if self._checkpoint is not None and (count % self._checkpoint.every == 0 or count == total):
            optimizer = self.optimizer.state_dict()["state"]
            self._checkpoint.save({"now": self.tensors, "best": self.best, "optimizer": optimizer, **self.state()})

    def _load(self, state: Mapping[str, Any]) -> None:
        assign_tensors(self.tensors, state["best"])
        self.best = copy_tensors(self.tensors)
        assign_tensors(self.tensors, state["now"])
        self.set_state(state)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        if isinstance(self.optimizer, torch.optim.LBFGS):
            return  # the state of L-BFGS is one flat vector for all parameters
        # A fused optimizer reads a state and its parameter as raw memory: both must have the same layout.
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and name != "step":
                    values[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def copy_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return detached copies of tensors, by name."""
    return {name: value.detach().clone() for name, value in tensors.items()}


@torch.no_grad()
def assign_tensors(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write `values` into the tensors of the same names."""
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
