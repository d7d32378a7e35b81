"""Report `adjoint`: what each gradient method costs in memory, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..dropin import odeint_adjoint
from ..engines.torch_engine.memory import PeakMemory
from ..fields import MLP, Equations, Linear
from ..gradients import gradients_of
from ..models import NeuralODE
from ..plotting.gradients import gradient_errors, memory_growth, wrong_sign
from .base import Context, Findings, Row, Table

SPIRAL = ((-0.1, -2.0), (2.0, -0.1))
STIFFNESS = 25.0
THEIR_DERIVATIVE = -1.27e-3
THEIR_BACKSOLVE = 8e-4


def spiral_gradient(method: str, **settings) -> Tensor:
    """Return the derivatives of u_1(5) + u_2(5) in the matrix and the initial state (2, 0) of the cubic spiral."""
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


class _Contracting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.k = torch.nn.Parameter(torch.tensor(STIFFNESS, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.k * (y - torch.cos(t))


def stiff_gradient_of_torchdiffeq(tolerance: float) -> float:
    """Return the same derivative as torchdiffeq's `odeint_adjoint` computes it with dopri5, through our drop-in."""
    field, ts = _Contracting(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    ys = odeint_adjoint(field, torch.zeros(1, dtype=torch.float64), ts, rtol=tolerance, atol=tolerance, method="dopri5")
    return float(torch.autograd.grad(ys[-1].sum(), field.k)[0])


def stiff_truth(k: float = STIFFNESS) -> float:
    """Return dy(1)/dk in closed form: y = (k^2 cos t + k sin t - k^2 exp(-k t)) / (k^2 + 1)."""
    t, square = 1.0, k * k + 1
    numerator = k * k * np.cos(t) + k * np.sin(t) - k * k * np.exp(-k * t)
    slope = 2 * k * np.cos(t) + np.sin(t) - (2 * k - k * k * t) * np.exp(-k * t)
    return float(slope / square - 2 * k * numerator / square**2)


_JULIA_NOTES = {
    "torch": [],
    "julia": [
        "InterpolatingAdjoint, GaussAdjoint, QuadratureAdjoint and BacksolveAdjoint are SciMLSensitivity's, on solves by OrdinaryDiffEq; GaussAdjoint and "
        "QuadratureAdjoint integrate the parameters' part apart from the adjoint. ForwardMode is dual numbers through the solver."
    ],
}


def run(context: Context) -> Findings:
    tolerances = [10.0**-p for p in (range(2, 7) if context.quick else range(2, 10))]
    counts = [10, 30, 100] if context.quick else [10, 30, 100, 300, 1000]
    methods = gradients_of(context.engine)
    task = context.progress.task("gradients against truth", 4 * len(tolerances) * len(methods))
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
    loose, third = 0, tolerances.index(1e-3)
    peaks = _memory(counts, context)
    state = 8 * 16 * 4
    growth = {name: (values[-1] - values[0]) / (counts[-1] - counts[0]) / state for name, values in peaks.items()}
    rows = [
        Row(
            "dy(1)/dk in closed form, k = 25",
            stiff_truth(),
            THEIR_DERIVATIVE,
            better="match",
            tolerance=0.005,
            source="definition",
        ),
        Row(
            "dy(1)/dk by odeint_adjoint at tolerance 1e-3 (wrong sign)",
            derivatives["odeint_adjoint"][third],
            THEIR_BACKSOLVE,
            better="match",
            tolerance=0.01,
            source="torchdiffeq",
        ),
        Row(
            "dy(1)/dk by BacksolveAdjoint at tolerance 1e-2 (wrong sign)",
            derivatives["BacksolveAdjoint"][loose],
            THEIR_DERIVATIVE,
            better="match",
        ),
        Row(
            "dy(1)/dk by BacksolveAdjoint at tolerance 1e-3",
            derivatives["BacksolveAdjoint"][third],
            THEIR_DERIVATIVE,
            better="match",
        ),
        Row("dy(1)/dk by Backprop at tolerance 1e-3", derivatives["Backprop"][third], THEIR_DERIVATIVE, better="match"),
        Row(
            "BacksolveAdjoint: memory a step",
            growth["BacksolveAdjoint"],
            0.0,
            "states",
            source="R 2.1: O(1)",
            target=0.1,
        ),
        Row("Checkpointed: memory a step", growth["Checkpointed"], None, "states", target=1.01),
        Row("Backprop: memory a step", growth["Backprop"], None, "states"),
    ]
    for problem, solver in [(p, s) for p in problems for s in ("DP5", "Tsit5")]:
        exact = [n for n in methods if n != "BacksolveAdjoint"]
        last = max(panels[f"{problem}, {solver}"][n][-1] for n in exact)
        rows.append(
            Row(
                f"{problem}, {solver} at {tolerances[-1]:.0e}: largest error but BacksolveAdjoint's",
                last,
                None,
                target=1e-5,
            )
        )
    return Findings(
        rows=rows,
        figures={
            "errors": gradient_errors(tolerances, panels),
            "wrong_sign": wrong_sign(tolerances, stiff_truth(), derivatives),
            "memory": memory_growth(counts, peaks),
        },
        tables=[
            Table(
                title,
                ["rtol = atol", *methods],
                [[t, *(v[i] for v in methods.values())] for i, t in enumerate(tolerances)],
                note="Relative error of the gradient.",
            )
            for title, methods in panels.items()
        ],
        captions={
            "errors": "Error of every method against the truth, at the same tolerance forwards and backwards.",
            "wrong_sign": "Where trajectories contract, solving backwards amplifies errors: at loose tolerances it gives the "
            "wrong sign. DP5; odeint_adjoint is torchdiffeq's algorithm, with its own step control, through our drop-in.",
            "memory": "Peak memory of one gradient; a net of 4-32-4 on a batch of 16, RK4 steps.",
        },
        notes=[
            "Backprop and Checkpointed differentiate the steps taken, so their error is that of the solution. BacksolveAdjoint "
            "solves the state backwards, which on contracting problems does not retrace it. InterpolatingAdjoint keeps the "
            "forward solution's dense output instead, and ForwardMode solves the sensitivities with the state.",
            "Memory counts the tensors that are alive, in states (a batch of 16 with 4 components) for each further step; "
            "it is that of the embedded engine, whatever engine the errors are from.",
            *_JULIA_NOTES[context.engine],
        ],
    )


def _memory(counts: list[int], context: Context) -> dict[str, list[float]]:
    """Return the peak bytes of a gradient for each method and number of steps."""
    task = context.progress.task("memory against steps", len(counts) * len(gradients_of("torch")))
    peaks: dict[str, list[float]] = {}
    for name in gradients_of("torch"):
        for count in counts:
            # Forward mode carries a sensitivity for every parameter: a smaller net takes only a few seconds.
            width = 2 if name == "ForwardMode" else 32
            model = NeuralODE(
                MLP((4, width, 4), init_bias=0.3),
                solver="RK4",
                step_size=1.0 / count,
                gradient=name,
                compiled=False,
                engine="torch",
            )
            start, ts = torch.ones(16, 4, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
            with PeakMemory() as memory:
                model(start, ts)[-1].sum().backward()
            peaks.setdefault(name, []).append(float(memory.peak))
            task.advance(1, f"{name}, {count} steps")
    return peaks
