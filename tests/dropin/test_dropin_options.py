"""The options and callbacks of `odeint`, compared with torchdiffeq 0.2.5."""

import pytest
import torch
from torchdiffeq_problems import F32, F64, VectorField, assert_equal, both, parts, start, times

from pyneuralode.dropin import odeint


class Recorded(VectorField):
    """A field that records every call of its callbacks."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def _note(self, kind, t, y, dt):
        assert t.ndim == dt.ndim == 0
        shape = [tuple(part.shape) for part in parts(y)]
        self.calls.append((kind, float(t), shape, float(parts(y)[-1].sum()), float(dt)))

    def callback_step(self, t, y, dt):
        self._note("step", t, y, dt)

    def callback_accept_step(self, t, y, dt):
        self._note("accept", t, y, dt)

    def callback_reject_step(self, t, y, dt):
        self._note("reject", t, y, dt)

    def callback_step_adjoint(self, t, y, dt):
        self._note("step back", t, y, dt)

    def callback_accept_step_adjoint(self, t, y, dt):
        self._note("accept back", t, y, dt)


@pytest.mark.parametrize(
    "call,method,falling",
    [
        ("odeint", "dopri5", False),
        ("odeint", "dopri5", True),
        ("odeint", "rk4", True),
        ("adjoint", "bosh3", False),
    ],
)
def test_callbacks_come_in_the_same_sequence(call, method, falling):
    calls = []
    for pick in (0, 1):
        options = {"first_step": 0.5} if method == "dopri5" else {}
        arguments = {"method": method, "options": options, "rtol": 1e-6, "atol": 1e-8}
        field, solution = both(Recorded, start(), times(F64, falling, n=5), call, **arguments)[pick]
        solution.sum().backward()
        calls.append(field.calls)
    ours, theirs = calls
    assert [c[0] for c in ours] == [c[0] for c in theirs]
    if method == "dopri5":
        assert {"step", "accept", "reject"} <= {c[0] for c in ours}
    for a, b in zip(ours, theirs):
        assert a[2] == b[2]
        assert a[1] == pytest.approx(b[1], abs=1e-6) and a[3:] == pytest.approx(b[3:], rel=1e-4, abs=1e-6)


def test_callbacks_that_are_not_called_are_named():
    with pytest.warns(
        UserWarning, match="func has callback_accept_step, callback_reject_step, which rk4 does not call"
    ):
        odeint(Recorded(), start(), times(), method="rk4")


@pytest.mark.parametrize(
    "method,options",
    [
        ("rk4", {"step_size": 0.13}),
        ("rk4", {"step_size": 0.13, "interp": "cubic"}),
        ("rk4", {"step_size": 0.13, "perturb": True}),
        ("heun2", {"grid_constructor": lambda f, y0, t: torch.cat([t[:1], (t[:1] + t[1:2]) / 2, t[1:]])}),
        ("implicit_adams", {"step_size": 0.05, "max_order": 5, "max_iters": 2}),
        ("explicit_adams", {"step_size": 0.05, "max_order": 6}),
        ("euler", {"step_size": 0.1, "norm": torch.linalg.vector_norm}),
    ],
)
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
def test_options_of_fixed_steps(falling, method, options):
    (f, ours), (g, theirs) = both(VectorField, start(), times(F64, falling, n=7), method=method, options=options)
    assert_equal(ours, theirs, 1e-11, 1e-11)
    assert f.evaluations <= g.evaluations
    if options.get("interp") != "cubic":  # torchdiffeq uses the slope at the step's end for every output
        assert f.evaluations == g.evaluations


@pytest.mark.parametrize(
    "options",
    [
        {"min_step": 0.05},
        {"max_step": 0.03},
        {"first_step": 0.001},
        {"safety": 0.5},
        {"ifactor": 2.0, "dfactor": 0.5},
        {"step_t": torch.tensor([0.31, 0.9], dtype=F64)},
        {"jump_t": torch.tensor([0.5], dtype=F64)},
        {"step_t": torch.tensor([0.31, 0.9], dtype=F64), "jump_t": torch.tensor([0.6, 1.1], dtype=F64)},
        {"norm": lambda y: y.abs().max()},
        {"dtype": F32},
    ],
    ids=lambda o: "-".join(o),
)
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_options_of_adaptive_steps(method, falling, options):
    plain = odeint(VectorField(), start(), times(F64, falling, n=7), method=method, rtol=1e-5, atol=1e-7)
    arguments = {"method": method, "options": options, "rtol": 1e-5, "atol": 1e-7}
    (f, ours), (g, theirs) = both(VectorField, start(), times(F64, falling, n=7), **arguments)
    assert_equal(ours, theirs, 1e-9, 1e-9)
    assert f.evaluations == g.evaluations
    if "dtype" not in options:
        assert not torch.allclose(ours, plain, rtol=1e-12, atol=1e-12)  # the option has an effect


def test_the_grid_constructor_sees_the_users_time():
    seen = []

    def grid(func, y0, t):
        seen.append((t.clone(), func(t[0], y0)))
        return t

    t = times(F64, falling=True, n=5)
    odeint(VectorField(), start(), t, method="euler", options={"grid_constructor": grid})
    torch.testing.assert_close(seen[0][0], t)
    torch.testing.assert_close(seen[0][1], VectorField()(t[0], start()))


def test_unused_options_warn():
    with pytest.warns(UserWarning, match="dopri5 ignores the option 'step_size': its options are"):
        odeint(VectorField(), start(), times(), options={"step_size": 0.1})
    with pytest.warns(UserWarning, match="rk4 ignores the options 'eps', 'safety'"):
        odeint(VectorField(), start(), times(), method="rk4", options={"eps": 0.1, "safety": 1})
    with pytest.warns(UserWarning, match="below 4"):
        odeint(VectorField(), start(), times(), method="implicit_adams", options={"max_order": 3})
