"""Fits that run entirely on the Julia engine: one call for the whole plan, with progress reported by a callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engines.registry import choose, choose_engine
from ..models import NeuralODE
from ..problem import Problem
from ..problem.values import flatten
from ..progress import Progress
from .curricula import Stage
from .optimizers import LBFGS, SGD, Adam, AdamW, Optimizer, RMSprop
from .result import FitResult, StageResult
from .specs import Serializable
from .trajectory_loss import TrajectoryLoss
from .variables import Variables

OPTIMIZERS = (Adam, AdamW, RMSprop, SGD, LBFGS)
HISTORY = ("losses", "objectives", "best_loss", "best_objective", "evaluations", "seconds")


@dataclass
class JuliaFit:
    """A fit that runs entirely in Julia; `pyneuralode.fit` has already checked its arguments."""

    loss: TrajectoryLoss
    variables: Variables
    stages: list[Stage]

    def applies(self) -> bool:
        """Whether the model's engine is Julia and all parts can be sent as data, so that Julia calls no Python code."""
        model, objective, y0 = self.loss.model, self.loss.objective, self.loss.y0
        pieces = (objective.observe, self.loss.penalty, y0)
        described = all(piece is None or isinstance(piece, (Serializable, Tensor)) for piece in pieces)
        # An initial state computed from parameters is not augmented in Julia.
        plain = isinstance(y0, Tensor) or type(model).initial_state is NeuralODE.initial_state
        known = all(_is_known(stage.optimizer) for stage in self.stages)
        if not (described and plain and known) or objective.data.is_cuda or choose_engine(model.engine) != "julia":
            return False
        return choose(self._problem(), model.engine).name == "julia"

    def _problem(self) -> Problem:
        """Return the problem that the fit solves repeatedly."""
        model, objective = self.loss.model, self.loss.objective
        dtype = objective.data.dtype
        parameters = {name: value.detach().to(dtype).requires_grad_() for name, value in model.tensors().items()}
        with torch.enable_grad():
            return model.settings().problem(parameters, self._state(), objective.ts)

    def _state(self) -> Any:
        """Return the initial state of the solves."""
        y0 = self.loss.y0
        state: Any = y0(self.variables.values()) if callable(y0) else y0
        return self.loss.model.initial_state(state.detach())

    def run(self, bars: Progress, callback: Callable[[int, int, float], None] | None) -> FitResult:
        """Run the plan and return the result, with the best parameters."""
        from ..engines.julia_engine.session import call

        request = self.request() | {"every": 10 if callback is None else 1}
        reply = call("fit", request, _Reporter(self, bars, callback))
        results = [
            StageResult(
                stage.end,
                repr(stage.optimizer),
                parameters=self._arrays(history["parameters"]),
                **{name: np.asarray(history[name]).tolist() for name in HISTORY},
            )
            for stage, history in zip(self.stages, reply["stages"])
        ]
        ending = {name: reply[name] for name in ("loss", "finished", "interrupted", "message")}
        return FitResult(self.loss.model, parameters=self._arrays(reply["parameters"]), stages=results, **ending)

    def _arrays(self, parameters: Mapping[str, Any]) -> dict[str, np.ndarray]:
        dtype = self.loss.objective.data.numpy().dtype
        return {name: np.array(parameters[name], dtype=dtype, order="C") for name in self.variables.order}

    def request(self) -> dict[str, Any]:
        """Return the whole fit as plain values and arrays, with the axes in Julia's (reversed) order."""
        from ..engines.julia_engine.paths import require_path
        from ..engines.julia_engine.transfer import solve_request, to_julia

        objective, values, problem = self.loss.objective, self.variables.arrays(), self._problem()
        request = solve_request(problem, require_path(problem)) | {
            "parameters": {name: values[name] for name in self.loss.names},
            "extra": {name: float(value) for name, value in values.items() if name not in self.loss.names},
            "ts": objective.ts,
            "t0": self.loss.t0,
            "data": _reversed(objective.data),
            "weights": _reversed(objective.weights),
            "observed": list(objective.observed),
            "reduction": objective.reduction,
            "bounds": {name: list(bound) for name, bound in self.variables.bounds.items()},
            "fixed": list(self.variables.fixed),
            "stages": [
                {
                    "optimizer": {"kind": type(stage.optimizer).__name__, **vars(stage.optimizer)},
                    "iterations": stage.iterations,
                    "rows": objective.rows(stage.end),
                    "goal": stage.goal,
                }
                for stage in self.stages
            ],
        }
        if isinstance(self.loss.y0, Tensor):
            request["u0"] = to_julia(flatten(self._state())[0].numpy(), problem.signature.layout)
        described = {"start": self.loss.y0, "observe": objective.observe, "penalty": self.loss.penalty}
        return request | {name: part.describe() for name, part in described.items() if isinstance(part, Serializable)}


def _reversed(values: Tensor) -> np.ndarray:
    """Return data as an array with reversed axes; multiple sample axes are merged into one."""
    return (values.flatten(1, -2) if values.ndim > 3 else values).numpy().T


def _is_known(optimizer: Optimizer) -> bool:
    """Whether the Julia engine supports this optimizer; its SGD does not support weight decay."""
    return type(optimizer) in OPTIMIZERS and not (isinstance(optimizer, SGD) and optimizer.weight_decay)


class _Reporter:
    """The callback of a fit in Julia: it draws a progress bar for each stage and calls the user's callback."""

    def __init__(self, fit: JuliaFit, bars: Progress, callback: Callable[[int, int, float], None] | None):
        self.fit, self.bars, self.callback = fit, bars, callback
        self.stage, self.done, self.task = -1, 0, None

    def __call__(self, stage: int, iteration: int, best_loss: float, loss: float) -> bool:
        if stage != self.stage:
            described, count = self.fit.stages[stage], len(self.fit.stages)
            end = described.end if described.end is not None else self.fit.loss.objective.ts[-1]
            self.task = self.bars.task(f"stage {stage + 1} of {count}, t up to {end:g}", described.iterations)
            self.stage, self.done = stage, 0
        new = iteration + 1 - self.done
        if new > 0:
            self.task.advance(new, f"loss {best_loss:.3g}")
            self.done = iteration + 1
            if self.callback is not None:
                self.callback(stage, iteration, loss)
        return True
