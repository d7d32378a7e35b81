"""A running plan: stages run in sequence, each starting from the best parameters of the previous one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..models import NeuralODE
from ..progress import Progress, ProgressTask
from .closure import Closure
from .curricula import Stage
from .result import FitResult, StageResult
from .run import FitRun, assign_tensors
from .trajectory_loss import TrajectoryLoss
from .variables import Variables


class StagedRun(FitRun):
    """A fit that runs the stages of a plan; `results` contains a result for each stage that has run or is running."""

    def __init__(self, stages: list[Stage], variables: Variables, loss: TrajectoryLoss):
        self.stages, self.variables, self.loss = stages, variables, loss
        self.results: list[StageResult] = []
        # The iteration of the stage at which the optimizer was last started, and the best objective at that point.
        self.optimizer_start = (0, math.inf)
        identity = {"plan": repr(stages), "bounds": repr(variables.bounds), "data": loss.objective.digest()}
        super().__init__(variables.free, identity)

    @property
    def history(self) -> StageResult:
        return self.results[-1]

    def position(self) -> str:
        return f"in stage {len(self.results)} of {len(self.stages)}, iteration {len(self.history.losses)}"

    def state(self) -> dict[str, Any]:
        return {"results": [vars(result) for result in self.results], "optimizer_start": self.optimizer_start}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.results = [StageResult(**values) for values in state["results"]]
        self.optimizer = self.stages[len(self.results) - 1].optimizer.make(self.free)
        self.optimizer_start = tuple(state["optimizer_start"])

    def iterate(self, progress: Progress) -> None:
        for k in range(max(0, len(self.results) - 1), len(self.stages)):
            self.stage, stage, begins = (k,), self.stages[k], k == len(self.results)
            if begins:
                self.results.append(StageResult(stage.end, repr(stage.optimizer)))
            try:
                if begins:
                    self._start_optimizer(stage)
                end = self.loss.objective.ts[-1] if stage.end is None else stage.end
                task = progress.task(f"stage {k + 1} of {len(self.stages)}, t up to {end:g}", stage.iterations)
                task.advance(len(self.history.losses))
                self._run_stage(stage, task)
            finally:
                assign_tensors(self.tensors, self.best)
                self.history.parameters = self.variables.arrays()

    def result(self, model: NeuralODE) -> FitResult:
        """Return the result, with the best parameters of the last stage in which the loss was evaluated."""
        best = next((stage for stage in reversed(self.results) if stage.evaluations), self.history)
        return FitResult(model, best.best_loss, best.parameters, self.results, **self.ending("the whole plan ran"))

    def _run_stage(self, stage: Stage, task: ProgressTask) -> None:
        history, rows = self.history, self.loss.objective.rows(stage.end)
        closure = Closure(self, lambda: self.loss(self.variables.values(), rows), stage.optimizer)
        self.start_clock()
        while not self._is_over(stage):
            if self._needs_restart(stage):
                self._start_optimizer(stage)
            self.set_rate(stage.optimizer.rate(len(history.losses), stage.iterations))
            self.optimizer.step(closure)
            self.record(*closure.pop_first(), stage.iterations, task, f"loss {history.best_loss:.3g}")

    def _is_over(self, stage: Stage) -> bool:
        history = self.history
        if len(history.losses) >= stage.iterations or (stage.goal is not None and history.best_loss <= stage.goal):
            return True
        return self._needs_restart(stage) and not history.best_objective < self.optimizer_start[1]

    def _needs_restart(self, stage: Stage) -> bool:
        return stage.optimizer.needs_restart(self.history.objectives, self.optimizer_start[0])

    def _start_optimizer(self, stage: Stage) -> None:
        """Create a new optimizer, with empty memory, that starts from the best parameters."""
        assign_tensors(self.tensors, self.best)
        self.optimizer = stage.optimizer.make(self.free)
        self.optimizer_start = len(self.history.losses), self.history.best_objective
