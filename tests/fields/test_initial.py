"""Initial parameters cover exactly the ranges of their initialization scheme."""

import numpy as np
import pytest

import pyneuralode as pn

WIDE = (60, 90, 60)
# Largest weight of a layer with n inputs and m outputs, and largest bias, for init_bias = 0.25.
LIMITS = {
    "glorot_uniform": (lambda n, m: np.sqrt(6 / (n + m)), lambda n: 0.25),
    "lecun_uniform": (lambda n, m: np.sqrt(1 / n), lambda n: 0.25),
    "torch": (lambda n, m: np.sqrt(1 / n), lambda n: np.sqrt(1 / n)),
}


def check_uniform(values, limit):
    """Check the range, mean and standard deviation of thousands of draws from U(-limit, limit)."""
    assert -limit <= values.min() < -0.99 * limit and 0.99 * limit < values.max() <= limit
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.05) and abs(values.mean()) < 0.05 * limit


@pytest.mark.parametrize("init", LIMITS)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_uniform_weights_and_biases_fill_their_bounds(init, scale):
    field = pn.MLP(WIDE, init=init, init_scale=scale, init_bias=0.25)
    weight, bias = LIMITS[init]
    many = [field.initial(seed) for seed in range(30)]
    for layer, (n, m) in enumerate(zip(WIDE, WIDE[1:]), start=1):
        check_uniform(np.stack([drawn[f"weight_{layer}"] for drawn in many]).ravel(), scale * weight(n, m))
        check_uniform(
            np.stack([drawn[f"bias_{layer}"] for drawn in many]).ravel(), bias(n) * (scale if init == "torch" else 1)
        )


def test_normal_weights_have_the_deviation_asked_for():
    drawn = pn.MLP(WIDE, init="normal", init_scale=0.1).initial(3)
    for layer in (1, 2):
        assert (
            drawn[f"weight_{layer}"].std() == pytest.approx(0.1, rel=0.05)
            and abs(drawn[f"weight_{layer}"]).max() > 0.25
        )


def test_a_field_unless_told_otherwise_starts_from_glorots_weights_and_zero_biases():
    for field in (pn.MLP(WIDE), pn.ConcatMLP(WIDE), pn.GatedMLP(WIDE), pn.HyperMLP(2, 50, 60)):
        for name, values in field.initial(1).items():
            if values.ndim == 1:
                assert not values.any()
            else:
                limit = np.sqrt(6 / sum(values.shape))
                assert 0.9 * limit < abs(values).max() <= limit, name


def test_a_kernel_counts_its_pixels():
    field = pn.ConcatConv(3, 8, 8, hidden=(40, 40), kernel=3)
    for layer, n in ((1, 4), (2, 41), (3, 41)):  # the time is an additional channel
        limit = np.sqrt(1 / (9 * n))
        drawn = [field.initial(seed) for seed in range(20)]
        check_uniform(np.stack([values[f"weight_{layer}"] for values in drawn]).ravel(), limit)
        biases = np.stack([values[f"bias_{layer}"] for values in drawn])
        assert 0.9 * limit < abs(biases).max() <= limit


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"init": "uniform"}, "init is 'uniform', which is unknown"),
        ({"init_scale": -1.0}, "init_scale is -1"),
        ({"output_scale": -1.0}, "output_scale is -1"),
        ({"init_bias": -0.1}, "init_bias is -0.1: give a nonnegative number"),
    ],
)
def test_scales_and_draws_that_mean_nothing_are_refused(wrong, words):
    with pytest.raises(pn.ArgumentError, match=words):
        pn.MLP((2, 3, 2), **wrong)


def test_a_net_may_have_no_hidden_layer():
    assert {name: value.shape for name, value in pn.MLP((2, 2)).initial().items()} == {
        "weight_1": (2, 2),
        "bias_1": (2,),
    }
