"""A fit that runs whole on the Julia engine: one crossing for the plan, progress through a callback."""

from __future__ import annotations

from collections.abc import Callable
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
from .objective import Objective
from .optimizers import LBFGS, SGD, Adam, AdamW, Optimizer, RMSprop
from .result import FitResult, StageResult
from .specs import Serializable
from .variables import Variables

OPTIMIZERS = (Adam, AdamW, RMSprop, SGD, LBFGS)


@dataclass
class JuliaFit:
    """The parts of a fit, as `pyneuralode.fit` has checked them.

    `y0` is a state, or a callable that makes it from the parameters.
    """

    model: NeuralODE
    objective: Objective
    variables: Variables
    stages: list[Stage]
    y0: Tensor | Callable
    start: float
    penalty: Callable | None

    def applies(self) -> bool:
        """Whether the model's engine is Julia and all parts are described, so that nothing has to be called back."""
        pieces = (self.objective.observe, self.penalty, self.y0)
        described = all(piece is None or isinstance(piece, (Serializable, Tensor)) for piece in pieces)
        # A start that is made from parameters is not augmented in Julia.
        described = described and (
            isinstance(self.y0, Tensor) or type(self.model).initial_state is NeuralODE.initial_state
        )
        known = all(_is_known(stage.optimizer) for stage in self.stages)
        if not (described and known) or self.objective.data.is_cuda or choose_engine(self.model.engine) != "julia":
            return False
        return choose(self._problem(), self.model.engine).name == "julia"

    def _problem(self) -> Problem:
        """Return what the fit solves again and again."""
        model, dtype = self.model, self.objective.data.dtype
        parameters = {name: value.detach().to(dtype).requires_grad_() for name, value in model.tensors().items()}
        state = (
            torch.zeros(model.field.dim, dtype=dtype)
            if isinstance(self.y0, Serializable)
            else model.initial_state(self.y0)
        )
        with torch.enable_grad():
            return model.settings().problem(parameters, state, self.objective.ts)

    def run(self, bars: Progress, callback: Callable[[int, int, float], None] | None) -> FitResult:
        """Run the plan; the model's parameters are the best ones in the end."""
        from ..engines.julia_engine.session import call

        reporter = _Reporter(self, bars, callback)
        reply = call("fit", self.request() | {"every": 10 if callback is None else 1}, reporter)
        results = [
            StageResult(
                stage.end,
                repr(stage.optimizer),
                np.asarray(history["losses"]).tolist(),
                np.asarray(history["objectives"]).tolist(),
                history["best_loss"],
                history["best_objective"],
                {name: self._array(history["parameters"][name]) for name in self.variables.order},
                history["evaluations"],
                history["seconds"],
            )
            for stage, history in zip(self.stages, reply["stages"])
        ]
        parameters = {name: self._array(reply["parameters"][name]) for name in self.variables.order}
        return FitResult(
            model=self.model,
            loss=reply["loss"],
            parameters=parameters,
            stages=results,
            finished=reply["finished"],
            interrupted=reply["interrupted"],
            message=reply["message"],
        )

    def _array(self, value: Any) -> np.ndarray:
        return np.array(value, dtype=self.objective.data.numpy().dtype, order="C")

    def request(self) -> dict[str, Any]:
        """Return the whole fit as plain values and arrays, axes reversed as Julia has them."""
        from ..engines.julia_engine.paths import require_path
        from ..engines.julia_engine.transfer import solve_request, to_julia

        own = list(self.model.tensors())
        objective, values = self.objective, self.variables.arrays()
        problem = self._problem()
        layout = problem.signature.layout
        request = solve_request(problem, require_path(problem)) | {
            "parameters": {name: values[name] for name in own},
            "extra": {name: float(value) for name, value in values.items() if name not in own},
            "ts": objective.ts,
            "t0": self.start,
            "data": objective.data.numpy().T,
            "weights": objective.weights.numpy().T,
            "observed": list(objective.observed),
            "reduction": objective.reduction,
            "bounds": {name: list(bound) for name, bound in self.variables.bounds.items()},
            "fixed": list(self.variables.fixed),
            "stages": [
                {
                    "optimizer": {"kind": type(stage.optimizer).__name__, **vars(stage.optimizer)},
                    "iterations": int(stage.iterations),
                    "rows": objective.rows(stage.end),
                    "goal": stage.goal,
                }
                for stage in self.stages
            ],
        }
        if isinstance(self.y0, Serializable):
            request["start"] = self.y0.describe()
        else:
            request["u0"] = to_julia(flatten(self.model.initial_state(self.y0))[0].numpy(), layout)
            if len(layout.shapes[0]) > 2:  # samples along several axes become one
                for name in ("data", "weights"):
                    array = request[name].T
                    request[name] = array.reshape(len(array), -1, array.shape[-1]).T
        if objective.observe is not None:
            request["observe"] = objective.observe.describe()
        if self.penalty is not None:
            request["penalty"] = self.penalty.describe()
        return request


def _is_known(optimizer: Optimizer) -> bool:
    """Whether Julia's side has this optimizer: its plain gradient descent has no weight decay."""
    return type(optimizer) in OPTIMIZERS and not (isinstance(optimizer, SGD) and optimizer.weight_decay)


class _Reporter:
    """What Julia calls as the fit goes on: draws a bar for each stage and calls the caller's callback."""

    def __init__(self, fit: JuliaFit, bars: Progress, callback: Callable[[int, int, float], None] | None):
        self.fit, self.bars, self.callback = fit, bars, callback
        self.stage, self.done, self.task = -1, 0, None

    def __call__(self, stage: int, iteration: int, best_loss: float, loss: float) -> bool:
        if stage != self.stage:
            described, count = self.fit.stages[stage], len(self.fit.stages)
            end = described.end if described.end is not None else self.fit.objective.ts[-1]
            self.task = self.bars.task(f"stage {stage + 1} of {count}, t up to {end:g}", described.iterations)
            self.stage, self.done = stage, 0
        new = iteration + 1 - self.done
        if new > 0:
            self.task.advance(new, f"loss {best_loss:.3g}")
            self.done = iteration + 1
            if self.callback is not None:
                self.callback(stage, iteration, loss)
        return True
