"""Gradients against published values, closed forms and finite differences, for every method."""

import pytest
import torch

import pyneuralode as pn
from pyneuralode.gradients import gradients_of

GRADIENTS = gradients_of("torch")

METHODS = [*GRADIENTS, pn.Checkpointed(every=4)]
TIGHT = {"rtol": 1e-11, "atol": 1e-11, "solver": "Vern7"}


def lotka_volterra(parameters):
    def slope(t, u):
        a, b, c, d = parameters
        x, y = u
        return torch.stack([a * x - b * x * y, -c * y + d * x * y])

    return slope


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_lotka_volterra_reference(method):
    # Values computed with SciMLSensitivity.
    p = torch.tensor([1.5, 1.0, 3.0, 1.0], dtype=torch.float64, requires_grad=True)
    u0 = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    ts = torch.linspace(0, 10, 101, dtype=torch.float64)
    loss = pn.solve(lotka_volterra(p), u0, ts, parameters={"p": p}, gradient=method, **TIGHT).ys.sum()
    loss.backward()
    assert loss.item() == pytest.approx(450.7640640395, rel=1e-9)
    expected = torch.tensor([8.30536266, -159.48429272, 75.20350821, -339.19509277], dtype=torch.float64)
    torch.testing.assert_close(p.grad, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        u0.grad, torch.tensor([-39.12754122, -8.78778022], dtype=torch.float64), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("solver", ["Tsit5", "DP5", "RK4", "Euler"])
@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_times_state_and_parameters_against_finite_differences(method, direction, solver):
    """A non-autonomous field with several outputs inside a step, solved forward and backward in time."""
    steps = {"Euler": {"step_size": 1e-3}, "RK4": {"step_size": 1e-2}}.get(solver, {"rtol": 1e-10, "atol": 1e-10})

    def loss(k, y0, ts):
        def slope(t, y):
            return torch.stack([-k * (y[0] - torch.cos(t)) + 0.1 * y[1], torch.sin(y[0]) - t * y[1]])

        ys = pn.solve(slope, y0, ts, parameters={"k": k}, gradient=method, solver=solver, **steps).ys
        return (ys * torch.arange(1.0, ys.numel() + 1).reshape(ys.shape)).sum()

    values = [
        torch.tensor(2.0, dtype=torch.float64),
        torch.tensor([0.5, 1.0], dtype=torch.float64),
        direction * torch.tensor([0.1, 0.101, 0.102, 0.4, 1.0], dtype=torch.float64),
    ]
    leaves = [v.clone().requires_grad_() for v in values]
    loss(*leaves).backward()
    # The derivative of fixed steps differs from the exact one by their discretization error, so the bounds are wider.
    rtol = {"Euler": 2e-2, "RK4": 1e-5}.get(solver, 1e-5)
    for i, (leaf, value) in enumerate(zip(leaves, values)):
        for j in range(value.numel()):
            shifted = []
            for sign in (1, -1):
                moved = [v.clone() for v in values]
                moved[i].view(-1)[j] += sign * 1e-5
                with torch.no_grad():
                    shifted.append(loss(*moved).item())
            difference = (shifted[0] - shifted[1]) / 2e-5
            assert leaf.grad.reshape(-1)[j].item() == pytest.approx(
                difference, rel=rtol, abs=2e-4 if solver != "Euler" else 0.3
            )


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_described_fields_agree_with_backprop(method, compiled):
    field = pn.MLP((2, 12, 2), "tanh", input_map="cube", init_bias=0.5)
    start = {name: torch.tensor(v, requires_grad=True) for name, v in field.initial(3).items()}
    reference = {name: torch.tensor(v, requires_grad=True) for name, v in field.initial(3).items()}
    y0, ts = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64), torch.linspace(0, 2, 9, dtype=torch.float64)
    pn.solve(
        field, y0, ts, parameters=start, gradient=method, compiled=compiled, rtol=1e-10, atol=1e-10
    ).ys.square().sum().backward()
    pn.solve(field, y0, ts, parameters=reference, compiled=False, **TIGHT).ys.square().sum().backward()
    for name in start:
        torch.testing.assert_close(start[name].grad, reference[name].grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_unused_parameters_get_zeros_and_misalign_nothing(method):
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.rate = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, t, y):
            return -self.rate * y

    module = Module()
    y0 = torch.tensor([2.0], dtype=torch.float64)
    model = pn.NeuralODE(module, gradient=method, rtol=1e-11, atol=1e-11)
    model(y0, torch.tensor([0.0, 1.5], dtype=torch.float64))[-1].sum().backward()
    exact = -1.5 * 2.0 * torch.exp(torch.tensor(-0.7 * 1.5, dtype=torch.float64))
    assert module.rate.grad.item() == pytest.approx(exact.item(), rel=1e-8)
    assert module.unused.grad is None or bool((module.unused.grad == 0).all())


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_tuple_states(method):
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = (torch.ones(2, 3, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
    ts = torch.linspace(0, 1, 4, dtype=torch.float64)
    a, b = pn.solve(lambda t, y: (-k * y[0], k * y[1]), y0, ts, parameters={"k": k}, gradient=method, **TIGHT).ys
    assert a.shape == (4, 2, 3) and b.shape == (4,)
    (a[-1].sum() + b[-1]).backward()
    grow, fall = torch.exp(k.detach()), torch.exp(-k.detach())
    assert k.grad.item() == pytest.approx((2 * grow - 6 * fall).item(), rel=1e-8)


def test_hidden_parameters_are_refused_by_the_adjoints():
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(pn.ArgumentError, match="parameters="):
        pn.solve(lambda t, y: -k * y, torch.ones(1, dtype=torch.float64), [0.0, 1.0], gradient="BacksolveAdjoint")


def test_parameters_changed_between_forward_and_backward_are_noticed():
    model = pn.NeuralODE(pn.MLP((2, 4, 2), init_bias=0.1), gradient="Checkpointed", compiled=False)
    loss = model(torch.ones(2, dtype=torch.float64), [0.0, 1.0]).sum()
    with torch.no_grad():
        model.weights["weight_1"].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_backprop_can_be_differentiated_twice():
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = pn.solve(lambda t, y: -k * y, torch.ones(1, dtype=torch.float64), [0.0, 1.0], parameters={"k": k}, **TIGHT).ys[
        -1
    ]
    (first,) = torch.autograd.grad(y.sum(), k, create_graph=True)
    (second,) = torch.autograd.grad(first, k)
    assert second.item() == pytest.approx(torch.exp(torch.tensor(-0.5)).item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["Checkpointed", "InterpolatingAdjoint", "ForwardMode"])
def test_robertson_reference_by_an_explicit_method(method):
    """An explicit method needs 46,000 steps on this stiff problem, but its gradient is correct.

    BacksolveAdjoint is not tested: solved backward, this problem grows without bound.
    """
    k = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64, requires_grad=True)

    def slope(t, y):
        decay, meet, back = k[0] * y[0], k[1] * y[1] ** 2, k[2] * y[1] * y[2]
        return torch.stack([back - decay, decay - back - meet, meet])

    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    settings = {"solver": "BS3", "rtol": 1e-8, "atol": 1e-12, "gradient": method}
    ys = pn.solve(slope, y0, [0.0, 40.0], parameters={"k": k}, **settings).ys
    assert ys[-1, 0].item() == pytest.approx(0.7158270688, abs=1e-9)
    (found,) = torch.autograd.grad(ys[-1, 0], k)
    expected = torch.tensor([-4.24755877, -2.28835509e-9, 1.37308080e-5], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
