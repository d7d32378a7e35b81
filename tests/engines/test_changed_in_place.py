"""Tensors modified in place: by a field that returns the same buffer each time, or by the caller between passes."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import pyneuralode as pn
from pyneuralode.dropin.problem import METHODS as DROPIN
from pyneuralode.gradients import gradients_of
from pyneuralode.images import CoupledODE
from pyneuralode.solvers import SOLVERS, solvers_of

D = torch.float64
SOLVED = solvers_of("torch")
GRADIENTS = gradients_of("torch")
K = torch.tensor([[-0.5, 1.0], [-1.0, -0.3]], dtype=D)
START = torch.tensor([[1.0, 0.5], [0.2, -0.7], [0.4, 0.1]], dtype=D)
TS = [0.0, 0.3, 1.0]


def fresh(t, y):
    return y @ K.T + torch.cos(t)


class Buffered:
    """A field that returns its slope in reused memory: one buffer, two in turn, part of a larger one, or transposed."""

    def __init__(self, kind):
        self.kind, self.calls, self.memory = kind, 0, {}

    def __call__(self, t, y):
        self.calls += 1
        turn = self.calls % 2 if self.kind == "two" else 0
        shape = (*y.shape[:-1], 4) if self.kind == "part" else y.shape[::-1] if self.kind == "transposed" else y.shape
        buffer = self.memory.setdefault((turn, shape), torch.empty(shape, dtype=D))
        view = (
            buffer[..., 1:3]
            if self.kind == "part"
            else buffer.permute(*reversed(range(y.ndim)))
            if self.kind == "transposed"
            else buffer
        )
        return view.copy_(fresh(t, y))


KINDS = ["one", "two", "part", "transposed"]


def control(solver):
    return {} if SOLVERS[solver].adaptive else {"step_size": 0.1}


@pytest.mark.parametrize("solver", SOLVED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_that_is_returned_each_time(kind, solver):
    expected = pn.solve(fresh, START, TS, solver=solver, **control(solver)).ys
    for start in (START, (START,)):
        f = Buffered(kind) if start is START else lambda t, y, f=Buffered(kind): (f(t, y[0]),)
        with torch.no_grad():
            ys = pn.solve(f, start, TS, solver=solver, **control(solver)).ys
        torch.testing.assert_close(ys if start is START else ys[0], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solver", [name for name in SOLVED if SOLVERS[name].kind != "explicit"])
@pytest.mark.parametrize("attributes", [{"samplewise": True}, {"matrix_free": True}, {"jacobian": True}])
def test_a_buffer_beside_what_stiff_solvers_are_told(solver, attributes):
    f, jacobian = Buffered("one"), torch.empty(3, 2, 2, dtype=D)
    f.samplewise = attributes.get("samplewise", False) or "jacobian" in attributes
    f.matrix_free = attributes.get("matrix_free", False)
    if "jacobian" in attributes:
        f.jacobian = lambda t, y: jacobian.copy_((1 + 0 * t) * K.expand(3, 2, 2))
    expected = pn.solve(fresh, START, TS, solver="Vern7", rtol=1e-10, atol=1e-10).ys
    with torch.no_grad():
        ys = pn.solve(f, START, TS, solver=solver, rtol=1e-7, atol=1e-7).ys
    torch.testing.assert_close(ys, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVED)
@pytest.mark.parametrize("recording", [False, True])
def test_a_buffer_in_independent_batches(solver, recording):
    start = START.clone().requires_grad_(recording)
    expected = pn.solve(fresh, START, TS, solver=solver, batch="independent", **control(solver)).ys
    ys = pn.solve(Buffered("one"), start, TS, solver=solver, batch="independent", **control(solver)).ys
    torch.testing.assert_close(ys, expected, rtol=1e-7, atol=1e-7)


def test_conditions_of_events_that_share_a_buffer():
    shared = torch.empty((), dtype=D)
    events = [pn.Event(lambda t, y, i=i: shared.copy_(y[i]), terminal=False) for i in (0, 1)]
    ours = pn.solve(
        pn.Linear(((0.0, 1.0), (-1.0, 0.0))), [1.0, 0.5], [0.0, 6.0], events=events, rtol=1e-9, atol=1e-9
    ).events
    exact = np.arctan2(-1, 0.5), np.arctan2(0.5, 1)  # x = cos t + 0.5 sin t and y = 0.5 cos t - sin t
    for which, angle in enumerate(exact):
        np.testing.assert_allclose(ours.times[ours.which == which], angle % np.pi + np.pi * np.arange(2), atol=1e-6)


@pytest.mark.parametrize("method", DROPIN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_in_the_drop_in(kind, method):
    if method == "scipy_solver":
        pytest.importorskip("scipy")
    options = (
        {"step_size": 0.05} if method in ("euler", "midpoint", "rk4", "heun2", "heun3") or "adams" in method else None
    )
    t = torch.tensor(TS, dtype=D)
    with torch.no_grad():
        settings = {"method": method, "options": options, "rtol": 1e-4, "atol": 1e-4}
        expected = pn.odeint(fresh, START, t, **settings)
        assert torch.allclose(pn.odeint(Buffered(kind), START, t, **settings), expected, atol=1e-12)
        both = pn.odeint_adjoint(Buffered(kind), START, t, adjoint_params=(), **settings)
    assert torch.allclose(both, expected, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVED)
def test_a_slope_that_is_the_state_itself_or_is_expanded(solver):
    settings = {"solver": solver, **control(solver)}
    ys = pn.solve(lambda t, y: y, START, TS, **settings).ys
    torch.testing.assert_close(ys, pn.solve(lambda t, y: 1 * y, START, TS, **settings).ys, rtol=1e-9, atol=1e-9)
    one = torch.ones(1, 1, dtype=D)
    ys = pn.solve(lambda t, y: one.expand(3, 2), START, TS, **settings).ys
    torch.testing.assert_close(ys[-1], START + 1, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize("start", [START, (START,)], ids=["tensor", "tuple"])
def test_a_field_that_changes_the_state_in_place_is_refused(start, batch):
    def f(t, y):
        return (y[0].mul_(-0.5),) if isinstance(y, tuple) else y.mul_(-0.5)

    if batch == "independent" and isinstance(start, tuple):
        pytest.skip("no tuples there")
    before = START.clone()
    with torch.no_grad(), pytest.raises(pn.ArgumentError, match="in place"):
        pn.solve(f, start, TS, batch=batch)
    with torch.no_grad(), pytest.raises(pn.ArgumentError, match="in place"):
        pn.odeint(
            f, tuple(part.clone() for part in start) if isinstance(start, tuple) else start.clone(), torch.tensor(TS)
        )
    assert torch.equal(START, before)


def test_a_buffer_in_a_coupled_block():
    class Net(nn.Module):
        def __init__(self, again):
            super().__init__()
            self.weight, self.again = nn.Parameter(torch.tensor([0.3, -0.4])), again
            self.memory = torch.empty(2, 2)

        def forward(self, t, z):
            slope = torch.tanh(self.weight * z) + t
            return self.memory.copy_(slope) if self.again else slope

    z, out = torch.tensor([[0.3, 0.5], [0.2, -0.1]]), []
    for again in (True, False):
        block = CoupledODE(Net(again), {"weight": lambda t, w: -w}, steps=4, weight_steps=4, solver="RK4")
        with torch.no_grad():
            out.append(block(z))
    assert torch.allclose(*out, atol=1e-7)


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([0.5, 0.7], dtype=D))
        self.frozen = nn.Parameter(torch.tensor([0.3, -0.2], dtype=D), requires_grad=False)

    def forward(self, t, y):
        return -self.rate * y * y + self.frozen * torch.sin(t)


FIELDS = {
    "module": Module,
    "formula": lambda: pn.Equations({"x": "-k*x*x", "y": "-q*y*y + sin(t)"}, parameters={"k": 0.5, "q": 0.7}),
    "network": lambda: pn.MLP((2, 3, 2), init_bias=0.4),
}


@cache
def gradient_untouched(name, *settings):
    return gradient_after("nothing", name, *settings)


def gradient_after(change, name, solver, batch, gradient, compiled):
    """Return the gradients of a solve after an input was modified in place between the forward and backward pass."""
    field = FIELDS[name]()
    if isinstance(field, nn.Module):
        parameters = dict(field.named_parameters())
    else:
        parameters = {
            name: torch.tensor(v, requires_grad=i == 0) for i, (name, v) in enumerate(field.initial(0).items())
        }
    y0 = START.clone().requires_grad_()
    ts = torch.tensor(TS, dtype=D).requires_grad_()
    settings = {
        "solver": solver,
        "batch": batch,
        "gradient": gradient,
        "compiled": compiled,
        "rtol": 1e-4,
        "atol": 1e-4,
    }
    named = {} if isinstance(field, nn.Module) else parameters
    solution = pn.solve(field, y0, ts, parameters=named, engine="torch", **settings)
    trained = [p for p in parameters.values() if p.requires_grad]
    frozen = [p for p in parameters.values() if not p.requires_grad]
    with torch.no_grad():
        for tensor in {"start": [y0], "times": [ts], "parameters": trained, "constants": frozen, "nothing": []}[change]:
            tensor.mul_(3)
    return torch.autograd.grad(solution.ys.square().sum(), [y0, ts, *trained])


@pytest.mark.parametrize(
    "solver, batch, gradient",
    [(s, "joint", g) for s in ("Tsit5", "Rodas5P") for g in GRADIENTS]
    + [(s, "independent", g) for s in ("Tsit5", "Rodas5P") for g in ("Backprop", "Checkpointed")],
)
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("change", ["start", "times", "parameters", "constants"])
def test_what_changes_between_the_passes_changes_no_gradient(solver, batch, gradient, name, change):
    for compiled in (True, False):
        if compiled and name == "module":
            continue
        try:
            found = gradient_after(change, name, solver, batch, gradient, compiled)
        except RuntimeError as error:
            assert change in ("parameters", "constants") and "modified by an inplace operation" in str(error)
            continue
        for a, b in zip(found, gradient_untouched(name, solver, batch, gradient, compiled)):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVED)
def test_a_dense_solution_keeps_its_start(solver):
    y0 = START.clone()
    solution = pn.solve(fresh, y0, [0.0, 1.0], solver=solver, dense=True, **control(solver))
    before = solution([0.0, 0.01, 0.5])
    y0.mul_(3)
    assert torch.equal(solution([0.0, 0.01, 0.5]), before)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("form", ["expanded", "transposed", "used twice"])
def test_starts_of_any_layout_and_use(form, gradient):
    """If y0 is a view of a smaller tensor, or also a parameter, its gradient is the sum over all uses."""
    base = torch.tensor([0.7, 0.4], dtype=D, requires_grad=True)
    wide = torch.tensor([[0.3, 0.5, 0.2], [0.6, 0.1, 0.4]], dtype=D, requires_grad=True)

    def loss(base, wide, **settings):
        y0 = {"expanded": base.expand(3, 2), "transposed": wide.T, "used twice": base}[form]
        parameters = {"k": base, "q": base} if form == "used twice" else {"k": base}
        ys = pn.solve(
            lambda t, y: -base * y * y + 0.1, y0, TS, parameters=parameters, rtol=1e-10, atol=1e-10, **settings
        ).ys
        return ys.square().sum()

    leaf = wide if form == "transposed" else base
    (found,) = torch.autograd.grad(loss(base, wide, gradient=gradient), leaf)
    for i in range(leaf.numel()):
        moved = [leaf.detach().clone() for _ in range(4)]
        for tensor, part in zip(moved, (-2, -1, 1, 2)):
            tensor.view(-1)[i] += 1e-3 * part
        with torch.no_grad():
            values = [float(loss(base, m) if leaf is wide else loss(m, wide)) for m in moved]
        difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-3
        assert abs(float(found.reshape(-1)[i]) - difference) < 1e-6
