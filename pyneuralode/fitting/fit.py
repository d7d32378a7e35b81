"""Fitting a model to a time series: the arguments are checked, the plan runs, and the result is diagnosed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import real_number, real_tensor
from ..errors import ArgumentError
from ..models import NeuralODE
from ..progress import Progress, open_progress
from .curricula import GrowingSpan, Stage, stages_of
from .diagnosis import Diagnosis, diagnose
from .in_julia import JuliaFit
from .objective import Objective
from .optimizers import Optimizer
from .result import FitResult
from .staged_run import StagedRun
from .trajectory_loss import Penalty, TrajectoryLoss
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
    penalty: Penalty | None = None,
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
        The fit starts from the model's parameters, and sets them to the best ones found.
    ts : (T,)
        Times of the data, increasing, in the model's unit of time.
    data : (T,) or (T, ..., k)
        Measured values of the k observed components, in the unit of the state.
    observed, observe, weights, mask, reduction
        Which part of the state is compared with the data, and how the loss is computed from the errors: see
        `pyneuralode.fitting.objective.Objective`.
    y0 : array, tensor, or callable
        State (..., d) at `t0`. A callable ``y0(parameters)`` computes it from the parameters and `extra`, for initial
        conditions that are fitted too.
    plan : Stage, GrowingSpan, Optimizer, or a sequence of them
        The stages, in order. Each stage starts from the best parameters of the previous one.
    t0 : float, optional
        Time of `y0`, by default the first time of the data.
    penalty : callable, optional
        ``penalty(ts, ys, parameters)`` -> tensor of shape (), added to the loss; the sum is minimized. Reported losses
        and a stage's goal do not include it. To penalize states at times without data, add rows of NaN at these times
        and use ``mask="nan"``.
    bounds : mapping of name to (low, high), optional
        Strict bounds of parameters, where None means no bound; they are enforced by a change of variables.
    fixed : sequence of str
        Names of parameters that stay constant.
    extra : mapping of name to number or array, optional
        Additional parameters, which `y0`, `observe` and `penalty` receive by name together with the model's.
    progress : bool or Progress
        True displays a progress bar.
    callback : callable, optional
        ``callback(stage, iteration, loss)`` is called after every iteration; stages and iterations count from 0.
    checkpoint : path, optional
        File to which the fit is saved every `checkpoint_every` iterations and at the end of a stage. With
        ``resume=True`` a fit that was stopped continues from there and ends exactly as if it had not been stopped.

    Returns
    -------
    FitResult
        The best parameters, the history and the reason why the fit ended. After Ctrl-C, a failed solve or a
        non-finite loss, ``finished`` is False and the parameters are the best so far. `diagnosis` states how much of
        the data the fit explains and whether it converged; ``print(result)`` shows it.

    Raises
    ------
    ArgumentError
        If an argument is invalid, or the checkpoint belongs to a different fit.
    DataError
        If the data are empty, not increasing in time, or not finite.
    ModelFileError
        If the checkpoint is damaged.

    Notes
    -----
    With the Julia engine, the whole plan runs in Julia if there is no checkpoint and all given callables are
    `Serializable`. Otherwise Julia computes each gradient, and torch's optimizers use it.

    Examples
    --------
    >>> import numpy as np, pyneuralode as pn
    >>> ts = np.linspace(0, 3, 16)
    >>> model = pn.NeuralODE(pn.Equations({"x": "-k*x"}, parameters={"k": 0.1}), engine="torch")
    >>> result = pn.fit(model, ts, np.exp(-0.7 * ts), y0=[1.0], plan=pn.Stage(pn.LBFGS(), 30))
    >>> round(float(result.parameters["k"]), 3)
    0.7
    """
    stages = stages_of(plan)
    start = _starting_tensors(model, extra)
    dtype, device = _dtype_and_device(y0(start) if callable(y0) else y0)
    compared = {"observed": observed, "observe": observe, "weights": weights, "mask": mask, "reduction": reduction}
    objective = Objective(ts, data, **compared, dtype=dtype, device=device)
    _check_ends(stages, objective)
    first = objective.ts[0]
    t0 = first if t0 is None else real_number("t0", t0, "give a time no later than the first data time")
    if t0 > first:
        raise ArgumentError(f"t0 is {t0:g}, later than the first data time, {first:g}: choose t0 <= {first:g}.")
    named = [fixed] if isinstance(fixed, str) else fixed
    frozen = [name for name, value in model.tensors().items() if not value.requires_grad]
    start = {name: value.to(dtype) for name, value in start.items()}
    variables = Variables(start, bounds or {}, (*named, *frozen))
    before = variables.arrays()
    loss = TrajectoryLoss(model, objective, y0, t0, penalty)
    in_julia = JuliaFit(loss, variables, stages)
    run = StagedRun(stages, variables, loss)
    with open_progress(progress) as bars:
        if checkpoint is None and in_julia.applies():
            result = in_julia.run(bars, callback)
        else:
            run.execute(bars, callback, checkpoint, checkpoint_every, resume)
            result = run.result(model)
    model.set_arrays({name: result.parameters[name] for name in loss.names})
    evaluated = [(stage, settings.goal) for stage, settings in zip(result.stages, stages) if stage.evaluations]
    if not evaluated:
        return result
    variables.set_arrays(result.parameters)
    diagnosis = diagnose(loss, variables, before, *evaluated[-1])
    return replace(result, diagnosis=diagnosis, message=_conclusion(diagnosis) if result.finished else result.message)


def _check_ends(stages: list[Stage], objective: Objective) -> None:
    """Raise ArgumentError unless every stage uses at least one value of the data."""
    for stage in stages:
        rows = objective.rows(stage.end)
        if rows == 0:
            raise ArgumentError(
                f"end is {stage.end}, before the first data time, {objective.ts[0]:g}: use a later end."
            )
        if not bool(objective.weights[:rows].any()):
            raise ArgumentError(
                f"end is {stage.end}, but all values up to this time are masked or have weight 0: use a later end."
            )


def _conclusion(diagnosis: Diagnosis) -> str:
    """Return the message of a fit whose whole plan ran: whether it converged, and how much of the data it explains."""
    ended = "reached its goal" if diagnosis.at_goal else "converged" if diagnosis.converged else "has not converged"
    worst = diagnosis.worst_column
    explains = f", and explains {max(0, 100 * worst.explained):.3g} % of the variance of {worst.name}" if worst else ""
    return f"the whole plan ran; the fit {ended}{explains}"


def _starting_tensors(model: NeuralODE, extra: Mapping[str, float] | None) -> dict[str, Tensor]:
    """Return the initial values of all parameters by name: the model's and the extra ones."""
    tensors = {name: real_tensor(name, value.detach()) for name, value in model.tensors().items()}
    for name, value in (extra or {}).items():
        if name in tensors:
            raise ArgumentError(f"extra contains {name!r}, which is a parameter of the model: choose another name.")
        tensors[name] = real_tensor(name, value, dtype=torch.float64)
    return tensors


def _dtype_and_device(y0: Any) -> tuple[torch.dtype, torch.device]:
    """Return the dtype and device of a fit that starts from the state `y0`."""
    if isinstance(y0, Tensor):
        return (y0.dtype if y0.is_floating_point() else torch.float64), y0.device
    single = isinstance(y0, np.ndarray) and y0.dtype == np.float32
    return (torch.float32 if single else torch.float64), torch.device("cpu")
