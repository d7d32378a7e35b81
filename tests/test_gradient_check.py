"""`check_gradient`: its table is correct, and it detects wrong gradients."""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.torch_engine.memory import PeakMemory
from pyneuralode.gradients import gradients_of

GRADIENTS = gradients_of("torch")


def test_the_table_has_every_method_with_a_small_error(capsys):
    model = pn.NeuralODE(pn.MLP((2, 6, 2), init_bias=0.3), rtol=1e-8, atol=1e-8)
    check = model.check_gradient([1.0, 0.5], np.linspace(0, 2, 5))
    assert [row.method for row in check.rows] == list(GRADIENTS)
    for row in check.rows:
        assert row.error < 1e-6 and row.seconds > 0 and row.peak_bytes > 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in GRADIENTS) and "error" in printed


def test_a_wrong_gradient_is_noticed():
    class Wrong(torch.nn.Module):
        def forward(self, t, y):
            return -y * y.detach()  # autograd sees only half of the derivative

    check = pn.NeuralODE(Wrong(), rtol=1e-8, atol=1e-8).check_gradient([1.0, 0.5], [0.0, 1.0], methods=["Backprop"])
    assert check.rows[0].error > 1e-2


def test_forward_mode_is_left_out_where_there_are_many_parameters():
    model = pn.NeuralODE(pn.MLP((2, 60, 2), init_bias=0.3))
    row = model.check_gradient([1.0, 0.5], [0.0, 1.0], methods=["ForwardMode"]).rows[0]
    assert row.error is None and "limit of 200" in row.note


@pytest.mark.parametrize(
    "field",
    [
        lambda t, y: torch.as_tensor(-y.detach().numpy()),
        lambda t, y: torch.as_tensor(-y.numpy()),
    ],
    ids=["detached", "numpy"],
)
def test_a_model_that_is_not_differentiable_is_refused_in_one_sentence(field):
    with pytest.raises(pn.ArgumentError, match="write it with torch operations") as caught:
        pn.NeuralODE(field).check_gradient([1.0, 2.0], [0.0, 1.0])
    assert "\n" not in str(caught.value)


def test_peak_memory_counts_what_is_alive():
    with PeakMemory() as memory:
        a = torch.zeros(1000, dtype=torch.float64)
        b = a + 1
        del a
        c = b * 2
    assert memory.peak == 16000 and memory.now == 16000
    del b, c


def test_memory_grows_as_each_method_says():
    """Each step adds no memory with BacksolveAdjoint, one state with Checkpointed, and more with Backprop."""
    peaks = {}
    for method in ("Backprop", "Checkpointed", "BacksolveAdjoint"):
        for steps in (20, 200):
            model = pn.NeuralODE(
                pn.MLP((4, 32, 4), init_bias=0.3), solver="RK4", step_size=1.0 / steps, gradient=method, compiled=False
            )
            y0 = torch.ones(16, 4, dtype=torch.float64)
            with PeakMemory() as memory:
                model(y0, torch.tensor([0.0, 1.0], dtype=torch.float64))[-1].sum().backward()
            peaks[method, steps] = memory.peak
    growth = {m: (peaks[m, 200] - peaks[m, 20]) / 180 for m in ("Backprop", "Checkpointed", "BacksolveAdjoint")}
    state = 16 * 4 * 8
    assert growth["BacksolveAdjoint"] < 0.1 * state
    assert growth["Checkpointed"] <= 1.01 * state
    assert growth["Backprop"] > 4 * state


def test_independent_samples_are_checked_with_the_methods_that_they_have():
    model = pn.NeuralODE(pn.MLP((2, 3, 2), init_bias=0.3), rtol=1e-8, atol=1e-8, batch="independent")
    check = model.check_gradient([[1.0, 0.5], [0.2, 0.1]], [0.0, 0.5, 1.0], directions=2)
    assert [row.method for row in check.rows] == ["Backprop", "Checkpointed"]
    assert max(row.error for row in check.rows) < 1e-6
