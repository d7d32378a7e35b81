"""A check that users can run on a model's gradients: each method is compared with finite differences."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .arguments import real_tensor, whole_number
from .engines.registry import choose
from .engines.torch_engine.memory import PeakMemory
from .errors import ArgumentError, first_line, kind_of
from .fields import VectorField
from .gradients import ForwardMode, GradientMethod, find_gradient, gradients_of
from .problem import Problem

FEW = 200  # forward mode is run for at most this many parameters and state components


@dataclass(frozen=True)
class GradientRow:
    """The results of one gradient method: relative error, seconds and peak bytes of tensors; None if not measured."""

    method: str
    error: float | None
    seconds: float | None
    peak_bytes: int | None
    note: str = ""


@dataclass(frozen=True)
class GradientCheck:
    """The results of a gradient check, one row per method; `print` shows them as a table."""

    rows: list[GradientRow]
    about: str

    def __str__(self) -> str:
        lines = [self.about, f"{'method':<24}{'error':>10}{'ms':>10}{'peak kB':>10}"]
        for row in self.rows:
            if row.error is None:
                lines.append(f"{row.method:<24}{'-':>10}{'-':>10}{'-':>10}  {row.note}")
            else:
                peak = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e3:.1f}"
                lines.append(f"{row.method:<24}{row.error:>10.1e}{1e3 * row.seconds:>10.1f}{peak:>10}")
        return "\n".join(lines)


def check_gradient(
    model: nn.Module,
    y0: Any,
    ts: Any,
    *,
    loss: Callable[[Tensor], Tensor] | None = None,
    methods: Sequence[str | GradientMethod] | None = None,
    directions: int = 8,
    seed: int = 0,
) -> GradientCheck:
    """Compare every gradient method with finite differences, in float64; see `NeuralODE.check_gradient`."""
    if isinstance(y0, tuple):
        raise ArgumentError("y0 is a tuple, but check_gradient accepts only one tensor: join the parts into one.")
    model = copy.deepcopy(model).double()
    together = model.batch == "joint"
    y0, ts = (real_tensor(name, value, dtype=torch.float64).detach() for name, value in (("y0", y0), ("ts", ts)))
    problem = model.settings().problem(model.tensors(), model.initial_state(y0), ts)
    model.engine = choose(problem, model.engine).name
    counted = model.engine == "torch"
    model.compiled = model.compiled and not counted  # the memory of compiled code is not counted
    loss = loss or (lambda ys: ys.square().sum())
    names = list(model.tensors())
    values = [*(value.detach().clone() for value in model.tensors().values()), y0]
    count = sum(value.numel() for value in values)

    _require_differentiable(model, y0, ts)

    def loss_at(solver: nn.Module, point: list[Tensor]) -> Tensor:
        *parameters, start = point
        return loss(solver.solve(start, ts, parameters=dict(zip(names, parameters))).ys)

    def gradient() -> Sequence[Tensor | None]:
        point = [value.clone().requires_grad_() for value in values]
        result = loss_at(model, point)
        if not isinstance(result, Tensor) or result.numel() != 1 or not result.requires_grad:
            raise ArgumentError(
                "loss does not return a differentiable tensor of shape (): write it with torch operations."
            )
        return torch.autograd.grad(result, point, allow_unused=True)

    @torch.no_grad()
    def difference(direction: list[Tensor], h: float = 1e-5) -> float:
        points = [[value + step * d for value, d in zip(values, direction)] for step in (h, -h)]
        after, before = (float(loss_at(tight, point)) for point in points)
        return (after - before) / (2 * h)

    tight = _tight(model, problem)
    chosen = _directions(values, whole_number("directions", directions), seed)
    expected = np.array([difference(direction) for direction in chosen])
    if not np.isfinite(expected).all():
        raise ArgumentError(
            "loss is not finite near y0: choose a loss, an initial state and times that give finite values."
        )
    scale = np.abs(expected).max() or 1.0
    if methods is None:
        methods = gradients_of(model.engine) if together else ["Backprop", "Checkpointed"]
    rows = []
    for method in map(find_gradient, methods):
        name = type(method).__name__
        if isinstance(method, ForwardMode) and count > FEW:
            rows.append(GradientRow(name, None, None, None, f"not run: {count} values exceed the limit of {FEW}"))
            continue
        model.gradient = method
        with PeakMemory() as memory:
            found = gradient()
        tick = time.perf_counter()
        gradient()  # timed separately, because counting memory takes time
        seconds = time.perf_counter() - tick
        along = [float(sum((g * d).sum() for g, d in zip(found, direction) if g is not None)) for direction in chosen]
        rows.append(
            GradientRow(name, float(np.abs(along - expected).max() / scale), seconds, memory.peak if counted else None)
        )
    return GradientCheck(
        rows,
        f"{count} values; error along {len(chosen)} directions, relative to the largest derivative, by central differences",
    )


def _require_differentiable(model: nn.Module, y0: Tensor, ts: Tensor) -> None:
    if isinstance(model.field, VectorField):
        return
    remedy = "write it with torch operations, without .detach(), .item() or NumPy."
    try:
        slope = model.field(ts[0], model.initial_state(y0.clone().requires_grad_()))
    except RuntimeError as error:
        raise ArgumentError(f"the field cannot be differentiated ({first_line(error)}): {remedy}") from None
    if not isinstance(slope, Tensor):
        raise ArgumentError(f"the field returns {kind_of(slope)}, not a tensor: {remedy}")
    if not slope.requires_grad:
        raise ArgumentError(f"autograd finds that the field depends on neither state nor parameters: {remedy}")


def _directions(values: list[Tensor], count: int, seed: int) -> list[list[Tensor]]:
    """Return random directions in the space of parameters and initial state, scaled like their values."""
    generator = torch.Generator().manual_seed(seed)

    def draw(value: Tensor) -> Tensor:
        size = value.abs().mean().clamp(min=1e-3) if value.numel() else 1.0
        return size * torch.randn(value.shape, generator=generator, dtype=torch.float64)

    return [[draw(value) for value in values] for _ in range(count)]


def _tight(model: nn.Module, problem: Problem) -> nn.Module:
    """Return the model for reference solves: with tight tolerances if its steps are adaptive, else unchanged."""
    tight = copy.copy(model)
    if problem.adaptive:
        explicit = problem.solver.kind == "explicit"
        tight.solver = "Vern7" if explicit else "Rodas5P"
        tight.control = replace(model.control, rtol=1e-12, atol=1e-12, max_step=np.inf, min_step=0.0)
    return tight
