"""Fields and models: conversion of inputs, saving and loading."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import pyneuralode as pn
from pyneuralode.fields import ACTIVATIONS, from_description

FIELDS = [
    pn.MLP((3, 8, 5, 3), "swish", input_map="square", input_scale=0.5, output_scale=2.0, init_bias=0.3),
    pn.Linear(((0.0, 1.0), (-1.0, 0.0)), input_map="cube"),
    pn.SEIR(0.2, 3.0, 0.4),
]


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: type(f).__name__)
def test_description_and_initial_parameters_are_repeatable(field):
    again = from_description(json.loads(json.dumps(field.describe())))
    assert again == field
    first, second = field.initial(5), again.initial(5)
    assert list(first) == list(field.shapes())
    for name, shape in field.shapes().items():
        assert first[name].shape == shape and first[name].dtype == np.float64
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_the_network_that_its_docstring_says(activation):
    field = pn.MLP((2, 4, 2), activation, input_map="cube", input_scale=2.0, output_scale=3.0, init_bias=0.5)
    p = {k: torch.as_tensor(v) for k, v in field.initial(1).items()}
    y = torch.tensor([0.3, -1.2], dtype=torch.float64)
    functions = {
        "identity": lambda x: x,
        "swish": torch.nn.functional.silu,
        "softplus": torch.nn.functional.softplus,
        "elu": torch.nn.functional.elu,
        "gelu": torch.nn.functional.gelu,
    }
    act = functions.get(activation) or getattr(torch, activation)
    slope = 3.0 * (p["weight_2"] @ act(p["weight_1"] @ (y**3 / 2.0) + p["bias_1"]) + p["bias_2"])
    h = 1e-6
    for compiled in (True, False):
        step = pn.solve(field, y, [0.0, h], parameters=p, solver="Euler", compiled=compiled).ys[-1]
        torch.testing.assert_close((step - y) / h, slope, rtol=1e-7, atol=1e-9)


def test_seir_conserves_the_population_and_matches_its_equations():
    y0 = np.array([0.9, 0.05, 0.03, 0.02])
    ys = pn.solve(pn.SEIR(0.2, 3.0, 0.4), y0, np.linspace(0, 60, 7)).ys
    np.testing.assert_allclose(ys.sum(1), 1.0, atol=1e-12)
    tiny = pn.solve(pn.SEIR(0.2, 3.0, 0.4), y0, [0.0, 1e-6], solver="Euler").ys
    expected = [-0.2 * 3 * 0.9 * 0.03, 0.2 * 3 * 0.9 * 0.03 - 0.4 * 0.05, 0.4 * 0.05 - 0.2 * 0.03, 0.2 * 0.03]
    np.testing.assert_allclose((tiny[1] - tiny[0]) / 1e-6, expected, rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_in_numpy_out_torch_in_torch_out(dtype):
    model = pn.NeuralODE(pn.MLP((2, 8, 2), init_bias=0.2), rtol=1e-4, atol=1e-4)
    y0, ts = np.ones((5, 2), dtype), np.linspace(0, 1, 3)
    out = model(y0, ts)
    assert isinstance(out, np.ndarray) and out.shape == (3, 5, 2) and out.dtype == dtype
    tensor = model(torch.as_tensor(y0), torch.as_tensor(ts))
    assert isinstance(tensor, torch.Tensor) and tensor.requires_grad
    np.testing.assert_array_equal(tensor.detach().numpy(), out)


def test_lists_and_integers_become_float64():
    out = pn.solve(pn.Linear(((0, 1), (-1, 0))), [1, 0], [0, 1])
    assert out.ys.dtype == np.float64
    np.testing.assert_allclose(out.ys[-1], [np.cos(1), -np.sin(1)], atol=1e-5)


def test_parameters_follow_the_dtype_of_the_state():
    model = pn.NeuralODE(pn.MLP((2, 4, 2), init_bias=0.2), rtol=1e-4, atol=1e-4)
    out = model(torch.ones(2, dtype=torch.float32), torch.tensor([0.0, 1.0]))
    out.sum().backward()
    assert out.dtype == torch.float32 and model.weights["weight_1"].grad.dtype == torch.float64


def test_augmented_state_starts_at_zero_and_keeps_the_first_components():
    model = pn.AugmentedNeuralODE(pn.MLP((5, 8, 5), init_bias=0.2), augment_dim=3)
    y0 = np.ones((4, 2))
    ys = model(y0, [0.0, 1.0])
    assert ys.shape == (2, 4, 5)
    np.testing.assert_array_equal(ys[0], np.concatenate([y0, np.zeros((4, 3))], axis=1))


@pytest.mark.parametrize(
    "model",
    [
        pn.NeuralODE(FIELDS[0], solver="DP5", gradient=pn.BacksolveAdjoint(rtol=1e-9), rtol=1e-7, seed=4),
        pn.AugmentedNeuralODE(FIELDS[0], augment_dim=2, solver="rk4", step_size=0.1, dtype=torch.float32),
        pn.NeuralODE(pn.SEIR(0.2, 3.0, 0.4), atol=np.array([1e-8, 1e-9, 1e-9, 1e-8])),
    ],
    ids=["mlp", "augmented", "seir"],
)
def test_save_and_load_give_the_same_model(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = pn.load(path)
    assert type(again) is type(model) and again.field == model.field
    assert again.gradient == model.gradient and again.solver == model.solver
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)
        assert again.arrays()[name].dtype == array.dtype
    y0 = np.full(model.field.dim - getattr(model, "augment_dim", 0), 0.25)
    np.testing.assert_array_equal(again(y0, [0.0, 0.5, 1.0]), model(y0, [0.0, 0.5, 1.0]))


def test_files_that_are_not_models_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    model = pn.NeuralODE(pn.MLP((2, 3, 2)))
    model.save(path)
    whole = path.read_bytes()
    cases = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}
    for content in cases.values():
        path.write_bytes(content)
        with pytest.raises(pn.ModelFileError, match="damaged or not a model"):
            pn.load(path)
    save_file({"a": np.zeros(2)}, str(path))
    with pytest.raises(pn.ModelFileError, match="not a model of pyneuralode"):
        pn.load(path)
    path.write_bytes(whole)
    save_file(load_file(str(path)), str(path), {"pyneuralode": json.dumps({"format": 99})})
    with pytest.raises(pn.ModelFileError, match="reads formats up to 1"):
        pn.load(path)
    with pytest.raises(pn.ModelFileError, match="does not exist"):
        pn.load(tmp_path / "absent")


def test_slope_is_the_field_in_numpy_and_in_torch():
    model = pn.NeuralODE(pn.Linear(((0.0, 1.0), (-1.0, 0.0))))
    y = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(model.slope(0.0, y), [[2.0, -1.0], [4.0, -3.0]])
    assert model.slope(0.0, torch.as_tensor(y)).requires_grad
    clock = pn.NeuralODE(lambda t, y: t * y)
    np.testing.assert_array_equal(clock.slope(2.0, y), 2 * y)
