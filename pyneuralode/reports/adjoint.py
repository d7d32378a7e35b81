"""Report `adjoint`: memory use and accuracy of each gradient method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..dropin import odeint_adjoint
from ..fields import MLP, Equations, Linear
from ..gradients import gradients_of
from ..models import NeuralODE
from ..plotting.gradients import gradient_errors, wrong_sign
from ..plotting.gradients import memory_growth as memory_against_steps
from .base import Context, Findings, Row, Table
from .gradient_memory import memory_growth, peak_memory

SPIRAL = ((-0.1, -2.0), (2.0, -0.1))
STIFFNESS = 25.0
THEIR_DERIVATIVE = -1.27e-3
THEIR_BACKSOLVE = 8e-4


def spiral_gradient(method: str, **settings) -> Tensor:
    """Return the gradient of u_1(5) + u_2(5) with respect to the cubic spiral's matrix and initial state (2, 0)."""
    model = NeuralODE(Linear(SPIRAL, input_map="cube"), gradient=method, **settings)
    start = torch.tensor([2.0, 0.0], dtype=torch.float64, requires_grad=True)
    ys = model(start, [0.0, 5.0])
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(ys[-1].sum(), (model.weights["A"], start))])


def stiff_gradient(method: str, **settings) -> Tensor:
    """Return dy(1)/dk of y' = -k (y - cos t), y(0) = 0, k = 25."""
    field = Equations({"y": "-k*(y - cos(t))"}, parameters={"k": STIFFNESS})
    model = NeuralODE(field, gradient=method, **settings)
    ys = model(torch.zeros(1, dtype=torch.float64), [0.0, 1.0])
    return torch.autograd.grad(ys[-1].sum(), model.weights["k"])[0].reshape(1)


def stiff_gradient_of_torchdiffeq(tolerance: float) -> float:
    """Return dy(1)/dk, as in `stiff_gradient`, from our drop-in for torchdiffeq's `odeint_adjoint`, with dopri5."""
    k = torch.tensor(STIFFNESS, dtype=torch.float64, requires_grad=True)
    start, ts = torch.zeros(1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    field = lambda t, y: -k * (y - torch.cos(t))  # noqa: E731
    ys = odeint_adjoint(field, start, ts, rtol=tolerance, atol=tolerance, method="dopri5", adjoint_params=(k,))
    return float(torch.autograd.grad(ys[-1].sum(), k)[0])


def stiff_truth(k: float = STIFFNESS) -> float:
    """Return dy(1)/dk in closed form, for y = (k^2 cos t + k sin t - k^2 exp(-k t)) / (k^2 + 1)."""
    t, square = 1.0, k * k + 1
    numerator = k * k * np.cos(t) + k * np.sin(t) - k * k * np.exp(-k * t)
    slope = 2 * k * np.cos(t) + np.sin(t) - (2 * k - k * k * t) * np.exp(-k * t)
    return float(slope / square - 2 * k * numerator / square**2)


_JULIA_NOTE = (
    "InterpolatingAdjoint, GaussAdjoint, QuadratureAdjoint and BacksolveAdjoint are SciMLSensitivity's, applied to "
    "solves by OrdinaryDiffEq; GaussAdjoint and QuadratureAdjoint integrate the parameter gradient separately from "
    "the adjoint. ForwardMode passes dual numbers through the solver."
)


def run(context: Context) -> Findings:
    tolerances = [10.0**-p for p in (range(2, 7) if context.quick else range(2, 10))]
    counts = [10, 30, 100] if context.quick else [10, 30, 100, 300, 1000]
    methods = gradients_of(context.engine)
    task = context.progress.task("gradient errors", 4 * len(tolerances) * len(methods))
    tight = {"solver": "DP8", "rtol": 1e-13, "atol": 1e-13, "engine": "torch"}
    problems: dict[str, tuple[Callable, Tensor]] = {
        "cubic spiral": (spiral_gradient, spiral_gradient("Backprop", **tight)),
        "y' = -25 (y - cos t)": (stiff_gradient, torch.tensor([stiff_truth()], dtype=torch.float64)),
    }
    panels: dict[str, dict[str, list[float]]] = {}
    derivatives: dict[str, list[float]] = {}
    for problem, (gradient, truth) in problems.items():
        for solver in ("DP5", "Tsit5"):
            errors: dict[str, list[float]] = {name: [] for name in methods}
            for tolerance in tolerances:
                for name in methods:
                    found = gradient(name, solver=solver, rtol=tolerance, atol=tolerance, engine=context.engine)
                    errors[name].append(float((found - truth).norm() / truth.norm()))
                    if gradient is stiff_gradient and solver == "DP5":
                        derivatives.setdefault(name, []).append(float(found[0]))
                    task.advance(1, f"{problem}, {solver}, {tolerance:g}")
            panels[f"{problem}, {solver}"] = errors
    derivatives["odeint_adjoint"] = [stiff_gradient_of_torchdiffeq(tolerance) for tolerance in tolerances]
    third = tolerances.index(1e-3)
    peaks = _memory(counts, context)
    growth = memory_growth(counts, peaks, state=8 * 16 * 4)
    by, theirs, match = "dy(1)/dk by", THEIR_DERIVATIVE, "match"
    backsolve, torchdiffeq = derivatives["BacksolveAdjoint"], derivatives["odeint_adjoint"][third]
    flipped = f"{by} odeint_adjoint at tolerance 1e-3 (wrong sign)"
    rows = [
        Row("dy(1)/dk in closed form, k = 25", stiff_truth(), theirs, "", match, "definition", tolerance=0.005),
        Row(flipped, torchdiffeq, THEIR_BACKSOLVE, "", match, "torchdiffeq", tolerance=0.01),
        Row(f"{by} BacksolveAdjoint at tolerance 1e-2 (wrong sign)", backsolve[0], theirs, better=match),
        Row(f"{by} BacksolveAdjoint at tolerance 1e-3", backsolve[third], theirs, better=match),
        Row(f"{by} Backprop at tolerance 1e-3", derivatives["Backprop"][third], theirs, better=match),
        Row(
            "BacksolveAdjoint: memory per step", growth["BacksolveAdjoint"], 0.0, "states", "lower", "R 2.1: O(1)", 0.1
        ),
        Row("Checkpointed: memory per step", growth["Checkpointed"], None, "states", target=1.01),
        Row("Backprop: memory per step", growth["Backprop"], None, "states"),
    ]
    for title, errors in panels.items():
        last = max(values[-1] for name, values in errors.items() if name != "BacksolveAdjoint")
        name = f"{title} at {tolerances[-1]:.0e}: largest error of the methods other than BacksolveAdjoint"
        rows.append(Row(name, last, target=1e-5))
    return Findings(
        rows=rows,
        figures={
            "errors": gradient_errors(tolerances, panels),
            "wrong_sign": wrong_sign(tolerances, stiff_truth(), derivatives),
            "memory": memory_against_steps(counts, peaks),
        },
        tables=[
            Table(
                title,
                ["rtol = atol", *errors],
                list(zip(tolerances, *errors.values())),
                "Relative error of the gradient.",
            )
            for title, errors in panels.items()
        ],
        captions={
            "errors": "Error of each method relative to the exact gradient, with the same tolerance in the forward and "
            "backward solves.",
            "wrong_sign": "If trajectories contract, solving backward amplifies errors, and with loose tolerances the "
            "derivative has the wrong sign. The solver is DP5; odeint_adjoint is our drop-in, which implements "
            "torchdiffeq's algorithm and step control.",
            "memory": "Peak memory of one gradient, for a 4-32-4 net on a batch of 16 with RK4 steps.",
        },
        notes=[
            "Backprop and Checkpointed differentiate the solver's steps, so their errors are those of the solution. "
            "BacksolveAdjoint solves the state backward, which on contracting problems does not retrace the forward "
            "solution. InterpolatingAdjoint stores the forward solution's dense output instead, and ForwardMode "
            "solves for the sensitivities together with the state.",
            "Memory includes only live tensors, in units of one state (a batch of 16 with 4 components) per additional "
            "step. It is measured on the embedded engine, regardless of the engine used for the errors.",
            *([_JULIA_NOTE] if context.engine == "julia" else []),
        ],
    )


def _memory(counts: list[int], context: Context) -> dict[str, list[float]]:
    """Return the peak memory (bytes) of one gradient by each method, for each number of steps."""

    def model(gradient: str, count: int) -> Callable[[], Tensor]:
        # Forward mode solves for one sensitivity per parameter; a smaller net lets it finish in a few seconds.
        net = MLP((4, 2 if gradient == "ForwardMode" else 32, 4), init_bias=0.3)
        settings = {"solver": "RK4", "step_size": 1.0 / count, "compiled": False, "engine": "torch"}
        solved = NeuralODE(net, gradient=gradient, **settings)
        start, ts = torch.ones(16, 4, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
        return lambda: solved(start, ts)[-1]

    methods = gradients_of("torch")
    task = context.progress.task("memory against steps", len(counts) * len(methods))
    return peak_memory({name: partial(model, name) for name in methods}, counts, task, " steps")
