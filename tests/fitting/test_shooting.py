"""Multiple shooting and smoothing by DiffEqFlux."""

import numpy as np
import pytest
import torch

import pyneuralode as pn

TS = np.linspace(0.0, 3.0, 31)
YS = np.stack([np.cos(TS), -np.sin(TS)], axis=1)


def spring(**settings):
    return pn.NeuralODE(pn.Equations({"x": "v", "v": "-k*x"}, parameters={"k": 1.3}), rtol=1e-9, atol=1e-9, **settings)


def by_hand(model, ts, ys, size, weight):
    """The loss, written with solves of each group."""
    ys = torch.as_tensor(ys)
    starts = range(0, len(ts) - 1, size - 1)
    total, end, groups = 0.0, None, []
    for start in starts:
        rows = slice(start, start + size)
        states = model.solve(ys[start], ts[rows]).ys
        total = total + (states - ys[rows]).square().sum()
        if end is not None:
            total = total + weight * (end - ys[start]).abs().sum()
        end = states[-1]
        groups.append(states.detach().numpy())
    return total, groups


@pytest.mark.parametrize("shape", [(), (3,)], ids=["one", "samples"])
@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P"])
def test_the_loss_and_its_gradient_are_those_of_the_definition(julia, solver, shape):
    if shape and solver == "Rodas5P":
        pytest.skip("one stiff solve of several samples is covered elsewhere")
    ys = YS if not shape else np.stack([YS, 1.1 * YS, -YS], axis=1)
    model, truth = spring(solver=solver), spring(engine="torch")
    loss, groups = pn.multiple_shoot(model, TS, ys, group_size=8, continuity_term=10.0)
    expected, states = by_hand(truth, TS, ys, 8, 10.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert len(groups) == len(states) == 5
    for ours, theirs in zip(groups, states):
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-6
    (2 * loss).backward()
    expected.backward()
    assert model.weights["k"].grad.item() == pytest.approx(2 * truth.weights["k"].grad.item(), rel=1e-5)


def test_a_network_learns_by_multiple_shooting(julia):
    model = pn.NeuralODE(pn.MLP((2, 8, 2)), rtol=1e-6, atol=1e-6)
    optimizer, losses = torch.optim.Adam(model.parameters(), 0.05), []
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = pn.multiple_shoot(model, TS, YS, group_size=11)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_group_that_cannot_be_solved_makes_the_loss_infinite(julia):
    model = pn.NeuralODE(pn.Equations({"x": "a*x**2"}, parameters={"a": 50.0}))
    loss, groups = pn.multiple_shoot(model, [0.0, 1.0, 2.0], [[1.0], [1.0], [1.0]], group_size=2)
    assert loss.item() == np.inf and len(groups) == 2


def test_smoothed_data_give_slopes_and_states(julia):
    noisy = YS + 0.01 * np.random.default_rng(0).standard_normal(YS.shape)
    slopes, states = pn.collocate_data(TS, noisy, bandwidth=0.25)
    truth = np.stack([-np.sin(TS), -np.cos(TS)], axis=1)
    assert np.abs(states - YS).max() < 0.06 and np.abs(slopes - truth)[3:-3].max() < 0.1
    assert slopes.shape == states.shape == YS.shape
    for kernel in pn.fitting.shooting.KERNELS:
        slopes, states = pn.collocate_data(TS, YS, kernel=kernel)
        assert np.isfinite(slopes).all() and np.abs(states - YS)[5:-5].max() < 0.4
    with pytest.raises(pn.ArgumentError, match="bandwidth is 0.001.*give a larger fraction of the time span"):
        pn.collocate_data(TS, YS, bandwidth=0.001)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"model": pn.MLP((2, 4, 2))}, "model is an MLP: give a NeuralODE"),
    ({"model": pn.NeuralODE(lambda t, y: -y)}, "the model's field is a function: give a NeuralODE with a VectorField"),
    ({"model": pn.NeuralODE(pn.MLP((2, 4, 2)), solver="RK38")}, "solver is 'RK38', which Julia does not support"),
    ({"ys": YS[:-1]}, "ys has 30 rows, but ts has 31 times"),
    ({"ys": np.ones((31, 3))}, "the field has dimension 2"),
    ({"ys": YS * np.nan}, "ys"),
    ({"ts": TS[::-1]}, "ts decreases from 3 to 0: give increasing times"),
    ({"ys": np.ones((31, 0, 2))}, "give at least one value for each time"),
    ({"ys": torch.ones(31, 2, requires_grad=True)}, "ts or ys requires gradients"),
    ({"model": spring(step_size=0.1)}, "adaptive steps and batch='joint': leave .*step_size"),
    ({"model": spring(engine="torch")}, "leave engine='torch'"),
    ({"model": spring(batch="independent")}, "batch='independent' out of the model"),
    ({"model": pn.NeuralODE(pn.MLP((2, 4, 2)), atol=np.ones(2))}, "rtol or atol is an array"),
    ({"group_size": 1}, "group_size is 1: give an integer >= 2"),
    ({"group_size": 99}, "group_size is 99, but ts has only 31 times"),
    ({"continuity_term": -1.0}, "continuity_term is -1.0: give a nonnegative number"),
])  # fmt: skip
def test_mistakes_in_multiple_shooting(change, sentence):
    arguments = {"model": spring(), "ts": TS, "ys": YS, "group_size": 8} | change
    with pytest.raises(pn.ArgumentError, match=sentence):
        pn.multiple_shoot(arguments.pop("model"), arguments.pop("ts"), arguments.pop("ys"), **arguments)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"kernel": "Gauss"}, "kernel is 'Gauss', which is unknown: did you mean 'GaussianKernel'"),
    ({"ts": TS[::-1]}, "ts decreases from 3 to 0: give increasing times"),
    ({"ys": YS[:, 0]}, "ys has shape"),
    ({"bandwidth": 0}, "bandwidth is 0.0: give a positive number"),
])  # fmt: skip
def test_mistakes_in_smoothing(change, sentence):
    arguments = {"ts": TS, "ys": YS} | change
    with pytest.raises(pn.ArgumentError, match=sentence):
        pn.collocate_data(arguments.pop("ts"), arguments.pop("ys"), **arguments)
