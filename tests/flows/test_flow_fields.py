"""Fields of flows: slopes against a direct implementation of the documented formulas, Jacobians against autograd."""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.torch_engine.activations import ACTIVATIONS, DERIVATIVES, SECOND_DERIVATIVES
from pyneuralode.engines.torch_engine.autograd_jacobian import AutogradJacobian
from pyneuralode.engines.torch_engine.dynamics import build
from pyneuralode.engines.torch_engine.layered_net import LayeredNet, activation_of, layers_of
from pyneuralode.fields import ConcatConv, from_description

FIELDS = [
    pn.HyperMLP(2, width=7, hidden=5, time_scale=4.0, output_scale=3.0, init="torch"),
    pn.HyperMLP(3, width=4, hidden=3, init_bias=0.5),
    pn.ConcatMLP((2, 5, 2), time_scale=3.0, init_bias=0.4),
    pn.ConcatMLP((3, 5, 4, 3), "swish", output_scale=2.0, init_bias=0.4),
    pn.ConcatMLP((2, 6, 4, 5, 2), "softplus", init_bias=0.4),
    pn.GatedMLP((2, 5, 2), time_scale=3.0, init_bias=0.4),
    pn.GatedMLP((3, 4, 6, 5, 3), "gelu", output_scale=0.5, init_bias=0.4),
    pn.MLP((2, 5, 4, 3, 2), "elu", input_scale=2.0, output_scale=3.0, init_bias=0.4),
    pn.Linear(((0.1, 2.0), (-1.0, 0.3))),
]
NAMES = [f"{type(field).__name__}-{k}" for k, field in enumerate(FIELDS)]
TIME_FIELDS = [field for field in FIELDS if type(field) in (pn.HyperMLP, pn.ConcatMLP, pn.GatedMLP)]


def tensors(field, seed=1, requires_grad=False):
    return {k: torch.tensor(v, requires_grad=requires_grad) for k, v in field.initial(seed).items()}


def points(field, n=5, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, field.dim)))


NUMPY_ACTIVATIONS = {
    "tanh": np.tanh,
    "swish": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "gelu": lambda x: np.array([0.5 * v * (1 + torch.erf(torch.tensor(v / np.sqrt(2))).item()) for v in x]),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def defined_slope(field, p, t, z):
    """Return the slope at one point z (d,), computed term by term from the formulas in the docstrings."""
    t = t / field.time_scale
    if isinstance(field, pn.HyperMLP):
        hidden = np.tanh(p["weight_1"] @ np.array([t]) + p["bias_1"])
        hidden = np.tanh(p["weight_2"] @ hidden + p["bias_2"])
        out = p["weight_3"] @ hidden + p["bias_3"]
        w, d = field.width, field.dim
        total = np.zeros(d)
        for k in range(w):
            W, U, G = (out[part * w * d + k * d : part * w * d + (k + 1) * d] for part in range(3))
            total += U * sigmoid(G) * np.tanh(W @ z + out[3 * w * d + k])
        return field.output_scale * total / w
    layers = len(field.sizes) - 1
    x = z
    for i in range(1, layers + 1):
        if isinstance(field, pn.ConcatMLP):
            x = np.append(x, t)
        else:
            gate = np.tanh(p[f"scale_weight_{i}_1"] @ np.array([t]) + p[f"scale_bias_{i}_1"])
            gate = sigmoid(p[f"scale_weight_{i}_2"] @ gate + p[f"scale_bias_{i}_2"])
            shift = np.tanh(p[f"shift_weight_{i}_1"] @ np.array([t]) + p[f"shift_bias_{i}_1"])
            x = x * gate + p[f"shift_weight_{i}_2"] @ shift + p[f"shift_bias_{i}_2"]
        x = p[f"weight_{i}"] @ x + p[f"bias_{i}"]
        if i < layers:
            x = NUMPY_ACTIVATIONS[field.activation](x)
    return field.output_scale * x


@pytest.mark.parametrize("field", TIME_FIELDS)
def test_slope_is_that_of_the_definition(field):
    p, z = field.initial(1), points(field)
    f = build(field, tensors(field))
    for t in (-0.7, 0.0, 2.3):
        expected = np.stack([defined_slope(field, p, t, row) for row in z.numpy()])
        np.testing.assert_allclose(f(t, z), expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(f(torch.tensor(t, dtype=z.dtype), z), expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(f(t, z[0]), expected[0], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(pn.NeuralODE(field, seed=1).slope(t, z.numpy()), expected, rtol=1e-12, atol=1e-14)


def test_convolution_is_that_of_the_definition():
    field = ConcatConv(2, 4, 3, hidden=(3,), kernel=3, time_scale=2.0, output_scale=1.5, init_bias=0.2)
    p, t = field.initial(3), 0.8
    z = points(field, n=2)
    expected = []
    for state in z.numpy():
        image = state.reshape(2, 4, 3)
        for layer in (1, 2):
            weight, bias = p[f"weight_{layer}"], p[f"bias_{layer}"]
            image = np.concatenate([image, np.full((1, 4, 3), t / 2.0)])
            padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
            out = np.zeros((len(weight), 4, 3))
            for o, r, c in np.ndindex(*out.shape):
                out[o, r, c] = bias[o] + (weight[o] * padded[:, r : r + 3, c : c + 3]).sum()
            image = np.log1p(np.exp(out)) if layer == 1 else out
        expected.append(1.5 * image.reshape(-1))
    np.testing.assert_allclose(build(field, tensors(field, 3))(t, z), np.stack(expected), rtol=1e-12)


def jacobian_by_autograd(f, z):
    return torch.stack([torch.autograd.functional.jacobian(f, row) for row in z])


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("field", FIELDS, ids=NAMES)
def test_trace_jacobian_and_products_are_those_of_autograd(field, compiled):
    z, t = points(field), 0.6
    f = build(field, tensors(field))
    layered = LayeredNet(layers_of(field, tensors(field)), activation_of(field), compiled)
    expected = jacobian_by_autograd(lambda row: f(t, row), z)
    e = points(field, seed=3)
    slope, trace = layered.trace(t, z)
    torch.testing.assert_close(slope, f(t, z))
    torch.testing.assert_close(trace, expected.diagonal(dim1=1, dim2=2).sum(1))
    slope, jacobian = layered.jacobian(t, z)
    torch.testing.assert_close(slope, f(t, z))
    torch.testing.assert_close(jacobian.permute(1, 2, 0), expected)
    slope, product = layered.vjp(t, z, e)
    torch.testing.assert_close(slope, f(t, z))
    torch.testing.assert_close(product, torch.einsum("ni,nij->nj", e, expected))


@pytest.mark.parametrize("recording", [True, False])
def test_a_field_without_layers_has_its_jacobian_by_autograd(recording):
    field = ConcatConv(1, 3, 2, hidden=(2,), init="torch")
    z, e, t = points(field), points(field, seed=3), torch.tensor(0.4, dtype=torch.float64)
    f = build(field, tensors(field, requires_grad=True))
    with torch.set_grad_enabled(recording):
        by_products = AutogradJacobian(f)
        expected = jacobian_by_autograd(lambda row: f(t, row), z)
        _, trace = by_products.trace(t, z)
        slope, jacobian = by_products.jacobian(t, z)
        _, product = by_products.vjp(t, z, e)
    torch.testing.assert_close(trace, expected.diagonal(dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(jacobian.permute(1, 0, 2), expected)
    torch.testing.assert_close(product, torch.einsum("ni,nij->nj", e, expected))
    assert slope.requires_grad == trace.requires_grad == product.requires_grad == recording


def test_a_field_that_ignores_the_state_has_a_jacobian_of_zeros():
    z = torch.ones(4, 2)
    slope, trace = AutogradJacobian(lambda t, y: torch.ones_like(y)).trace(torch.tensor(0.0), z)
    assert slope.eq(1).all() and trace.eq(0).all() and trace.shape == (4,)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_have_the_derivatives_that_autograd_finds(activation):
    x = torch.linspace(-3, 3, 14, dtype=torch.float64, requires_grad=True)
    y = ACTIVATIONS[activation](x)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    gain = DERIVATIVES[activation](x, y)
    torch.testing.assert_close(gain, first)
    bend = SECOND_DERIVATIVES[activation]
    second = torch.autograd.grad(first.sum(), x)[0] if first.requires_grad and bend is not None else torch.zeros_like(x)
    torch.testing.assert_close(torch.zeros_like(x) if bend is None else bend(x, y, gain), second)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(2, 5, 2), (3, 4, 5, 4, 3)])
def test_hand_written_gradients_are_those_of_autograd(sizes, activation):
    field = pn.ConcatMLP(sizes, activation, init_bias=0.5)
    found = []
    for compiled in (True, False):
        p, z = tensors(field, requires_grad=True), points(field).requires_grad_()
        layered = LayeredNet(layers_of(field, p), activation, compiled)
        slope, trace = layered.trace(0.7, z)
        other, jacobian = layered.jacobian(0.7, z)
        loss = (slope**3).sum() + (trace**2).sum() + (other * slope.detach()).sum() + (jacobian**2).sum()
        found.append(torch.autograd.grad(loss, [z, *p.values()]))
    for by_hand, by_autograd in zip(*found):
        torch.testing.assert_close(by_hand, by_autograd, rtol=1e-9, atol=1e-10)


def test_hand_written_gradients_refuse_to_be_differentiated_again():
    field = pn.HyperMLP(2, 4, 3)
    flow = pn.ContinuousFlow(field, engine="torch")
    x = torch.zeros(3, 2, requires_grad=True)
    with pytest.raises(pn.ArgumentError, match="compiled=False"):
        torch.autograd.grad(flow.log_prob(x).sum(), x, create_graph=True)
    plain = pn.ContinuousFlow(field, engine="torch", compiled=False)
    (score,) = torch.autograd.grad(plain.log_prob(x).sum(), x, create_graph=True)
    assert torch.isfinite(torch.autograd.grad(score.sum(), x)[0]).all()


@pytest.mark.parametrize("field", [*FIELDS, ConcatConv(1, 4, 4, hidden=(2, 3))], ids=[*NAMES, "ConcatConv"])
def test_initial_parameters_have_the_shapes_and_the_description_comes_back(field):
    initial = field.initial(5)
    assert {k: v.shape for k, v in initial.items()} == field.shapes()
    assert list(initial) == list(field.shapes())
    assert from_description(field.describe()) == field
    again = field.initial(5)
    assert all(np.array_equal(initial[k], again[k]) for k in initial)


def test_documented_order_of_parameters():
    assert list(pn.HyperMLP(2, 3, 4).shapes().items()) == [
        ("weight_1", (4, 1)),
        ("bias_1", (4,)),
        ("weight_2", (4, 4)),
        ("bias_2", (4,)),
        ("weight_3", (21, 4)),
        ("bias_3", (21,)),
    ]
    gate = ["weight_1_1", "bias_1_1", "weight_1_2", "bias_1_2"]
    expected = [*(f"scale_{n}" for n in gate), *(f"shift_{n}" for n in gate), "weight_1", "bias_1"]
    assert list(pn.GatedMLP((2, 5, 2)).shapes())[:10] == expected
    assert pn.ConcatMLP((2, 5, 2)).shapes()["weight_2"] == (2, 6)


def test_torch_initialization_is_that_of_torch_layers():
    field = pn.ConcatMLP((30, 200, 30), init="torch", init_scale=1.0)
    layer = torch.nn.Linear(31, 200)
    weight, bias = field.initial(0)["weight_1"], field.initial(0)["bias_1"]
    limit = 1 / np.sqrt(31)
    for ours, theirs in ((weight, layer.weight), (bias, layer.bias)):
        assert 0.97 * limit < np.abs(ours).max() <= limit
        assert np.std(ours) == pytest.approx(theirs.std().item(), rel=0.15)
    conv = ConcatConv(3, 8, 8, hidden=(40,)).initial(0)
    assert 0.99 / 6 < np.abs(conv["weight_1"]).max() <= 1 / 6 and 0.8 / 6 < np.abs(conv["bias_1"]).max() <= 1 / 6


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: pn.HyperMLP(2, 0, 4), "width is 0"),
        (lambda: pn.HyperMLP(2, 4, 2.5), "hidden is 2.5"),
        (lambda: pn.HyperMLP(2, 4, 4, time_scale=0.0), "time_scale is 0.0"),
        (lambda: pn.ConcatMLP((2, 5, 3)), "first and the last width"),
        (lambda: pn.ConcatMLP((2, 5, 2), "tan"), "did you mean 'tanh'"),
        (lambda: pn.GatedMLP((2,)), "at least two positive widths"),
        (lambda: pn.GatedMLP((2, 3, 2), init="uniform"), "init is 'uniform'"),
        (lambda: pn.GatedMLP((2, 3, 2), init_bias=-1.0), "init_bias is -1.0"),
        (lambda: ConcatConv(1, 8, 8, kernel=4), "kernel is 4"),
        (lambda: ConcatConv(1, 0, 8), "height is 0"),
        (lambda: ConcatConv(1, 8, 8, hidden=(4, 0)), "hidden is"),
    ],
)
def test_bad_settings_get_a_sentence(make, sentence):
    with pytest.raises(pn.ArgumentError, match=sentence):
        make()
