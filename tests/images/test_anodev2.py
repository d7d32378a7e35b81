"""ANODEV2's networks, transport learned by evolving kernels, and the report on kernels."""

import numpy as np
import pytest
import torch
from torch import nn

from pyneuralode.errors import ArgumentError
from pyneuralode.gradients import BacksolveAdjoint, Checkpointed
from pyneuralode.images.anodev2 import NETS, VARIANTS, image_model, parameter_table
from pyneuralode.images.coupled import CoupledODE
from pyneuralode.images.transport import (
    CELLS,
    KINDS,
    SPEEDS,
    STEPS,
    WIDTH,
    Pulses,
    fit_transport,
    long_wave_speed,
    trained_times,
    transport_model,
    unseen_errors,
    unseen_times,
)
from pyneuralode.reports import anodev2_kernels, anodev2_transport
from pyneuralode.reports.base import Context


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def blocks(model):
    return [module for module in model.modules() if isinstance(module, CoupledODE)]


@pytest.mark.parametrize("net, count", [("alexnet", 1_756_682), ("resnet4", 7_706), ("resnet10", 44_186)])
def test_baselines_have_the_paper_s_parameters_to_the_last(net, count):
    assert parameters(image_model(net, "baseline")) == count


def test_the_other_counts_are_the_paper_s_or_the_difference_is_known():
    table = {(row.net, row.variant): row for row in parameter_table()}
    assert len(table) == 12
    rounding = {key: row.difference for key, row in table.items() if abs(row.difference) <= 5}
    assert {key for key in table if key not in rounding} == {
        (net, f"anodev2_{which}") for net in ("resnet4", "resnet10") for which in ("one", "two")
    }
    # The difference is one parameter per channel (16 or 48) and step (5 or 2), within the printed rounding to tens.
    for (net, channels), (which, steps) in (
        (a, b) for a in (("resnet4", 16), ("resnet10", 48)) for b in (("one", 5), ("two", 2))
    ):
        assert abs(table[net, f"anodev2_{which}"].difference - channels * steps) <= 5
    assert table["alexnet", "anodev2_one"].ours == 1_757_514
    assert table["alexnet", "anode"].ours == table["alexnet", "anodev2_two"].ours == 1_757_130
    assert table["resnet4", "anode"].ours == 7_962
    assert table["resnet10", "anode"].ours == 44_954


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("net", NETS)
def test_every_variant_takes_a_step_downhill(net, variant):
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 3, 3, 9])
    model = image_model(net, variant, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        logits = model(images)
        assert logits.shape == (4, 10)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    model.eval()
    assert torch.equal(model(images[:2]), model(images)[:2]) or torch.allclose(
        model(images[:2]), model(images)[:2], atol=1e-5
    )


def test_variants_are_what_they_say():
    assert not blocks(image_model("resnet10", "baseline"))
    expected = {
        "neural_ode": (BacksolveAdjoint(), 5, 5, 0),
        "anode": (Checkpointed(5), 5, 5, 0),
        "anodev2_one": (Checkpointed(5), 5, 5, 2),
        "anodev2_two": (Checkpointed(2), 2, 10, 2),
    }
    for variant, (gradient, steps, weight_steps, evolving) in expected.items():
        found = blocks(image_model("resnet10", variant))
        assert [block.f.norms[0].num_features for block in found] == [16, 32]
        for block in found:
            assert (block.gradient, block.steps, len(block.evolving)) == (gradient, steps, evolving)
            assert block.weight_steps == weight_steps
    (block,) = blocks(image_model("alexnet", "anodev2_one", steps=2, solver="RK4"))
    assert (block.steps, block.weight_steps, block.tableau.name) == (2, 2, "RK4")
    assert block.gradient == Checkpointed(2)


def test_odes_of_a_net_start_from_the_same_weights_and_these_follow_from_the_seed():
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    anode, adjoint = (image_model("resnet4", variant, steps=2, seed=3) for variant in ("anode", "neural_ode"))
    assert torch.equal(anode(images), adjoint(images))
    # Initially, kernels evolve only through tanh, which hardly changes small numbers.
    coupled = image_model("resnet4", "anodev2_one", steps=2, seed=3)
    torch.testing.assert_close(coupled(images), anode(images), rtol=0.05, atol=0.05)
    state = torch.random.get_rng_state()
    other = image_model("resnet4", "anode", steps=2, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(other(images), anode(images))


def test_the_adjoint_variant_has_another_gradient_than_anode_at_two_steps():
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    grads = []
    for variant in ("anode", "neural_ode"):
        model = image_model("resnet4", variant, steps=2)
        model(images).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in blocks(model)[0].f.convolutions.parameters()]))
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) > 0.1


@pytest.mark.parametrize(
    "wrong, words",
    [({"net": "resnet5"}, "did you mean 'resnet4'"), ({"variant": "anodev2_on"}, "did you mean 'anodev2_one'"),
     ({"steps": 0}, "steps is 0")],
)  # fmt: skip
def test_unknown_names_are_one_sentence(wrong, words):
    with pytest.raises(ArgumentError, match=words):
        image_model(**{"net": "resnet4", "variant": "anode", **wrong})


@pytest.mark.parametrize("name", SPEEDS)
def test_the_exact_solution_solves_the_equation(name):
    speed, pulses = SPEEDS[name], Pulses.random(3, 0)
    t, h = 0.37, 1e-5
    by_time = (pulses.at(speed, t + h) - pulses.at(speed, t - h)) / (2 * h)
    z = pulses.at(speed, t)
    waves = 2j * torch.pi * torch.fft.rfftfreq(CELLS, WIDTH / CELLS, dtype=torch.float64)
    by_place = torch.fft.irfft(waves * torch.fft.rfft(z), n=CELLS)
    c = float(speed.at(torch.tensor(t, dtype=torch.float64)))
    assert float((by_time - c * by_place).abs().max()) < 2e-3
    assert z.shape == (3, 1, CELLS) and pulses.over(speed, unseen_times()).shape == (10, 3, 1, CELLS)
    assert sorted([*trained_times().tolist(), *unseen_times().tolist()]) == pytest.approx(
        [n / STEPS for n in range(1, STEPS + 1)]
    )


def test_an_evolving_kernel_holds_the_decaying_speed_and_a_constant_one_does_not():
    """A fourth-order central-difference kernel that decays with rho = -1 moves pulses at the speed exp(-t)."""
    stencil = torch.tensor([1, -8, 0, 8, -1], dtype=torch.float64) / 12
    speed, new = SPEEDS["decaying"], Pulses.random(8, 5)
    models = {kind: transport_model(kind) for kind in KINDS}
    for kind, size in (("anode", 0.8), ("anodev2", 1.0)):
        with torch.no_grad():
            models[kind].f.conv.weight.copy_(size * stencil.view(1, 1, -1))
    with torch.no_grad():
        models["anodev2"].evolutions[0].rho.fill_(-1.0)
    times = torch.linspace(0, 1, 2 * STEPS + 1, dtype=torch.float64)
    torch.testing.assert_close(long_wave_speed(models["anodev2"]), torch.exp(-times))
    errors = {kind: unseen_errors(models[kind], speed, new) for kind in ("anode", "anodev2")}
    assert errors["anodev2"].max() < 0.02
    assert errors["anode"].mean() > 5 * errors["anodev2"].mean()
    assert len({tuple(model.f.conv.weight.shape) for model in models.values()}) == 1


def test_transport_is_learned():
    fit = fit_transport("anodev2", SPEEDS["decaying"], evaluations=30, pulses=4)
    assert 25 <= len(fit.losses) <= 40
    assert min(fit.losses) < 0.3 * fit.losses[0]
    with pytest.raises(ArgumentError, match="kind is"):
        transport_model("anodev3")


def test_a_synthetic_kernel_decays_spreads_and_moves():
    still = anodev2_kernels.synthetic()
    np.testing.assert_allclose(still[-1], still[0], atol=1e-6)
    np.testing.assert_allclose(anodev2_kernels.synthetic(rho=-1.0)[-1], still[0] / np.e, atol=1e-6)
    moved = anodev2_kernels.synthetic(upsilon=-4.0)[-1]
    np.testing.assert_allclose(moved, np.roll(still[0], (4, 4), (0, 1)), atol=1e-4)
    # A Gaussian's variance grows by 2 tau, from 4 to 5, so its maximum decreases to 4 / 5.
    spread = anodev2_kernels.synthetic(tau=0.5)[-1]
    assert spread.max() == pytest.approx(0.8, rel=1e-3)
    assert spread.sum() == pytest.approx(still[0].sum(), rel=1e-5)


def test_evolved_kernels_are_those_of_the_network():
    model = image_model("resnet10", "anodev2_one")
    with torch.no_grad():
        for block in blocks(model):
            for q in block.evolutions:
                q.rho.fill_(-1.0)
    found = anodev2_kernels.evolved(model)
    assert [one.layer for one in found] == [f"block {b}, layer {k}" for b in (1, 2) for k in (1, 2)]
    assert found[2].path.shape == (6, 32, 32, 3, 3)
    for one in found:
        assert one.change == pytest.approx(1 - np.exp(-1), abs=0.02)
        assert set(one.coefficients) == {"tau", "upsilon", "rho"}


def test_the_transport_report_judges_the_worst_seed(monkeypatch):
    def learned(name, kind, seed, evaluations, advance):
        advance(evaluations, "")
        error = {"anode": 0.1, "anodev2": 0.01 * (1 + seed), "anodev2_network": 0.05}[kind]
        return anodev2_transport.LearnedTransport(5, 1e-6, np.full(10, error), np.ones(41), np.ones((3, CELLS)))

    monkeypatch.setattr(anodev2_transport, "learn", learned)
    report = anodev2_transport.run(Context(scale="full"))
    rows = {row.name: row for row in report.rows}
    judged = rows["c = exp(-t): error of ANODEV2 relative to ANODE's, worst seed"]
    assert judged.ours == pytest.approx(0.3) and judged.target == 0.2 and judged.met is False
    swinging = rows["c = 1 + 0.5 sin(2 pi t): error of ANODEV2 relative to ANODE's, worst seed"]
    assert swinging.ours == pytest.approx(0.3) and swinging.met is None
    assert list(report.figures) == ["pulse", "errors", "speeds"]
    assert len(report.tables[0].rows) == 2 * 3 * 3


def test_one_model_of_the_transport_report_is_measured_where_it_was_not_trained():
    found = anodev2_transport.learn("decaying", "anodev2", 0, 6, lambda n, note="": None)
    assert found.parameters == 8
    assert found.errors.shape == (10,) and found.speed.shape == (2 * STEPS + 1,)
    assert found.pulse.shape == (3, CELLS)


def test_the_kernel_report_shows_every_net_s_convolutions(monkeypatch):
    def trained(net, recipe, images, seed, advance):
        model = image_model(net, "anodev2_one", seed=seed)
        blocks(model)[0].evolutions[0].rho.data[3] = 1.0
        return anodev2_kernels.TrainedNet(0.5, anodev2_kernels.evolved(model))

    monkeypatch.setattr(anodev2_kernels, "train", trained)
    report = anodev2_kernels.run(Context(scale="quick"))
    assert list(report.figures) == ["coupling", "synthetic", "resnet4", "resnet10", "alexnet"]
    assert [row[1] for row in report.tables[0].rows].count("block 1, layer 1") == 3
    labels = [ax.get_ylabel() for ax in report.figures["alexnet"].axes]
    assert "block 1, layer 1\no 1, i 1" in labels  # the first kernel
    assert any(label.startswith("block 1, layer 1\no 4,") for label in labels)  # the kernel that changes most
