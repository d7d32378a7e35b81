"""Prepared problems are cached by the kind of the values; values of the wrong kind raise an error that names them."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.gradients import GradientMethod

OSCILLATOR = pn.Equations({"x": "v", "v": "-x"})
TIMES = [0.0, 1.0]


@pytest.mark.parametrize("single_first", (True, False))
def test_the_dtype_of_a_list_is_that_of_its_numbers(single_first):
    lists = {np.float32: list(np.ones(2, "f4")), np.float64: [1.0, 1.0]}
    model = pn.NeuralODE(OSCILLATOR, engine="torch")
    for dtype in (np.float32, np.float64) if single_first else (np.float64, np.float32):
        for solved in (pn.solve(OSCILLATOR, lists[dtype], TIMES, engine="torch"), model.solve(lists[dtype], TIMES)):
            assert solved.ys.dtype == dtype


@pytest.mark.parametrize("batch", ("joint", "independent"))
@pytest.mark.parametrize("field", (pn.MLP((4, 8, 4)), pn.SEIR(), lambda t, y: -y))
def test_an_empty_batch_is_refused(field, batch):
    y0 = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    pn.solve(field, y0, TIMES, batch=batch, engine="torch").ys.sum().backward()
    for nothing in (torch.zeros(0, 4), np.zeros((0, 4)), torch.zeros(0, 4, requires_grad=True)):
        with pytest.raises(pn.ArgumentError, match="y0 is empty: give at least one state component"):
            pn.solve(field, nothing, TIMES, batch=batch, engine="torch")


@pytest.mark.parametrize(
    "name, value, told",
    [
        ("gradient", pn.Backprop, r"gradient is the class Backprop: write Backprop\(\)"),
        ("gradient", "Backpop", "did you mean 'Backprop'"),
        ("gradient", type("Mine", (GradientMethod,), {})(), "gradient is 'Mine', which is unknown"),
        ("gradient", type("Backprop", (GradientMethod,), {})(), "a custom class Backprop"),
        ("control", {"rtol": 1e-3}, "control is a dict: give a Control"),
        ("compiled", "no", "compiled is 'no': give True or False"),
    ],
)
def test_what_is_assigned_to_a_model_is_checked(name, value, told):
    model = pn.NeuralODE(OSCILLATOR, engine="torch")
    setattr(model, name, value)
    with pytest.raises(pn.ArgumentError, match=told):
        model(torch.ones(2), TIMES)


def test_a_gradient_assigned_by_name_is_used():
    model = pn.NeuralODE(pn.MLP((2, 4, 2)), engine="torch")
    for name in ("Checkpointed", "backsolveadjoint", "ForwardMode"):
        model.gradient = name
        model(torch.ones(2), TIMES).sum().backward()


@dataclass(frozen=True)
class Scaled(pn.VectorField):
    """A field that is not hashable."""

    rates: object = None
    dim = 2

    def slope(self, t, y, parameters):
        return -torch.as_tensor(self.rates) * y


@pytest.mark.parametrize("batch", ("joint", "independent"))
def test_a_field_need_not_be_hashable(batch):
    field, y0 = Scaled(np.array([1.0, 2.0])), np.ones((3, 2))
    ys = pn.solve(field, y0, TIMES, batch=batch, rtol=1e-8, atol=1e-8, engine="torch").ys
    np.testing.assert_allclose(
        ys[1] if batch == "joint" else np.asarray(ys)[1], np.tile(np.exp([-1.0, -2.0]), (3, 1)), rtol=1e-6
    )


def test_values_of_no_kind_are_refused():
    field = pn.Equations({"x": "-k*x"}, parameters={"k": 1.0})
    for change, told in (
        ({"parameters": [1.0]}, "parameters is a list: give a mapping"),
        ({"parameters": {"k": 1.0, "q": 2.0}}, "a parameter is 'q'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"dense": "no"}, "dense is 'no': give True or False"),
    ):
        with pytest.raises(pn.ArgumentError, match=told):
            pn.solve(field, [1.0], TIMES, engine="torch", **change)
    with pytest.raises(pn.ArgumentError, match="y0 is a list, not an array"):
        pn.solve(field, [torch.tensor(1.0, requires_grad=True)], TIMES, engine="torch")
    prepared = pn.NeuralODE(field, engine="torch").prepare(np.ones(1), TIMES)
    with pytest.raises(
        pn.ArgumentError, match=r"y0 is \(1,\) float64 \(torch on cpu\), but was \(1,\) float64 \(NumPy\) when"
    ):
        prepared.solve({"k": 1.0}, torch.ones(1, dtype=torch.float64), TIMES)
    with pytest.raises(pn.ArgumentError, match="noise is given, but this problem is not a flow"):
        prepared.solve({"k": 1.0}, np.ones(1), TIMES, noise=torch.ones(1, 1))
