"""Wrong arguments of the drop-in functions raise errors that say what to change."""

import math

import pytest
import torch
from torchdiffeq_problems import F64, VectorField, start, times

from pyneuralode import dropin
from pyneuralode.dropin import odeint, odeint_adjoint
from pyneuralode.errors import ArgumentError, SolverError

TWO = torch.tensor([0.0, 1.0])


@pytest.mark.parametrize(
    "change,kind,words",
    [
        ({"method": "Dopri5"}, ValueError, "did you mean 'dopri5'"),
        ({"method": "scipy_solver", "event_fn": lambda t, y: y.min(), "t": TWO}, ValueError, "does not support events"),
        ({"t": torch.tensor([0.0, 1.0, 1.0])}, AssertionError, "t contains 1 and then 1"),
        ({"t": torch.tensor([0.0, 2.0, 1.0])}, AssertionError, "t contains 2 and then 1"),
        ({"t": torch.tensor([[0.0, 2.0]])}, AssertionError, "one-dimensional"),
        ({"t": torch.tensor([0, 1])}, TypeError, "t.double"),
        ({"t": [0.0, 1.0]}, AssertionError, "t is a list"),
        ({"y0": [torch.ones(2)]}, AssertionError, "y0 is a list"),
        ({"y0": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "y0.double"),
        ({"rtol": -1.0}, ValueError, "rtol is -1"),
        ({"rtol": torch.tensor(1e-3, requires_grad=True)}, AssertionError, "rtol requires a gradient"),
        ({"rtol": (1e-3, 1e-3), "y0": (torch.ones(2),)}, AssertionError, "rtol has 2 parts"),
        ({"event_fn": lambda t, y: y}, ValueError, "t contains 21 times"),
        ({"event_fn": lambda t, y: y.min() + 3, "t": TWO, "method": "rk4"}, AssertionError, "step_size"),
        ({"method": "rk4", "options": {"step_size": -0.1}}, ValueError, "step_size is -0.1"),
        ({"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": len}}, ValueError, "both"),
        ({"method": "euler", "options": {"grid_constructor": lambda f, y, t: t[1:]}}, AssertionError, "from"),
        ({"method": "rk4", "options": {"interp": "spline"}}, ValueError, "interp is 'spline'"),
        ({"method": "fixed_adams", "options": {"max_order": 13}}, AssertionError, "max_order is 13"),
        ({"options": {"step_t": [0.5], "jump_t": [0.5]}}, ValueError, "0.5 twice"),
        ({"func": lambda t, y: 1.0}, TypeError, "func returned a float"),
        ({"func": lambda t, y: torch.ones(5, dtype=F64)}, ValueError, r"shape \(5,\)"),
    ],
)
def test_bad_arguments(change, kind, words):
    arguments = {"func": VectorField(), "y0": start(), "t": times(), **change}
    with pytest.raises(ArgumentError, match=words) as caught:
        odeint(arguments.pop("func"), arguments.pop("y0"), arguments.pop("t"), **arguments)
    assert isinstance(caught.value, kind)


def test_bad_arguments_of_the_adjoint():
    with pytest.raises(ValueError, match="adjoint_params is not given"):
        odeint_adjoint(lambda t, y: -y, start(), times())
    with pytest.raises(ValueError, match="give adjoint_options too"):
        odeint_adjoint(VectorField(), start(), times(), options={"first_step": 0.1}, adjoint_method="rk4")


def test_a_solve_that_cannot_go_on():
    y0, t = torch.ones(1, dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    blowup = lambda t, y: y**2
    with pytest.raises(SolverError, match="the step size underflowed at t = 1") as caught:
        odeint(blowup, y0, t)
    assert isinstance(caught.value, AssertionError) and caught.value.t == pytest.approx(1, abs=1e-3)
    with pytest.raises(AssertionError, match="max_num_steps = 5"):
        odeint(blowup, y0, t, options={"max_num_steps": 5})
    with pytest.raises(AssertionError, match="non-finite"):
        odeint(lambda t, y: y * math.nan, y0, t)
    with pytest.raises(AssertionError, match="non-finite"):
        odeint(lambda t, y: y * math.nan, y0, t, options={"min_step": 0.1})


@pytest.mark.parametrize(
    "change,words",
    [
        ({"method": "dopri8"}, "method is 'dopri8'"),
        ({"y0": (start(),)}, "y0 is a tuple"),
        ({"t0": 0.0}, "t0 is a float"),
        ({"t1": torch.tensor(0.0)}, "strictly"),
        ({"at": 2.5}, "t is 2.5, outside the solved time span, 0 to 1"),
    ],
)
def test_dense_output_refuses_by_assertions_too(change, words):
    arguments = {"y0": start(), "t0": torch.tensor(0.0), "t1": torch.tensor(1.0), "at": 0.5, "method": None} | change
    at = arguments.pop("at")
    with pytest.raises(AssertionError, match=words) as caught:
        dropin.odeint_dense(VectorField(), arguments.pop("y0"), arguments.pop("t0"), arguments.pop("t1"), **arguments)(
            torch.tensor(at, dtype=F64)
        )
    assert isinstance(caught.value, ArgumentError)
