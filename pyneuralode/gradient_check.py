"""A check of a model's gradients that a user can run: every method against finite differences."""

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
from .engines.torch_engine.tableaus import Tableau
from .errors import ArgumentError
from .fields import VectorField
from .gradients import ForwardMode, GradientMethod, find_gradient, gradients_of
from .solvers import find_solver

FEW = 200  # numbers beyond which forward mode is not worth the wait


@dataclass(frozen=True)
class GradientRow:
    """One method: relative error of the gradient, seconds, peak bytes of torch tensors (None where not run or not counted)."""

    method: str
    error: float | None
    seconds: float | None
    peak_bytes: int | None
    note: str = ""


@dataclass(frozen=True)
class GradientCheck:
    """The rows of a check; printed it is a table."""

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
        raise ArgumentError("y0 is a tuple: check_gradient takes one tensor; join the parts into one.")
    model = copy.deepcopy(model).double()
    together = model.batch == "joint"
    y0, ts = (real_tensor(name, value, dtype=torch.float64).detach() for name, value in (("y0", y0), ("ts", ts)))
    problem = model.settings().problem(model.tensors(), model.initial_state(y0), ts)
    model.engine = choose(problem, model.engine).name
    counted = model.engine == "torch"
    model.compiled = model.compiled and not counted  # so that the memory counted is that of the method
    loss = loss or (lambda ys: ys.square().sum())
    parameters = {name: value.detach().clone() for name, value in model.tensors().items()}
    count = y0.numel() + sum(p.numel() for p in parameters.values())

    _require_differentiable(model, y0, ts)

    def run() -> tuple[dict[str, Tensor], Tensor]:
        point = {n: p.clone().requires_grad_() for n, p in parameters.items()}
        start = y0.clone().requires_grad_()
        result = loss(model.solve(start, ts, parameters=point).ys)
        if not isinstance(result, Tensor) or result.numel() != 1 or not result.requires_grad:
            raise ArgumentError(
                "loss does not return a differentiable tensor of shape (): write it in torch operations."
            )
        result.backward()
        return point, start

    chosen = _directions(parameters, y0, whole_number("directions", directions), seed)
    expected = np.array([_difference(_tight(model), loss, ts, parameters, y0, d) for d in chosen])
    if not np.isfinite(expected).all():
        raise ArgumentError("loss is not finite around y0: give a loss, an initial state and times where it is.")
    scale = np.abs(expected).max() or 1.0
    if methods is None:
        methods = gradients_of(model.engine) if together else ["Backprop", "Checkpointed"]
    rows = []
    for method in map(find_gradient, methods):
        name = type(method).__name__
        if isinstance(method, ForwardMode) and count > FEW:
            rows.append(GradientRow(name, None, None, None, f"not run: {count} numbers, and it is for at most {FEW}"))
            continue
        model.gradient = method
        with PeakMemory() as memory:
            point, start = run()
        tick = time.perf_counter()
        run()  # once more, since counting costs time
        seconds = time.perf_counter() - tick
        found = [_along({n: p.grad for n, p in point.items()}, start.grad, d) for d in chosen]
        rows.append(
            GradientRow(name, float(np.abs(found - expected).max() / scale), seconds, memory.peak if counted else None)
        )
    return GradientCheck(
        rows,
        f"{count} numbers; error along {len(chosen)} directions, relative to the largest derivative, by central differences",
    )


def _require_differentiable(model: nn.Module, y0: Tensor, ts: Tensor) -> None:
    if isinstance(model.field, VectorField):
        return
    remedy = "write it in torch operations, without .detach(), .item() or NumPy."
    try:
        slope = model.field(ts[0], model.initial_state(y0.clone().requires_grad_()))
    except RuntimeError as error:
        raise ArgumentError(
            f"the field cannot be differentiated ({str(error).splitlines()[0].rstrip('.')}): {remedy}"
        ) from None
    if not isinstance(slope, Tensor):
        raise ArgumentError(f"the field returns a {type(slope).__name__}, not a tensor: {remedy}")
    if not slope.requires_grad:
        raise ArgumentError(f"the field's slope depends on neither state nor parameters through torch: {remedy}")


def _directions(parameters: dict[str, Tensor], y0: Tensor, count: int, seed: int) -> list[tuple[dict, Tensor]]:
    """Return random directions in the space of parameters and initial state, of the size of their values."""
    generator = torch.Generator().manual_seed(seed)

    def draw(value: Tensor) -> Tensor:
        size = value.abs().mean().clamp(min=1e-3) if value.numel() else 1.0
        return size * torch.randn(value.shape, generator=generator, dtype=torch.float64)

    return [({n: draw(p) for n, p in parameters.items()}, draw(y0)) for _ in range(count)]


def _along(grads: dict[str, Tensor | None], start: Tensor | None, direction: tuple[dict, Tensor]) -> float:
    pairs = [(grads[n], d) for n, d in direction[0].items()] + [(start, direction[1])]
    return float(sum((g * d).sum() for g, d in pairs if g is not None))


def _tight(model: nn.Module) -> nn.Module:
    """Return the model for the reference: tight tolerances where it adapts its steps, else the very same steps."""
    tight = copy.copy(model)
    own = model.solver if isinstance(model.solver, Tableau) else find_solver(model.solver)
    adaptive = own.error is not None if isinstance(own, Tableau) else own.adaptive
    if adaptive and model.control.step_size is None:
        tight.solver, tight.control = (
            "Vern7" if isinstance(own, Tableau) or own.kind == "explicit" else "Rodas5P",
            replace(model.control, rtol=1e-12, atol=1e-12, max_step=np.inf, min_step=0.0),
        )
    return tight


@torch.no_grad()
def _difference(model, loss, ts, parameters, y0, direction, h: float = 1e-5) -> float:
    values = []
    for sign in (h, -h):
        moved = {n: p + sign * direction[0][n] for n, p in parameters.items()}
        values.append(float(loss(model.solve(y0 + sign * direction[1], ts, parameters=moved).ys)))
    return (values[0] - values[1]) / (2 * h)
