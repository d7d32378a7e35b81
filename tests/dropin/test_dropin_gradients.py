"""Gradients through `odeint` and `odeint_adjoint`, compared with torchdiffeq 0.2.5."""

import math

import pytest
import torch
from torchdiffeq_problems import F64, Pair, VectorField, both, parts, start, times

from pyneuralode.dropin import odeint, odeint_adjoint


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "rk4", "implicit_adams", "explicit_adams", "midpoint"])
@pytest.mark.parametrize("call", ["odeint", "adjoint"])
@pytest.mark.parametrize("shape", ["tensor", "tuple"])
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
def test_gradients(falling, shape, call, method):
    """Gradients with respect to parameters, initial state and times, and the numbers of evaluations in both passes."""
    found, rtol = [], 1e-4 if method == "bosh3" else 1e-7
    options = {"step_size": 0.07} if method in ("midpoint", "rk4") else None
    for pick in (0, 1):
        y0 = start(F64, shape)
        for part in parts(y0):
            part.requires_grad_()
        t = times(F64, falling, n=6).requires_grad_()
        make = Pair if shape == "tuple" else VectorField
        arguments = {"method": method, "rtol": rtol, "atol": rtol / 100, "options": options}
        field, solution = both(make, y0, t, call, **arguments)[pick]
        loss = sum((part**2).sum() for part in parts(solution))
        found.append([*torch.autograd.grad(loss, [*field.parameters(), *parts(y0), t]), field.evaluations])
    (*ours, count), (*theirs, count_theirs) = found
    exact = call == "odeint" and method not in ("dopri5", "dopri8", "bosh3")
    for a, b in zip(ours, theirs):
        agreement = 1e-9 if exact else 100 * rtol
        torch.testing.assert_close(a, b, rtol=agreement, atol=agreement)
    assert abs(count - count_theirs) <= (0 if call == "odeint" else 0.02 * count_theirs)


def test_gradients_against_finite_differences():
    field, y0 = VectorField(), start()

    def loss(t, function=odeint):
        return (function(field, y0, t, rtol=1e-10, atol=1e-12) ** 2).sum()

    t = times(n=4)
    h = 1e-5
    with torch.no_grad():
        truth = torch.stack([(loss(t + h * e) - loss(t - h * e)) / (2 * h) for e in torch.eye(4, dtype=F64)])
    for function in (odeint, odeint_adjoint):
        moving = t.clone().requires_grad_()
        gradient = torch.autograd.grad(loss(moving, function), moving)[0]
        torch.testing.assert_close(gradient, truth, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("norm", [None, "seminorm", "own"])
@pytest.mark.parametrize("shape", ["tensor", "tuple"])
def test_adjoint_norms(shape, norm):
    seen = []

    def own(state):
        seen.append([tuple(part.shape) for part in state])
        return max(part.abs().max() for part in state)

    options = {} if norm is None else {"norm": own if norm == "own" else norm}
    counts, gradients, shapes = [], [], []
    for pick in (0, 1):
        seen.clear()
        pair = both(
            Pair if shape == "tuple" else VectorField,
            start(F64, shape),
            times(n=4),
            "adjoint",
            adjoint_options=options,
            adjoint_rtol=1e-5,
            adjoint_atol=1e-7,
            adjoint_method="dopri5",
        )
        field, solution = pair[pick]
        sum(part.sum() for part in parts(solution)).backward()
        counts.append(field.evaluations)
        gradients.append([p.grad for p in field.parameters()])
        shapes.append(seen[:1])
    assert counts[0] == counts[1]
    assert shapes[0] == shapes[1]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_adjoint_params_can_be_given():
    p = torch.tensor(0.7, dtype=F64, requires_grad=True)
    frozen = torch.tensor(0.7, dtype=F64)
    y = odeint_adjoint(lambda t, y: -p * y, torch.ones(1, dtype=F64), times(), adjoint_params=(p, frozen))
    y[-1].sum().backward()
    end = float(times()[-1])
    assert float(p.grad) == pytest.approx(-end * math.exp(-0.7 * end), rel=1e-6)
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    odeint_adjoint(lambda t, y: -y, y0, times(), adjoint_params=())[-1].sum().backward()
    assert float(y0.grad) == pytest.approx(math.exp(-end), rel=1e-6)


def test_the_field_is_double_differentiable_through_odeint():
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    y = odeint(lambda t, y: -(y**2), y0, times(), rtol=1e-9, atol=1e-11)[-1]
    first = torch.autograd.grad(y, y0, create_graph=True)[0]
    second = torch.autograd.grad(first, y0)[0]
    end = float(times()[-1])
    assert float(second) == pytest.approx(-2 * end / (1 + end) ** 3, rel=1e-6)  # y = y0 / (1 + y0 t)
