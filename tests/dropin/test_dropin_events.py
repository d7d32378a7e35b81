"""Events of `odeint`, `odeint_adjoint` and `odeint_event`, compared with torchdiffeq 0.2.5."""

import math

import pytest
import torch
from torchdiffeq_problems import F32, F64, assert_equal, torchdiffeq

from pyneuralode import dropin
from pyneuralode.dropin import odeint, odeint_adjoint, odeint_event
from pyneuralode.errors import SolverError


class Ball(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gravity = torch.nn.Parameter(torch.tensor(9.8, dtype=F64))

    def forward(self, t, state):
        _, speed = state
        return speed, -self.gravity * torch.ones_like(speed) - 0.1 * speed


def ground(t, state):
    return torch.stack([state[0].reshape(()), 100.0 - state[0].reshape(())])


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    "method,options",
    [("dopri5", None), ("bosh3", None), ("rk4", {"step_size": 0.01}), ("rk4", {"step_size": 0.01, "interp": "cubic"})],
)
def test_events_and_their_gradients(method, options, reverse, interface):
    found = []
    for library in (dropin, torchdiffeq):
        ball = Ball()
        y0 = tuple(torch.tensor([value], dtype=F64, requires_grad=True) for value in (10.0, 3.0))
        t0 = torch.tensor(0.2, dtype=F64, requires_grad=True)
        when, (height, speed) = library.odeint_event(
            ball,
            y0,
            t0,
            event_fn=ground,
            reverse_time=reverse,
            odeint_interface=getattr(library, interface),
            method=method,
            options=options,
            rtol=1e-8,
            atol=1e-10,
        )
        loss = when**2 + speed[-1].sum()
        gradients = torch.autograd.grad(loss, [ball.gravity, *y0, t0])
        found.append([when.detach(), height.detach(), speed.detach(), *gradients])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert float(found[0][1][-1]) == pytest.approx(0, abs=1e-8)


def test_event_of_odeint_itself():
    for method, options in (("dopri5", None), ("midpoint", {"step_size": 0.05})):
        levels = torch.tensor([0.5, -9.0], dtype=F64)
        arguments = {"method": method, "options": options, "event_fn": lambda t, y: y - levels}
        field = lambda t, y: -y
        y0, t = torch.tensor([2.0, 1.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
        when, states = odeint(field, y0, t, **arguments)
        theirs = torchdiffeq.odeint(field, y0, t, **arguments)
        assert_equal((when, states), theirs, 1e-8, 1e-8)
        assert float(when) == pytest.approx(math.log(4), rel=1e-3)


def test_parameters_of_the_event_function_get_their_gradient():
    level = torch.tensor(0.5, dtype=F64, requires_grad=True)
    when, _ = odeint_event(
        lambda t, y: -y, torch.ones(1, dtype=F64), torch.tensor(0.0, dtype=F64), event_fn=lambda t, y: y - level
    )
    assert float(torch.autograd.grad(when, level)[0]) == pytest.approx(-2.0, rel=1e-6)  # when = -log(level)


@pytest.mark.parametrize("settings", [{"method": "dopri5"}, {"method": "rk4", "options": {"step_size": 0.1}}])
def test_an_event_function_that_is_nan_is_no_event(settings):
    """torchdiffeq treats a NaN as an event."""
    y0, t0 = torch.ones(1, dtype=F64), torch.tensor(0.0, dtype=F64)
    with pytest.raises(AssertionError, match=r"event_fn is NaN at t = 1\.[23]"):
        odeint_event(lambda t, y: -y, y0, t0, event_fn=lambda t, y: torch.sqrt(1.25 - t), **settings)
    with pytest.raises(SolverError, match="event_fn is NaN at t = 0:"):
        odeint_event(lambda t, y: -y, y0, t0, event_fn=lambda t, y: math.nan * t, **settings)


def test_a_slope_of_another_shape_moves_the_event_right():
    """A slope (N,) for a state (N, 1) is multiplied by the event's gradient without broadcasting to (N, N)."""
    k = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = (torch.tensor([[2.0], [3.0], [4.0]], dtype=F64),)
    when, _ = odeint_event(
        lambda t, y: (-k * y[0].reshape(-1),), y0, torch.tensor(0.0, dtype=F64), event_fn=lambda t, y: y[0].sum() - 4.5
    )
    assert float(when.detach()) == pytest.approx(math.log(2), abs=1e-7)
    assert float(torch.autograd.grad(when, k)[0]) == pytest.approx(-math.log(2), rel=1e-6)


@pytest.mark.parametrize("method,options", [("dopri5", None), ("rk4", {"step_size": 0.05}), ("dopri5", {"dtype": F32})])
@pytest.mark.parametrize("state", [F32, F64], ids=["state 32", "state 64"])
@pytest.mark.parametrize("time", [F32, F64], ids=["time 32", "time 64"])
def test_the_times_of_events_have_torchdiffeqs_dtypes(time, state, method, options):
    found = []
    for library in (dropin, torchdiffeq):
        seen, k = set(), torch.tensor(1.0, dtype=state, requires_grad=True)

        def event(t, y):
            seen.add(t.dtype)
            return y - 0.5

        y0, start = torch.tensor(1.0, dtype=state, requires_grad=True), torch.tensor([0.0, 1.0], dtype=time)
        arguments = {"event_fn": event, "method": method, "options": options}
        field = lambda t, y: -k * y
        when, states = library.odeint(field, y0, start, **arguments)
        dtypes = [seen.copy(), when.dtype, states.dtype]
        for when, states in (
            library.odeint_event(field, y0, start[0], **arguments),
            library.odeint_adjoint(field, y0, start, adjoint_params=(k,), **arguments),
        ):
            dtypes += [when.dtype, states.dtype]
            assert when.requires_grad and float(when.detach()) == pytest.approx(math.log(2), rel=3e-4)
        found.append(dtypes)
    assert found[0] == found[1]


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("method,options", [("dopri5", None), ("rk4", {"step_size": 0.01, "interp": "cubic"})])
def test_the_time_of_an_adjoint_event_has_its_gradient(method, options, falling):
    """torchdiffeq's test event_tests.TestEventHandling.test_adjoint; torchdiffeq's own gradient is zero there."""
    k, level = (torch.tensor(value, dtype=F64, requires_grad=True) for value in (0.7, 0.5))
    y0 = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    t = torch.tensor([0.3, 1.3], dtype=F64)
    sign = -1.0 if falling else 1.0
    times = (t.flip(0) - 1.0 if falling else t).clone().requires_grad_()
    when, states = odeint_adjoint(
        lambda t, y: -sign * k * y,
        y0,
        times,
        event_fn=lambda t, y: y[0] - level,
        method=method,
        options=options,
        adjoint_params=(k,),
    )
    span = math.log(2) / 0.7  # y[0] halves
    assert float(when.detach()) == pytest.approx(0.3 + sign * span, abs=1e-6)
    found = torch.autograd.grad(when, [k, level, y0, times], retain_graph=True)
    truth = [-sign * span / 0.7, -sign / (0.7 * 0.5), [sign / 0.7, 0.0], [1.0, 0.0]]
    for gradient, value in zip(found, truth):
        torch.testing.assert_close(gradient, torch.tensor(value, dtype=F64), rtol=1e-5, atol=1e-6)
    # torchdiffeq's gradient; odeint_event also includes the change of the event time.
    at_fixed_time = torch.autograd.grad(states[-1, 1], k)[0]
    assert float(at_fixed_time) == pytest.approx(-span * 1.0, rel=1e-5)
