"""The loss of a model's trajectory, as a function of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import real_tensor
from ..models import NeuralODE
from .objective import Objective

Parameters = dict[str, Tensor]
Penalty = Callable[[Tensor, Tensor, Parameters], Tensor]


class TrajectoryLoss:
    """The loss and the penalty of a model's states at the first `rows` times of the data.

    `y0` is the state at `t0`, or a function that computes this state from the parameters.
    """

    def __init__(
        self, model: NeuralODE, objective: Objective, y0: Any | Callable, t0: float, penalty: Penalty | None = None
    ):
        self.model, self.objective, self.t0, self.penalty = model, objective, t0, penalty
        self.kind = {"dtype": objective.data.dtype, "device": objective.data.device}
        self.y0 = y0 if callable(y0) else real_tensor("y0", y0, **self.kind).detach()
        self.names = list(model.tensors())

    def trajectory(self, parameters: Parameters, rows: int) -> tuple[Tensor, Tensor]:
        """Return the first `rows` times of the data and the states (rows, ..., d) at these times."""
        y0 = self.y0(parameters) if callable(self.y0) else self.y0
        own = {name: parameters[name] for name in self.names}
        ts = self.objective.ts[:rows]
        return torch.as_tensor(ts, **self.kind), states_at(self.model, y0, ts, self.t0, own)

    def prediction(self, parameters: Parameters, rows: int) -> Tensor:
        """Return the predicted values (rows, ..., k) to compare with the first `rows` rows of the data."""
        return self.objective.predict(*self.trajectory(parameters, rows), parameters)

    def __call__(self, parameters: Parameters, rows: int) -> tuple[Tensor, Tensor]:
        """Return the loss, and the loss with the penalty added, both of shape ()."""
        ts, states = self.trajectory(parameters, rows)
        loss = self.objective.loss(self.objective.predict(ts, states, parameters))
        return loss, loss if self.penalty is None else loss + self.penalty(ts, states, parameters)


def states_at(model: NeuralODE, y0: Any, ts: np.ndarray, t0: float, parameters: Parameters | None = None) -> Any:
    """Return a model's states (T, ..., d) at increasing times (T,), all >= `t0`; `t0` may be the only time."""
    if len(ts) == 1 and ts[0] == t0:
        return model.initial_state(y0)[None]
    return model.solve(y0, ts, t0=t0, parameters=parameters).ys
