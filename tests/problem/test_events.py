"""Events against exact solutions: times, states, order, and derivatives."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import pyneuralode as pn
from pyneuralode.engines.julia_engine import session
from pyneuralode.engines.torch_engine.batched.roots import find_roots
from pyneuralode.gradients import gradients_of

torch.set_num_threads(1)

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
DOUBLE = torch.float64
GRAVITY, DROP = 9.81, 10.0


def turn(t, y):
    """A harmonic oscillator; the solution from (0, 1) is (sin t, cos t)."""
    return torch.stack([y[..., 1], -y[..., 0]], dim=-1)


def fall(t, y):
    return torch.stack([y[..., 1], torch.full_like(y[..., 1], -GRAVITY)], dim=-1)


START = np.array([0.0, 1.0])


@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "DP8", "RK4"])
def test_crossings_of_an_oscillator(solver):
    settings = {"step_size": 0.01} if solver == "RK4" else TIGHT
    position, speed = pn.Event(lambda t, y: y[0], terminal=False), pn.Event(lambda t, y: y[1], False)
    solution = pn.solve(turn, START, [0.0, 5.0, 7.0], solver=solver, events=[position, speed], **settings)
    expected = np.arange(1, 5) * math.pi / 2
    np.testing.assert_allclose(solution.events.times, expected, atol=1e-7)
    np.testing.assert_array_equal(solution.events.which, [1, 0, 1, 0])
    states = np.stack([np.sin(expected), np.cos(expected)], axis=1)
    np.testing.assert_allclose(solution.events.states, states, atol=1e-7)
    np.testing.assert_allclose(solution.ys[-1], [math.sin(7), math.cos(7)], atol=1e-6)
    assert solution.message == "reached the last time" and len(solution.ts) == 3


@pytest.mark.parametrize("direction, expected", [(0, 1), (1, 2), (-1, 1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_directions_forwards_and_backwards(direction, expected, sign):
    """`direction` refers to the direction of the solve, also backward in time; a zero at the start is not an event."""
    event = pn.Event(lambda t, y: sign * y[0], direction=direction)
    solution = pn.solve(turn, START, [0.0, sign * 10.0], events=event, **TIGHT)
    assert solution.events.times[0] == pytest.approx(sign * expected * math.pi)
    assert len(solution.events) == 1


def test_a_terminal_event_ends_the_solve_and_cuts_the_times():
    seen = []

    def slope(t, y):
        seen.append(float(t))
        return turn(t, y)

    event = pn.Event(lambda t, y: y[0] - 0.5)
    solution = pn.solve(slope, START, np.linspace(0, 100, 1001), events=event, dense=True, **TIGHT)
    moment = math.asin(0.5)
    assert max(seen) < 5
    assert solution.events.times == pytest.approx([moment])
    np.testing.assert_allclose(solution.ts, np.arange(6) / 10)
    assert solution.ys.shape == (6, 2)
    np.testing.assert_allclose(solution(0.42), [math.sin(0.42), math.cos(0.42)], atol=1e-8)
    assert solution.message == f"event 0 at t = {moment:g}"


def test_events_after_the_terminal_one_do_not_count():
    """Both events lie in one step; the solution is a polynomial that the method reproduces exactly."""
    first, later = pn.Event(lambda t, y: t - 0.3), pn.Event(lambda t, y: t - 0.4, terminal=False)
    settings = {"events": [later, first], "first_step": 1.0}
    solution = pn.solve(lambda t, y: 2 * t * torch.ones_like(y), np.zeros(1), [0.0, 1.0], **settings)
    assert solution.events.which.tolist() == [1] and solution.events.times == pytest.approx([0.3])
    both = pn.solve(turn, START, [0.0, 1.0], events=[pn.Event(first.condition, False), later], first_step=1.0)
    assert both.events.which.tolist() == [0, 1]


def test_no_event():
    solution = pn.solve(turn, START, [0.0, 3.0], events=pn.Event(lambda t, y: y[0] + 2))
    assert len(solution.events) == 0 and solution.events.states.shape == (0, 2)
    assert solution.message == "reached the last time"


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_a_bouncing_ball(batch):
    """Each bounce halves the speed and therefore the time between bounces."""
    lead = (1,) if batch == "independent" else ()
    t, y, bounces = 0.0, torch.tensor([DROP, 0.0], dtype=DOUBLE).view(*lead, 2), []
    y.requires_grad_()
    start = y
    ground = pn.Event(lambda t, y: y[..., 0], direction=-1)
    for _ in range(4):
        solution = pn.solve(fall, y, torch.tensor([0.0, 10.0], dtype=DOUBLE), events=ground, batch=batch, **TIGHT)
        t = t + solution.events.times[0]
        bounces.append(t)
        y = solution.events.states[0].view(*lead, 2) * torch.tensor([1.0, -0.5], dtype=DOUBLE)
    first = math.sqrt(2 * DROP / GRAVITY)
    expected = first * np.array([1, 2, 2.5, 2.75])
    np.testing.assert_allclose([float(b.detach()) for b in bounces], expected, rtol=1e-9)
    # All times are proportional to the square root of the initial height.
    (gradient,) = torch.autograd.grad(bounces[-1], start)
    assert gradient.view(-1)[0].item() == pytest.approx(expected[-1] / (2 * DROP), rel=1e-8)


def test_tuples_and_described_fields():
    event = pn.Event(lambda t, y: y[1] - 2.0)
    y0 = (torch.ones(2, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE))
    solution = pn.solve(lambda t, y: (-y[0], y[1]), y0, [0.0, 0.5, 5.0], events=event, **TIGHT)
    assert float(solution.events.times[0]) == pytest.approx(math.log(2))
    assert solution.events.states[0].shape == (1, 2) and solution.events.states[1].shape == (1,)
    assert float(solution.events.states[0][0, 0]) == pytest.approx(0.5)
    spring = pn.Equations({"x": "v", "v": "-x"})
    found = (
        pn.NeuralODE(spring, compiled=False, **TIGHT)
        .solve(START, [0.0, 9.0], events=pn.Event(lambda t, y: y[0]))
        .events
    )
    assert found.times[0] == pytest.approx(math.pi)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_are_as_exact_as_the_tolerance(dtype):
    y0 = torch.tensor([0.0, 1.0], dtype=dtype)
    solution = pn.solve(turn, y0, [0.0, 9.0], events=pn.Event(lambda t, y: y[0]), rtol=1e-6, atol=1e-6)
    assert float(solution.events.times[0]) == pytest.approx(math.pi, abs=1e-5)
    assert abs(float(solution.events.states[0, 0])) < 1e-6


# Derivatives.

BOTH = pytest.mark.parametrize("batch", ["joint", "independent"])


def decay_event(k, level, y0, t0, gradient, batch):
    """Solve y' = -k y up to `level`, which it reaches at t0 + log(y0 / level) / k."""
    lead = (1, 1) if batch == "independent" else (1,)
    ts = torch.stack([t0, t0.detach() + 50.0])
    event = pn.Event(lambda t, y: (y - level * (1 + 0 * t)).view(y.shape[0]))
    settings = {"parameters": {"k": k}, "gradient": gradient, "events": event, "batch": batch, **TIGHT}
    return pn.solve(lambda t, y: -k * y, y0.view(lead), ts, **settings).events


@pytest.mark.parametrize(
    "gradient, batch",
    [*((g, "joint") for g in gradients_of("torch")), ("Backprop", "independent"), ("Checkpointed", "independent")],
)
def test_derivatives_of_time_and_state(gradient, batch):
    k, level, y0, t0 = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.7, 0.2, 3.0, 0.4))
    events = decay_event(k, level, y0, t0, gradient, batch)
    moment, state = events.times[0], events.states.sum()
    span = math.log(15.0) / 0.7
    assert moment.item() == pytest.approx(0.4 + span, rel=1e-8)
    found = torch.autograd.grad(moment, (k, level, y0, t0), retain_graph=True)
    expected = [-span / 0.7, -1 / (0.7 * 0.2), 1 / (0.7 * 3.0), 1.0]
    assert [g.item() for g in found] == pytest.approx(expected, rel=1e-6)
    # The state at the event equals the level, so its other derivatives are zero.
    found = torch.autograd.grad(state, (k, level, y0, t0))
    assert [g.item() for g in found] == pytest.approx([0.0, 1.0, 0.0, 0.0], abs=1e-6)


@BOTH
@pytest.mark.parametrize("gradient", ["Backprop", "Checkpointed"])
def test_derivatives_against_finite_differences(gradient, batch):
    """A condition on time and state occurs twice before a terminal event; the field is non-autonomous."""

    def loss(p, events_of):
        lead = (1,) if batch == "independent" else ()

        def slope(t, y):
            x, v = y.unbind(-1)
            return torch.stack([v, -p[0] * torch.sin(x) + 0.1 * torch.cos(t.view(x.shape))], -1)

        passing = pn.Event(lambda t, y: y[..., 0] - p[1] * t.view(y.shape[:-1]), terminal=False)
        ending = pn.Event(lambda t, y: y[..., 1] + p[2], direction=1)
        y0 = torch.stack([p[3], p[1]]).view(*lead, 2)
        settings = {"parameters": {"p": p}, "gradient": gradient, "events": [passing, ending], "batch": batch}
        solution = pn.solve(slope, y0, np.linspace(0.0, 12.0, 25), solver="Vern7", rtol=1e-9, atol=1e-9, **settings)
        events_of.append(solution.events.which.tolist())
        weights = torch.arange(1.0, len(solution.events) + 1, dtype=DOUBLE)
        states = (solution.events.states * weights[:, None]).sum()
        return (solution.events.times * weights).sum() + states + solution.ys[:3].square().sum()

    value, seen = torch.tensor([1.3, 0.05, 0.4, 1.0], dtype=DOUBLE), []
    p = value.clone().requires_grad_()
    loss(p, seen).backward()
    for i in range(4):
        step = torch.zeros(4, dtype=DOUBLE)
        step[i] = 1e-5
        with torch.no_grad():
            difference = (loss(value + step, seen) - loss(value - step, seen)) / 2e-5
        assert p.grad[i].item() == pytest.approx(difference.item(), rel=1e-5)
    assert len(seen[0]) >= 2 and set(seen[0]) == {0, 1} and all(which == seen[0] for which in seen)


@BOTH
def test_stiff_solvers_find_events_too(batch):
    """The solution of y' = -k (y - cos t) approaches (k^2 cos t + k sin t) / (k^2 + 1), zero where tan t = -k."""
    k = torch.tensor(50.0, dtype=DOUBLE, requires_grad=True)
    y0 = torch.zeros((2, 1) if batch == "independent" else (1,), dtype=DOUBLE)
    event = pn.Event(lambda t, y: y[..., 0], direction=-1)
    settings = {"parameters": {"k": k}, "solver": "Rodas5P", "batch": batch, "rtol": 1e-6, "atol": 1e-6}
    events = pn.solve(lambda t, y: -k * (y - torch.cos(t)), y0, [0.0, 3.0], events=event, **settings).events
    assert len(events) == (2 if batch == "independent" else 1)
    (gradient,) = torch.autograd.grad(events.times[-1], k)
    assert events.times[-1].item() == pytest.approx(math.pi - math.atan(50.0), abs=1e-5)
    assert gradient.item() == pytest.approx(-1 / 2501, rel=1e-3)


@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5", "KenCarp4"])
@BOTH
def test_stiff_steps_find_no_events_that_do_not_happen(solver, batch):
    """The conditions stay 1e-5 away from zero, so errors of states inside the steps must not exceed 1e-5."""
    y0 = torch.zeros((2, 1) if batch == "independent" else (1,), dtype=DOUBLE)
    near = [pn.Event(lambda t, y, limit=limit: (y - torch.sin(t)).sum(-1) + limit) for limit in (1e-5, -1e-5)]
    settings = {"solver": solver, "rtol": 1e-8, "atol": 1e-8, "batch": batch}
    solution = pn.solve(lambda t, y: -1e6 * (y - torch.sin(t)) + torch.cos(t), y0, [0.0, 3.0], events=near, **settings)
    assert len(solution.events) == 0


@pytest.mark.parametrize("steepness", [1e8, 1e10, 2e10, 1e11])
@BOTH
def test_a_jump_made_smooth_is_where_it_is(steepness, batch):
    """A steep condition is located although Newton's method diverges from states with errors below the tolerance."""
    y0 = torch.ones((1, 1) if batch == "independent" else 1, dtype=DOUBLE, requires_grad=True)
    event = pn.Event(lambda t, y: torch.tanh(steepness * (y[..., 0] - 0.5)))
    solution = pn.solve(lambda t, y: -y, y0, [0.0, 3.0], events=event, batch=batch, rtol=1e-6, atol=1e-6)
    assert solution.events.times.item() == pytest.approx(math.log(2), abs=1e-6)
    assert solution.events.states.item() == pytest.approx(0.5, abs=1e-6)
    if steepness < 1e11:  # otherwise the condition is flat at the float64 numbers next to the root
        assert torch.autograd.grad(solution.events.times.sum(), y0)[0].item() == pytest.approx(1.0, rel=1e-6)


# Samples.


def test_every_sample_has_its_own_events_and_end():
    levels = torch.tensor([0.5, -0.5, 2.0, 0.9], dtype=DOUBLE)
    y0 = torch.tensor([[0.0, 1.0]] * 4, dtype=DOUBLE)
    crossing = pn.Event(lambda t, y: y[:, 0] - levels)
    top = pn.Event(lambda t, y: y[:, 1], terminal=False)
    solution = pn.solve(turn, y0, [0.0, 1.0, 4.0, 7.0], events=[crossing, top], batch="independent", **TIGHT)
    events = solution.events
    assert events.samples.tolist() == [0, 1, 1, 2, 2, 3]
    assert events.which.tolist() == [0, 1, 0, 1, 1, 0]
    moments = [math.asin(0.5), math.pi / 2, math.pi + math.asin(0.5), math.pi / 2, 3 * math.pi / 2, math.asin(0.9)]
    np.testing.assert_allclose(events.times, moments, atol=1e-9)
    reached = [~np.isnan(solution.ys[:, b, 0].numpy()) for b in range(4)]
    assert [int(r.sum()) for r in reached] == [1, 2, 4, 2]
    assert solution.message[0] == "event 0 at t = 0.523599" and solution.message[2] == "reached the last time"
    for b in range(4):
        alone = pn.solve(
            turn,
            y0[b],
            [0.0, 1.0, 4.0, 7.0],
            events=[pn.Event(lambda t, y, b=b: y[0] - levels[b]), pn.Event(lambda t, y: y[1], False)],
            **TIGHT,
        )
        torch.testing.assert_close(alone.events.times, events.times[events.samples == b], rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.ys, solution.ys[torch.tensor(reached[b]), b], rtol=0, atol=1e-9)


def test_a_list_of_times_is_cut_at_each_end():
    y0 = torch.tensor([[0.0, 1.0]] * 2, dtype=DOUBLE)
    event = pn.Event(lambda t, y: y[:, 0] - 0.5)
    ts = [np.array([0.0, 0.2, 0.4, 0.6]), np.array([3.0, 3.1])]
    solution = pn.solve(turn, y0, ts, events=event, batch="independent")
    assert [len(row) for row in solution.ys] == [3, 2] and [len(row) for row in solution.ts] == [3, 2]
    assert solution.events.samples.tolist() == [0]


@pytest.mark.parametrize("gradient", ["Backprop", "Checkpointed"])
def test_gradients_of_samples_pass_the_end_of_others(gradient):
    k = torch.tensor([[0.5], [1.0], [2.0]], dtype=DOUBLE, requires_grad=True)
    y0 = torch.full((3, 1), 3.0, dtype=DOUBLE)
    event = pn.Event(lambda t, y: y[:, 0] - 1)
    settings = {"parameters": {"k": k}, "gradient": gradient, "events": event, "batch": "independent", **TIGHT}
    solution = pn.solve(lambda t, y: -k * y, y0, [0.0, 0.1, 0.8, 3.0], **settings)
    (found,) = torch.autograd.grad(solution.events.times.sum(), k, retain_graph=True)
    torch.testing.assert_close(found, -math.log(3) / k.detach() ** 2, rtol=1e-7, atol=0)
    (found,) = torch.autograd.grad(solution.ys.nansum(), k)
    assert bool(torch.isfinite(found).all())
    rates, times = k.detach(), torch.tensor([0.1, 0.8, 3.0], dtype=DOUBLE)
    inside = times < math.log(3) / rates
    torch.testing.assert_close(found, (-3 * times * torch.exp(-rates * times) * inside).sum(1, keepdim=True))


# Events inside one step: every method solves y' = 1 exactly in a single step.

SOLVERS = ["Tsit5", "Vern7", "DP8", "RK4", "Rodas5P", "Kvaerno5", "AutoTsit5(Rosenbrock23)"]
PATHS = pytest.mark.parametrize(
    "solver, batch", [(solver, batch) for solver in SOLVERS for batch in ("joint", "independent")]
)


def one_step(solver, batch, events, start=0.0, end=1.0, ts=None):
    """Solve y' = 1 in one step (two samples if independent); return the solution, and times and indices of events."""
    y0 = np.array([[start], [start]] if batch == "independent" else [start])
    size = {"step_size": abs(end - start)} if solver == "RK4" else {"first_step": abs(end - start)}
    field = lambda t, y: torch.ones_like(y)
    solution = pn.solve(field, y0, ts or [start, end], solver=solver, batch=batch, events=events, **size)
    met, mine = solution.events, slice(None) if batch == "joint" else solution.events.samples == 0
    return solution, met.times[mine], met.which[mine]


def cubic(*roots):
    return lambda t, y: math.prod(y[..., 0] - root for root in roots)


@PATHS
def test_two_crossings_inside_a_step_are_seen(solver, batch):
    for direction, forwards, backwards in ((0, [0.3, 0.45], [0.45, 0.3]), (1, [0.45], [0.3]), (-1, [0.3], [0.45])):
        event = pn.Event(cubic(0.3, 0.45), terminal=False, direction=direction)
        for start, expected in ((0.0, forwards), (1.0, backwards)):
            solution, times, _ = one_step(solver, batch, event, start, 1.0 - start)
            assert np.max(solution.accepted) == 1
            np.testing.assert_allclose(times, expected, rtol=1e-12)


@PATHS
def test_the_first_terminal_event_inside_a_step_ends_the_solve(solver, batch):
    """The earliest terminal event ends the solve, even if conditions cross zero several times within one step."""
    passing = pn.Event(cubic(0.2, 0.35, 0.7), terminal=False)
    events = [passing, pn.Event(cubic(0.5, 0.6)), pn.Event(cubic(0.65))]
    for start, expected, order in ((0.0, [0.2, 0.35, 0.5], [0, 0, 1]), (1.0, [0.7, 0.65], [0, 2])):
        solution, times, which = one_step(solver, batch, events, start, 1.0 - start)
        np.testing.assert_allclose(times, expected, rtol=1e-12)
        np.testing.assert_array_equal(which, order)
        reasons = [solution.message] if batch == "joint" else solution.message
        assert set(reasons) == {f"event {order[-1]} at t = {expected[-1]:g}"}


@PATHS
@pytest.mark.parametrize("sign", [1, -1])
def test_a_condition_that_is_nan_is_refused_with_the_time(solver, batch, sign):
    """A NaN condition raises an error that states the time, unless a terminal event ends the solve before that time."""

    def lost(t, y):
        return torch.sqrt(1.2 - sign * y[..., 0])

    def at(time):
        return pn.Event(lambda t, y: sign * y[..., 0] - time)

    harmless = pn.Event(lambda t, y: y[..., 0] + sign * 5)
    name = "sample 0: the condition" if batch == "independent" else "the condition"
    for events in ([harmless, pn.Event(lost)], [at(1.25), pn.Event(lost)]):
        with pytest.raises(
            pn.SolverError, match=rf"^{name} of event 1 is NaN at t = {sign * 1.2:g}: return a number"
        ) as caught:
            one_step(solver, batch, events, 0.0, sign * 2.0)
        assert caught.value.t == pytest.approx(sign * 1.2, rel=1e-12)
    with pytest.raises(pn.SolverError, match=rf"^{name} of event 0 is NaN at t = 0:"):
        one_step(solver, batch, pn.Event(lambda t, y: y[..., 0] * math.nan), 0.0, sign * 2.0)
    gap = pn.Event(lambda t, y: torch.where((y[..., 0] - sign).abs() < 0.01, math.nan, y[..., 0] - sign))
    with pytest.raises(
        pn.SolverError, match=rf"^{name} of event 0 is NaN at t = {'' if sign > 0 else '-'}(1|0.99|1.0)"
    ):
        one_step(solver, batch, gap, 0.0, sign * 2.0)

    for ending, expected in ((at(1.15), 1.15), (pn.Event(lambda t, y: lost(t, y) - 0.1), 1.19)):
        _, times, which = one_step(solver, batch, [ending, pn.Event(lost, terminal=False)], 0.0, sign * 2.0)
        np.testing.assert_allclose(times, [sign * expected], rtol=1e-12)
        assert which.tolist() == [0]


def test_of_samples_the_one_whose_condition_is_nan_is_named():
    limits = torch.tensor([5.0, 0.7], dtype=DOUBLE)
    event = pn.Event(lambda t, y: torch.sqrt(limits - t[:, 0]))
    for solver in ("Tsit5", "Rodas5P"):
        with pytest.raises(pn.SolverError, match=r"^sample 1: the condition of event 0 is NaN at t = 0.7:"):
            pn.solve(turn, np.array([START, START]), [0.0, 3.0], solver=solver, events=event, batch="independent")


def test_a_state_that_overflows_is_told_of_as_ever():
    event = pn.Event(lambda t, y: 1 + 1 / (1 + y[..., 0] ** 2))  # NaN if the state is NaN
    for y0, batch in ((np.ones(1), "joint"), (np.ones((1, 1)), "independent")):
        with pytest.raises(pn.SolverError, match="the state is non-finite"):
            pn.solve(lambda t, y: 10 * y**3, y0, [0.0, 9.0], solver="RK4", step_size=0.5, events=event, batch=batch)


@PATHS
def test_a_zero_counts_where_it_is_reached(solver, batch):
    """A zero counts when it is reached, not at the start or when it is left; an interval of zeros counts once."""
    for condition, expected in (
        (lambda t, y: y[..., 0], []),
        (lambda t, y: torch.clamp(y[..., 0] - 0.4, min=0.0), []),
        (lambda t, y: torch.clamp(0.4 - y[..., 0], min=0.0), [0.4]),
        (lambda t, y: t.reshape(y.shape[:-1]) - 1, [1.0]),
        (lambda t, y: torch.where(y[..., 0] < 0.4, -1.0, 1.0), [0.4]),
    ):
        _, times, _ = one_step(solver, batch, pn.Event(condition, terminal=False))
        np.testing.assert_allclose(times, expected, rtol=1e-9)
    solution, times, _ = one_step(
        solver, batch, pn.Event(lambda t, y: t.reshape(y.shape[:-1]) - 0.5), ts=[0.0, 0.5, 1.0]
    )
    assert (
        times == pytest.approx([0.5]) and np.isfinite(solution.ys[:2]).all() and not np.isfinite(solution.ys[2:]).any()
    )


def test_a_condition_is_asked_in_order_and_no_more_than_needed():
    asked = []

    def level(t, y):
        asked.append(t.item())
        return y[0] + 3

    solution = pn.solve(turn, START, [0.0, 20.0], events=pn.Event(level), rtol=1e-5, atol=1e-5)
    assert len(asked) == 1 + 11 * solution.accepted and asked == sorted(asked)
    asked.clear()
    one_step("Tsit5", "joint", [pn.Event(level), pn.Event(cubic(0.35))])
    assert max(asked) <= 4 / 11 + 1e-12  # the next evaluation after the event


@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "Rodas5P", "Kvaerno5", "AutoTsit5(Rosenbrock23)"])
@pytest.mark.parametrize("shape", [(2,), (2, 1)], ids=str)
def test_conditions_of_samples_see_all_of_them(solver, shape):
    """The condition gets all samples at once; y' = -y reaches each sample's level at log(y0 / level)."""
    levels, seen = torch.tensor([0.5, 0.2, 0.7], dtype=DOUBLE), set()

    def condition(t, y):
        seen.add((tuple(t.shape), tuple(y.shape)))
        return y.flatten(1)[:, 0] - levels * (1 + 0 * t.flatten())

    y0 = torch.tensor([[1.0, 0.1], [2.0, 0.1], [3.0, 0.1]], dtype=DOUBLE).view(3, *shape).requires_grad_()
    settings = {"solver": solver, "batch": "independent", "events": pn.Event(condition), "rtol": 1e-9, "atol": 1e-9}
    solution = pn.solve(lambda t, y: -y, y0, [0.0, 1.0, 9.0], **settings)
    assert seen == {((3, *[1] * len(shape)), (3, *shape))}
    start = y0.detach().flatten(1)[:, 0]
    torch.testing.assert_close(solution.events.times.detach(), torch.log(start / levels), rtol=1e-7, atol=0)
    assert solution.events.samples.tolist() == [0, 1, 2]
    (gradient,) = torch.autograd.grad(solution.events.times.sum(), y0)
    torch.testing.assert_close(gradient.flatten(1)[:, 0], 1 / start, rtol=1e-6, atol=0)
    with pytest.raises(
        pn.ArgumentError, match=r"event 0 returns a value of shape \(3, 1\): return one number for each sample"
    ):
        bad = pn.Event(lambda t, y: y.flatten(1)[:, :1])
        pn.solve(lambda t, y: -y, y0.detach(), [0.0, 9.0], solver=solver, batch="independent", events=bad)


@BOTH
@pytest.mark.parametrize("solver", ["Tsit5", "BS3", "Rosenbrock23"])
def test_the_reason_names_the_time_of_the_event(solver, batch):
    for k in range(8):
        y0 = np.array([0.3 * k, 1.0])
        event = pn.Event(lambda t, y: y[..., 0] + 0.4)
        settings = {"solver": solver, "batch": batch, "events": event, "rtol": 1e-2, "atol": 1e-2}
        solution = pn.solve(turn, y0[None] if batch == "independent" else y0, [0.0, 9.0], **settings)
        message = solution.message if batch == "joint" else solution.message[0]
        assert message == f"event 0 at t = {solution.events.times[-1]:g}"


@pytest.mark.parametrize("seed", range(4))
def test_events_are_those_of_scipy_in_small_steps(seed):
    """With steps of 0.5, all crossings more than 0.5 / 11 apart are found, and no others."""
    rng = np.random.default_rng(seed)
    damping, pull, level, slope, speed = rng.uniform([0, 1, 0.2, -0.1, 3], [0.3, 4, 0.8, 0.1, 9])
    y0, span = rng.uniform(-1, 1, 2) + 0.5, (0.0, 6.0) if seed % 2 else (6.0, 0.0)
    conditions = [
        lambda t, y: y[0] - level - slope * t,
        lambda t, y: y[0] * y[0] - level * level,
        lambda t, y: np.cos(speed * t) + 0.5 * y[1],
    ]
    small = {"max_step": 0.02, "rtol": 1e-9, "atol": 1e-9}
    expected = solve_ivp(
        lambda t, y: [y[1], -damping * y[1] - pull * np.sin(y[0])], span, y0, events=conditions, **small
    ).t_events

    def swing(t, y):
        return torch.stack([y[..., 1], -damping * y[..., 1] - pull * torch.sin(y[..., 0])], -1)

    fast = [
        lambda t, y: y[..., 0] - level - slope * t.reshape(y.shape[:-1]),
        lambda t, y: y[..., 0] ** 2 - level**2,
        lambda t, y: torch.cos(speed * t.reshape(y.shape[:-1])) + 0.5 * y[..., 1],
    ]
    for batch in ("joint", "independent"):
        settings = {"batch": batch, "rtol": 1e-8, "atol": 1e-8, "first_step": 0.5, "max_step": 0.5}
        events = [pn.Event(condition, terminal=False) for condition in fast]
        start = y0 if batch == "joint" else y0[None]
        met = pn.solve(swing, start, span, solver="Vern7", events=events, **settings).events
        found = 0
        for i, times in enumerate(expected):
            mine = met.times[met.which == i]
            gaps = np.abs(np.diff(times, prepend=math.inf, append=math.inf)) if len(times) else np.zeros(1)
            clear = np.minimum(gaps[1:], gaps[:-1]) > 0.5 / 11
            assert all(np.abs(times - time).min() < 1e-5 for time in mine)
            assert all(np.abs(mine - time).min() < 1e-5 for time in times[clear])
            found += clear.sum()
        assert found > 5


# Roots.


def test_roots_of_many_functions_at_once():
    powers = torch.tensor([1.0, 3.0, 9.0, 1.0], dtype=DOUBLE)
    start, end = torch.tensor([-1.0, -3.0, 2.0, 5.0], dtype=DOUBLE), torch.tensor([2.0, 1.0, -1.5, 5.0], dtype=DOUBLE)
    calls = []

    def value(x):
        calls.append(1)
        return torch.sign(x - 0.3) * (x - 0.3).abs() ** powers

    found = find_roots(value, (start, end), (value(start), value(end)))
    torch.testing.assert_close(found[:3], torch.full((3,), 0.3, dtype=DOUBLE), rtol=0, atol=1e-13)
    assert found[3] == 5.0
    assert len(calls) < 70  # 59 for the flattest function; bisection would need 52, unsafeguarded interpolation 100
    changed = torch.sign(value(found)) * torch.sign(value(start))
    assert bool((changed[:3] <= 0).all())
    calls.clear()
    span = torch.zeros(1, dtype=DOUBLE), torch.full((1,), 3.0, dtype=DOUBLE)
    smooth = find_roots(lambda x: (calls.append(1), torch.cos(x))[1], span, tuple(map(torch.cos, span)))
    assert smooth.item() == pytest.approx(math.pi / 2, abs=4e-15) and len(calls) < 15


# Mistakes.

MISTAKES = {
    "no function": (lambda: pn.Event(3.0), "condition is a float"),
    "unknown direction": (lambda: pn.Event(abs, direction=2), "direction is 2"),
    "no event": (lambda: pn.solve(turn, START, [0.0, 1.0], events=lambda t, y: y[0]), "events contains a function"),
    "several numbers": (lambda: pn.solve(turn, START, [0.0, 1.0], events=pn.Event(lambda t, y: y)), r"returns a value of shape \(2,\)"),
    "samples' numbers": (
        lambda: pn.solve(turn, START[None], [0.0, 1.0], events=pn.Event(lambda t, y: y), batch="independent"),
        r"one number|returns a value of shape",
    ),
    "no steps": (lambda: pn.solve(turn, START, [0.0, 9.0], solver="RK4", events=pn.Event(lambda t, y: y[0])), "give a step_size"),
    "no steps for samples": (
        lambda: pn.solve(
            turn, START[None], [0.0, 9.0], solver="RK4", events=pn.Event(lambda t, y: y[:, 0]), batch="independent"
        ),
        "give a step_size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_answered_by_one_sentence(mistake):
    call, answer = MISTAKES[mistake]
    with pytest.raises(pn.ArgumentError, match=answer):
        call()


def test_the_julia_engine_says_that_it_has_none(monkeypatch):
    monkeypatch.setattr(session, "runs", lambda: True)
    event = pn.Event(lambda t, y: y[0])
    field = pn.Equations({"x": "v", "v": "-x"})
    with pytest.raises(pn.ArgumentError, match="events are given, which the Julia engine does not support yet"):
        pn.solve(field, START, [0.0, 9.0], events=event, engine="julia")
    with pytest.raises(pn.ArgumentError, match="events are given, which the Julia engine does not support yet"):
        pn.solve(field, START[None], [0.0, 9.0], events=event, batch="independent", engine="julia")
    assert pn.solve(field, START, [0.0, 9.0], events=event, compiled=False).engine.startswith("torch")


@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_a_sign_that_changes_through_infinity_changes_there(batch):
    start = torch.zeros((2, 1) if batch == "independent" else 1, dtype=torch.float64)
    event = pn.Event(lambda t, y: (1 / (t - 1) + 0 * y[..., :1]).reshape(y.shape[:-1]), terminal=True)
    solution = pn.solve(lambda t, y: torch.ones_like(y), start, [0.0, 2.0], events=event, batch=batch)
    assert solution.events.times.tolist() == pytest.approx([1.0] * start.numel())
    assert solution.events.states.reshape(-1).tolist() == pytest.approx([1.0] * start.numel())


def test_transformations_of_torch_func_are_refused():
    def states(k):
        return pn.solve(lambda t, y: -k * y, 1.3 + 0 * k[None], [0.0, 1.0], events=pn.Event(lambda t, y: y[0] - 1.0)).ys

    k = torch.tensor(0.7, dtype=torch.float64)
    with pytest.raises(pn.ArgumentError, match="events cannot be differentiated with torch.func transforms"):
        torch.func.jvp(states, (k,), (torch.ones_like(k),))


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda t, y: y[..., 0] < 1, "True or False"),
        (lambda t, y: 1j * y[..., 0], "complex numbers"),
        (lambda t, y: None, "NoneType"),
    ],
)
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_a_condition_that_is_no_number_is_refused(wrong, found, batch):
    fall = pn.Equations({"h": "v", "v": "-g"}, parameters={"g": 9.81})
    y0 = torch.tensor([[10.0, 0.0]], dtype=torch.float64)
    with pytest.raises(pn.ArgumentError, match=f"event 0 returns {found}: return a number that crosses zero"):
        pn.solve(
            fall,
            y0 if batch == "independent" else y0[0],
            [0.0, 5.0],
            events=pn.Event(wrong),
            batch=batch,
            engine="torch",
        )


def test_a_condition_in_numpy_is_found_where_the_state_is_numpy_and_not_differentiated_without_a_word():
    fall = pn.Equations({"h": "v", "v": "-g"}, parameters={"g": 9.81})
    event = pn.Event(lambda t, y: np.sin(np.asarray(y[0]) / 10))
    met = pn.solve(fall, np.array([10.0, 0.0]), [0.0, 2.0], events=event, engine="torch").events
    assert abs(met.times[0] - np.sqrt(20 / 9.81)) < 1e-6
    with pytest.raises(RuntimeError, match="requires grad"):
        y0 = torch.tensor([10.0, 0.0], dtype=torch.float64, requires_grad=True)
        pn.solve(fall, y0, [0.0, 2.0], events=event, engine="torch")
