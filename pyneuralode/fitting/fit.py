"""The fit itself: stages run one after the other, the best parameters kept, whatever happens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import real_number, real_tensor
from ..errors import ArgumentError, SolverError
from ..models import NeuralODE
from ..progress import Progress, RichProgress, SilentProgress
from .checkpoint import Checkpoint
from .curricula import GrowingSpan, Stage, stages_of
from .diagnosis import Diagnosis, diagnose
from .in_julia import JuliaFit
from .objective import Objective
from .optimizers import LBFGS, Optimizer
from .result import FitResult, StageResult
from .variables import Bound, Variables


def fit(
    model: NeuralODE,
    ts: Any,
    data: Any,
    *,
    y0: Any,
    plan: Stage | GrowingSpan | Optimizer | Sequence = Stage(),
    t0: float | None = None,
    observed: Sequence[int] | None = None,
    observe: Callable | None = None,
    weights: Any = None,
    mask: Any = None,
    reduction: str = "sum",
    penalty: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor] | None = None,
    bounds: Mapping[str, Bound] | None = None,
    fixed: Sequence[str] = (),
    extra: Mapping[str, float] | None = None,
    progress: bool | Progress = False,
    callback: Callable[[int, int, float], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
) -> FitResult:
    """Fit a model's parameters to a time series by least squares.

    Parameters
    ----------
    model : NeuralODE
        Its parameters are the start, and on return the best ones found.
    ts, data, observed, observe, weights, mask, reduction
        The data and the loss: see `pyneuralode.fitting.objective.Objective`.
    y0 : array, tensor, or callable
        State at `t0`; a callable ``y0(parameters)`` makes it from the parameters (and `extra`), for initial
        conditions that are fitted too.
    plan : Stage, GrowingSpan, Optimizer, or a sequence of them
        What to do, in order. Each stage starts from the best parameters of the one before.
    t0 : float, optional
        Time of `y0`; the first time of the data unless given.
    penalty : callable, optional
        ``penalty(ts, ys, parameters)`` -> tensor of shape (), added to the loss to make the objective that is
        minimized. The losses reported, and a stage's goal, leave it out. Rows of NaN, with ``mask="nan"``, are
        times at which it sees the states (T, ..., d) though there is no data.
    bounds : mapping of name to (low, high), optional
        Open bounds of parameters, None for an open end; kept by a change of variables.
    fixed : sequence of str
        Names of parameters that do not move.
    extra : mapping of name to number, optional
        Further parameters, known to `y0`, `observe` and `penalty` by name.
    progress : bool or Progress
        True draws a progress bar.
    callback : callable, optional
        ``callback(stage, iteration, loss)`` after every iteration.
    checkpoint : path, optional
        File to which the fit is saved every `checkpoint_every` iterations; with ``resume=True`` a fit stopped in
        between goes on from there and ends exactly as if it had not been stopped.

    Returns
    -------
    FitResult
        Its `diagnosis` says how much of the data the fit explains and whether it converged; ``print(result)`` shows it.
        On the Julia engine the plan runs whole in Julia where all parts are described (see `Serializable`) and there is no
        checkpoint; otherwise Julia gives each gradient and the optimizers are torch's. Also after Ctrl-C and where the loss becomes non-finite: then ``finished`` is False, ``message`` says what
        happened, and the best parameters so far are in the model.
    """
    stages = stages_of(plan)
    state = y0 if not callable(y0) else y0(_starting_tensors(model, extra))
    dtype, device = _kind(state)
    objective = Objective(
        ts,
        data,
        observed=observed,
        observe=observe,
        weights=weights,
        mask=mask,
        reduction=reduction,
        dtype=dtype,
        device=device,
    )
    for stage in stages:
        rows = objective.rows(stage.end)
        if rows == 0:
            raise ArgumentError(
                f"end is {stage.end}, before the first time of the data, {objective.ts[0]:g}: give a later end."
            )
        if not bool(objective.weights[:rows].any()):
            raise ArgumentError(f"end is {stage.end}, and no value up to there counts: give a later end.")
    start = objective.ts[0] if t0 is None else real_number("t0", t0, "give a time, not after the first of the data")
    if start > objective.ts[0]:
        raise ArgumentError(f"t0 is {start:g}, after the first time of the data, {objective.ts[0]:g}: give it or less.")
    # A parameter that asks for no gradient is not to be moved.
    frozen = [name for name, value in model.tensors().items() if not value.requires_grad]
    variables = Variables(
        {name: value.to(dtype) for name, value in _starting_tensors(model, extra).items()},
        bounds or {},
        ((fixed,) if isinstance(fixed, str) else tuple(fixed)) + tuple(frozen),
    )
    names = list(model.tensors())

    def predict(parameters: dict[str, Tensor], rows: int) -> tuple[Tensor, Tensor, Tensor]:
        initial = y0(parameters) if callable(y0) else y0_tensor
        own = {name: parameters[name] for name in names}
        if rows == 1 and start == objective.ts[0]:
            states = model.initial_state(initial)[None]
        else:
            states = model.solve(initial, objective.ts[:rows], t0=start, parameters=own).ys
        seen = torch.as_tensor(objective.ts[:rows], dtype=dtype, device=device)
        return seen, states, objective.predict(seen, states, parameters)

    def loss_of(parameters: dict[str, Tensor], rows: int) -> tuple[Tensor, Tensor]:
        seen, states, prediction = predict(parameters, rows)
        loss = objective.loss(prediction)
        return loss, loss if penalty is None else loss + penalty(seen, states, parameters)

    y0_tensor = None if callable(y0) else real_tensor("y0", y0, dtype=dtype, device=device).detach()
    whole = JuliaFit(model, objective, variables, stages, y0 if callable(y0) else y0_tensor, start, penalty)
    run = _Run(stages, variables, objective, loss_of, callback)
    before = variables.arrays()
    store = None if checkpoint is None else Checkpoint(Path(checkpoint), run.identity(), checkpoint_every)
    with RichProgress() if progress is True else nullcontext(progress or SilentProgress()) as bars:
        if store is None and whole.applies():
            result = whole.run(bars, callback)
        else:
            result = run.outcome(model, run.execute(bars, store, resume))
    model.set_arrays({name: result.parameters[name] for name in names})
    evaluated = [k for k, stage in enumerate(result.stages) if stage.evaluations]
    if not evaluated:
        return result
    last = evaluated[-1]
    variables.place(result.parameters)
    found = diagnose(
        objective,
        variables,
        before,
        result.stages[last],
        lambda parameters, rows: predict(parameters, rows)[2],
        lambda parameters, rows: loss_of(parameters, rows)[1],
        stages[last].goal,
    )
    return replace(result, diagnosis=found, message=_conclusion(found) if result.finished else result.message)


def _conclusion(found: Diagnosis) -> str:
    """Return how a fit ended whose whole plan ran."""
    ended = "reached its goal" if found.at_goal else "converged" if found.converged else "has not converged"
    worst = found.worst
    explains = f", and explains {max(0, 100 * worst.explained):.3g} % of the variance of {worst.name}" if worst else ""
    return f"the whole plan ran; the fit {ended}{explains}"


def _starting_tensors(model: NeuralODE, extra: Mapping[str, float] | None) -> dict[str, Tensor]:
    tensors = {name: real_tensor(name, value.detach()) for name, value in model.tensors().items()}
    for name, value in (extra or {}).items():
        if name in tensors:
            raise ArgumentError(f"extra names {name!r}, which is a parameter of the model: give another name.")
        tensors[name] = real_tensor(name, value, dtype=torch.float64)
    return tensors


def _kind(y0: Any) -> tuple[torch.dtype, torch.device]:
    if isinstance(y0, Tensor):
        return (y0.dtype if y0.is_floating_point() else torch.float64), y0.device
    single = isinstance(y0, np.ndarray) and y0.dtype == np.float32
    return (torch.float32 if single else torch.float64), torch.device("cpu")


class _Failed(Exception):
    """The loss at the current parameters is not a finite number."""


class _Run:
    """The state of a fit between its iterations; all of it goes into a checkpoint."""

    def __init__(self, stages: list[Stage], variables: Variables, objective: Objective, loss_of: Callable, callback):
        self.stages, self.variables, self.objective, self.loss_of = stages, variables, objective, loss_of
        self.callback = callback
        self.results: list[StageResult] = []
        self.best: dict[str, Tensor] = variables.snapshot()
        self.optimizer: torch.optim.Optimizer | None = None
        self.begun = (
            0,
            math.inf,
        )  # the iteration of the stage at which the optimizer started, and the best objective then
        self.interrupted = False

    def identity(self) -> dict[str, str]:
        """Return what has to be the same for a fit to go on from a checkpoint."""
        free = {name: (str(value.dtype), *value.shape) for name, value in self.variables.free.items()}
        return {
            "plan": repr(self.stages),
            "free parameters": repr(free),
            "bounds": repr(self.variables.bounds),
            "data": self.objective.digest(),
        }

    def execute(self, progress: Progress, store: Checkpoint | None, resume: bool) -> str | None:
        """Run all stages that are left; return why it stopped early, or None."""
        if store is not None and resume and store.exists():
            store.load(self)
        first = max(0, len(self.results) - 1)
        for k in range(first, len(self.stages)):
            stage = self.stages[k]
            label = f"stage {k + 1} of {len(self.stages)}"
            end = stage.end if stage.end is not None else self.objective.ts[-1]
            task = progress.task(f"{label}, t up to {end:g}", stage.iterations)
            try:
                if k == len(self.results):
                    self._begin(stage)
                task.advance(len(self.results[-1].losses))
                self._stage(k, stage, task, store)
            except KeyboardInterrupt:
                self.interrupted = True
                message = f"interrupted in {label}, iteration {len(self.results[-1].losses)}"
            except (SolverError, _Failed) as error:
                message = f"stopped in {label}, iteration {len(self.results[-1].losses)}: {error}"
            else:
                continue
            finally:
                self._close()
            return f"{message}; the parameters are the best so far"
        return None

    def outcome(self, model: NeuralODE, message: str | None) -> FitResult:
        """Return the best of the last stage that was evaluated; `message` says why the plan stopped early."""
        best = next((stage for stage in reversed(self.results) if stage.evaluations), self.results[-1])
        return FitResult(
            model=model,
            loss=best.best_loss,
            parameters=best.parameters,
            stages=self.results,
            finished=message is None,
            interrupted=self.interrupted,
            message=message or "the whole plan ran",
        )

    def _begin(self, stage: Stage) -> None:
        self.results.append(StageResult(stage.end, repr(stage.optimizer)))
        self._start(stage)

    def _start(self, stage: Stage) -> None:
        """Let the optimizer start anew from the best parameters."""
        self.variables.restore(self.best)
        self.make_optimizer(stage)
        self.begun = len(self.results[-1].losses), self.results[-1].best_objective

    def _spent(self, stage: Stage) -> bool:
        return stage.optimizer.spent(self.results[-1].objectives, self.begun[0])

    def _over(self, stage: Stage) -> bool:
        result = self.results[-1]
        reached = stage.goal is not None and result.best_loss <= stage.goal
        fruitless = not result.best_objective < self.begun[1]
        return reached or len(result.losses) >= stage.iterations or (fruitless and self._spent(stage))

    def make_optimizer(self, stage: Stage) -> None:
        self.optimizer = stage.optimizer.make(list(self.variables.free.values()))

    def _stage(self, k: int, stage: Stage, task, store: Checkpoint | None) -> None:
        result, rows, settings = self.results[-1], self.objective.rows(stage.end), stage.optimizer
        closure = _Closure(self, rows, settings.clip, isinstance(settings, LBFGS))
        tick = time.perf_counter()
        while not self._over(stage):
            if self._spent(stage):
                self._start(stage)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.rate(len(result.losses), stage.iterations)
            self.optimizer.step(closure)
            loss, total = closure.first
            closure.first = None
            result.losses.append(loss)
            result.objectives.append(total)
            now = time.perf_counter()
            result.seconds += now - tick
            tick = now
            task.advance(1, f"loss {result.best_loss:.3g}")
            if self.callback is not None:
                self.callback(k, len(result.losses) - 1, loss)
            if store is not None and len(result.losses) % store.every == 0:
                self._close()
                store.save(self)

    def _close(self) -> None:
        """Write down the best parameters of the stage as arrays within their bounds."""
        now = self.variables.snapshot()
        self.variables.restore(self.best)
        self.results[-1].parameters = self.variables.arrays()
        self.variables.restore(now)


class _Closure:
    """The loss and its gradient at the current parameters, as torch optimizers call it; keeps the best."""

    def __init__(self, run: _Run, rows: int, clip: float | None, searching: bool):
        self.run, self.rows, self.clip, self.searching = run, rows, clip, searching
        self.first: tuple[float, float] | None = None  # loss and objective where an iteration begins
        self.at: list[Tensor] | None = None
        self.last: tuple[float, float] | None = None
        # torch's L-BFGS drops curvature below an absolute 1e-10: the objective it sees starts at 1.
        before = run.results[-1].objectives
        self.scale = 1 / before[0] if before and before[0] > 0 else None

    def __call__(self) -> Tensor:
        free = list(self.run.variables.free.values())
        # L-BFGS begins each iteration where its last line search ended: no need to solve there again.
        if self.searching and self.at is not None and all(torch.equal(a, b) for a, b in zip(self.at, free)):
            return self._deliver(free)
        for tensor in free:
            tensor.grad = None
        try:
            loss, total = self.run.loss_of(self.run.variables.values(), self.rows)
            value = total.item()
            if not math.isfinite(value):
                raise _Failed(f"the loss is {value}")
            if not total.requires_grad:
                raise ArgumentError(
                    f"the loss of the first {self.rows} rows depends on no free parameter: let the stage end later, or give "
                    "an earlier t0, and write the field in torch operations."
                )
            total.backward()
        except (SolverError, _Failed):
            if not self.searching or self.last is None:
                raise
            # A line search may try parameters that cannot be solved: a wall sends it back.
            for tensor in free:
                tensor.grad = torch.zeros_like(tensor)
            self.at = None  # the gradients of the last good point are gone
            return torch.full((), 1e6 * (1 + abs(self.last[1]) * self.scale), dtype=free[0].dtype)
        self.last = value if loss is total else loss.item(), value
        self._account(self.run.results[-1])
        for tensor in free:
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(free, self.clip)
        if self.searching:
            if self.scale is None:
                self.scale = 1 / self.last[1] if self.last[1] > 0 else 1.0
            for tensor in free:
                tensor.grad.mul_(self.scale)
            self.at = [t.detach().clone() for t in free]
        return self._deliver(free)

    def _account(self, result: StageResult) -> None:
        result.evaluations += 1
        loss, total = self.last
        if total < result.best_objective:
            result.best_loss, result.best_objective = loss, total
            self.run.best = self.run.variables.snapshot()

    def _deliver(self, free: list[Tensor]) -> Tensor:
        if self.first is None:
            self.first = self.last
        return torch.full((), self.last[1] * (self.scale or 1.0), dtype=free[0].dtype)
