"""Results do not depend on torch's default dtype: the caller's numbers are never converted to it."""

import math

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.gradients import gradients_of
from pyneuralode.images import ConvDynamics, ReactionDiffusionAdvection

torch.set_num_threads(1)

DOUBLE = torch.float64
TIMES, START = [0.0, 0.1, 0.7], [1.1, 0.3]  # single precision represents only the 0.0 exactly
DECAY = pn.Equations({"a": "-k*a + 0.1*t", "b": "k*a - 0.3*b"}, parameters={"k": 0.7})
LINEAR = pn.Linear(((-0.1, -2.0), (2.0, -0.1)))
TIGHT = {"rtol": 1e-9, "atol": 1e-9, "engine": "torch"}
LEVEL = pn.Event(lambda t, y: y[..., 0] - 0.9 - 0.1 * t.reshape(y.shape[:-1]), terminal=False)


def slope(t, y):
    return torch.stack([-0.7 * y[..., 0] + 0.1 * t.reshape(y.shape[:-1]), 0.7 * y[..., 0] - 0.3 * y[..., 1]], -1)


def solved(field=DECAY, y0=START, ts=TIMES, **settings):
    solution = pn.solve(field, y0, ts, **{**TIGHT, **settings})
    met = () if solution.events is None else (solution.events.times, solution.events.states)
    return [*(solution.ys if isinstance(solution.ys, (tuple, list)) else [solution.ys]), *met]


def differentiated(gradient, **settings):
    y0 = torch.tensor(START, dtype=DOUBLE, requires_grad=True)
    ys = pn.solve(DECAY, y0, TIMES, parameters={"k": 0.7}, gradient=gradient, **TIGHT, **settings).ys
    return [*torch.autograd.grad(ys.square().sum(), y0)]


def set_from_lists():
    model = pn.NeuralODE(LINEAR, **TIGHT)
    model.set_arrays({"A": [[-0.1, -2.3], [2.3, -0.1]]})
    return [model.arrays()["A"]]


def checked():
    model = pn.NeuralODE(DECAY, **TIGHT)
    return [row.error for row in model.check_gradient(START, TIMES, methods=["Backprop"]).rows]


def fitted():
    plan = pn.Stage(pn.LBFGS(), 3)
    settings = {"y0": START, "plan": plan, "weights": [0.3, 0.7, 1.1], "progress": False}
    return list(
        pn.fit(
            pn.NeuralODE(DECAY, **TIGHT), TIMES, [[1.1, 0.3], [0.9, 0.4], [0.6, 0.6]], **settings
        ).parameters.values()
    )


def flowed():
    flow = pn.ContinuousFlow(pn.ConcatMLP((2, 4, 2)), dtype=DOUBLE, engine="torch", times=(0.0, 0.7))
    return [flow.log_prob([START]), flow.sample(3, seed=1), flow.transform([START], times=TIMES)]


def in_images():
    x = torch.linspace(0.1, 0.9, 2 * 4 * 6 * 6, dtype=DOUBLE).view(2, 4, 6, 6)
    described = pn.ODEBlock(LINEAR, times=(0.1, 0.7), dtype=DOUBLE, engine="torch")
    called = pn.ODEBlock(lambda t, z: -t * z, times=(0.1, 0.7), engine="torch")
    evolution = ReactionDiffusionAdvection(shape=(4, 5, 3, 3), sigma="tanh")
    coupled = pn.CoupledODE(ConvDynamics(4), {"convolutions.0.weight": evolution}, steps=2, weight_steps=4).double()
    for parameter in coupled.parameters():  # a module's random initial values do depend on torch's default dtype
        torch.nn.init.constant_(parameter, 0.1)
    return [described(x[0, 0, :, :2]), called(x), coupled(x)]


def in_torchdiffeqs_words():
    y0, t = torch.tensor(START, dtype=DOUBLE), torch.tensor(TIMES, dtype=DOUBLE)
    steps = pn.odeint(slope, y0, t, method="rk4", options={"step_size": 0.03})
    adaptive = pn.odeint(slope, y0, t, rtol=1e-9, atol=[1e-9, 1e-8], options={"step_t": [0.3], "first_step": 0.01})
    event = pn.odeint_event(slope, y0, t[0], event_fn=lambda t, y: y[0] - 0.9, rtol=1e-9, atol=1e-9)
    return [steps, adaptive, *event]


ROWS = [[0.0, 0.1, 0.7], [0.3, 0.2, -0.1]]
INDEPENDENT = {"y0": [START, [0.9, 0.1]], "batch": "independent"}
CASES = {
    "compiled": solved,
    "generic": lambda: solved(slope),
    "tuple": lambda: solved(lambda t, y: (-0.7 * y[0], 0.7 * y[0] - 0.1 * t), (1.1, 0.3)),
    "fixed steps": lambda: solved(slope, solver="RK4", step_size=0.03),
    "tolerances for each component": lambda: solved(slope, rtol=[1e-9, 1e-7], atol=[1e-9, 1e-7]),
    "parameters": lambda: solved(parameters={"k": 0.9}),
    "parameters of samples": lambda: solved(parameters={"k": [0.9, 0.8]}, **INDEPENDENT),
    "dense": lambda: [pn.solve(slope, START, TIMES, dense=True, **TIGHT)([0.1, 0.33])],
    **{f"{solver} in samples": lambda s=solver: solved(slope, solver=s, **INDEPENDENT) for solver in ("Tsit5", "Rodas5P")},
    "samples' times": lambda: solved(slope, ts=ROWS, **INDEPENDENT),
    "lists of times": lambda: solved(slope, ts=[ROWS[0], ROWS[1][:2]], **INDEPENDENT),
    **{f"events by {s}": lambda s=s: solved(slope, solver=s, events=LEVEL) for s in ("Tsit5", "Vern7", "Kvaerno5")},
    **{f"samples' events by {s}": lambda s=s: solved(slope, solver=s, events=LEVEL, **INDEPENDENT) for s in ("Tsit5", "Rodas5P")},
    "t0": lambda: [pn.NeuralODE(DECAY, **TIGHT).solve(START, TIMES[1:], t0=0.07).ys],
    **{f"gradient by {gradient}": lambda g=gradient: differentiated(g) for gradient in gradients_of("torch")},
    "gradient, generic": lambda: differentiated("Checkpointed", compiled=False),
    "set_arrays": set_from_lists,
    "check_gradient": checked,
    "fit": fitted,
    "flow": flowed,
    "images": in_images,
    "drop-in": in_torchdiffeqs_words,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_answers_do_not_depend_on_torchs_default_dtype(case):
    answers = []
    for dtype in (torch.float32, DOUBLE):
        torch.set_default_dtype(dtype)
        try:
            answers.append([np.asarray(part.detach() if torch.is_tensor(part) else part) for part in CASES[case]()])
        finally:
            torch.set_default_dtype(torch.float32)
    assert len(answers[0]) == len(answers[1]) > 0
    for single, double in zip(*answers):
        assert single.dtype == double.dtype == np.float64 and double.size
        np.testing.assert_array_equal(single, double)


@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P"])
def test_a_list_of_times_is_exact_where_events_are_watched(solver, batch):
    y0 = [[1.0]] if batch == "independent" else [1.0]
    event = pn.Event(lambda t, y: y[..., 0] - 0.8, terminal=False)
    settings = {"solver": solver, "batch": batch, "events": event, "rtol": 1e-12, "atol": 1e-12, "engine": "torch"}
    solution = pn.solve(lambda t, y: -y, y0, TIMES, **settings)
    np.testing.assert_allclose(solution.ys.reshape(-1), np.exp(-np.array(TIMES)), rtol=0, atol=2e-11)
    assert solution.events.times == pytest.approx([math.log(1.25)], abs=1e-11)


def test_a_start_before_single_precision_times_is_not_rounded():
    k, ts = 0.7, torch.tensor([0.5, 1.0])
    model = pn.NeuralODE(pn.Equations({"y": "-k*y"}, parameters={"k": k}), **{**TIGHT, "rtol": 1e-12, "atol": 1e-12})
    solution = model.solve(torch.tensor([1.0], dtype=DOUBLE), ts, t0=0.1)
    torch.testing.assert_close(solution.ys[:, 0].detach(), torch.exp(-k * (ts.double() - 0.1)), rtol=0, atol=1e-11)
    assert solution.ts is not None and solution.ts.tolist() == [0.5, 1.0]
