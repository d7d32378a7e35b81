"""Image flows: known densities, determinants against autograd, and interrupted training that is resumed."""

import json
import math
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import pyneuralode as pn
from pyneuralode.cli import app
from pyneuralode.engines.torch_engine.autograd_jacobian import AutogradJacobian
from pyneuralode.engines.torch_engine.conv_net import ConvNet
from pyneuralode.engines.torch_engine.dynamics import build
from pyneuralode.errors import ArgumentError, DataError, ModelFileError
from pyneuralode.fields import ConcatConv
from pyneuralode.flows.images.histograms import PixelHistograms
from pyneuralode.flows.images.multiscale import ImageFlow
from pyneuralode.flows.images.training import SETUPS, Setup, measure, train_image_flow
from pyneuralode.flows.images.transforms import (
    Logit,
    bits_per_dim,
    dequantize,
    quantize,
    split,
    squeeze,
    unsplit,
    unsqueeze,
)
from pyneuralode.processes import place

STEPS = ("cnf", "squeeze", "cnf", "split", "squeeze", "cnf")
SMALL = {"steps": STEPS, "hidden": (4,), "entry": "histograms"}
FIXED = {"solver": "RK4", "control": {"step_size": 0.5}}


@pytest.fixture(scope="module")
def digits():
    """Images (300, 8, 8) of a bright bar at one of five positions, so that pixels are strongly correlated."""
    rng = np.random.default_rng(0)
    images = np.zeros((300, 8, 8), dtype=np.uint8)
    for image, column in zip(images, rng.integers(1, 6, size=300)):
        image[1:7, column : column + 2] = rng.integers(128, 256, size=(6, 2))
    return images


def still(flow):
    """Set the fields of a flow to zero, so that only its fixed transforms and its prior remain."""
    for block in flow.blocks:
        block.set_arrays({name: 0 * value for name, value in block.arrays().items()})
    return flow


def test_dequantized_pixels_stay_in_their_interval():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(50).reshape(50, 1, 16, 16)
    x = dequantize(pixels, seed=3)
    assert (quantize(x) == pixels).all() and torch.equal(x, dequantize(pixels, seed=3))
    assert not torch.equal(x, dequantize(pixels, seed=4))
    inside = x * 256 - pixels
    assert abs(inside.mean() - 0.5) < 0.01 and abs(inside.var() - 1 / 12) < 0.002


def test_the_logit_s_determinant_is_its_derivative_s():
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    logit = Logit(0.05, center=-2.0, scale=3.0)
    z, gain = logit(x)
    (slopes,) = torch.autograd.grad(z.sum(), x)
    assert torch.allclose(gain, slopes.log().flatten(1).sum(1), atol=1e-12)
    assert torch.allclose(logit.inverse(z), x, atol=1e-12)


def test_squeeze_and_split_only_move_numbers():
    x = torch.arange(2 * 16.0).reshape(2, 1, 4, 4)
    squeezed = squeeze(x)
    assert squeezed.shape == (2, 4, 2, 2) and squeezed[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert torch.equal(unsqueeze(squeezed), x)
    assert torch.equal(unsplit(*split(squeezed[:, :3])), squeezed[:, :3])


def test_bits_of_uniform_and_of_independent_pixels():
    assert float(bits_per_dim(torch.zeros(1), 64)) == 8  # a uniform density on the unit cube
    every = np.arange(256, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    assert PixelHistograms((1, 4, 4)).count(every).bits_per_dim(every[::7]) == pytest.approx(8, abs=1e-12)
    rng = np.random.default_rng(0)
    chance = np.array([0.7, 0.2, 0.1])
    images = rng.choice([0, 9, 200], size=(200_000, 2, 1), p=chance).astype(np.uint8)
    entropy = -np.sum(chance * np.log2(chance))
    assert PixelHistograms((1, 2, 1)).count(images).bits_per_dim(images) == pytest.approx(entropy, abs=5e-3)


def test_histograms_as_a_map_give_exactly_their_own_bits(digits):
    flow = still(ImageFlow(STEPS, shape=(1, 8, 8), hidden=(4,), entry="histograms"))
    flow.histograms.count(digits[:200])
    tests = digits[200:]
    assert measure(flow, tests).bits == pytest.approx(flow.histograms.bits_per_dim(tests), abs=1e-5)
    x = dequantize(torch.as_tensor(tests[:, None]))
    assert torch.allclose(flow.histograms.inverse(flow.histograms(x)[0]), x, atol=1e-9)


def test_bits_of_uniform_pixels_behind_a_logit_by_quadrature():
    flow = still(ImageFlow(("cnf",), shape=(1, 8, 8), hidden=(2,), entry="logit", alpha=0.05, center=0.3, scale=1.5))
    x = (np.arange(100_000) + 0.5) / 100_000
    inside = 0.05 + 0.9 * x
    z = (np.log(inside / (1 - inside)) - 0.3) / 1.5
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * 0.9 / (1.5 * inside * (1 - inside))
    images = np.random.default_rng(0).integers(0, 256, (2000, 8, 8), dtype=np.uint8)
    found = measure(flow, images)
    assert abs(found.bits - (8 - np.mean(np.log2(density)))) < 4 * found.error < 0.02


@pytest.mark.parametrize("entry", ["logit", "histograms"])
def test_the_density_is_the_determinant_of_the_map(entry):
    shape = (1, 4, 4)
    flow = ImageFlow(
        ("squeeze", "cnf", "split", "cnf"),
        shape=shape,
        hidden=(3,),
        entry=entry,
        learned_prior=True,
        rtol=1e-7,
        atol=1e-7,
    ).double()
    for block in flow.blocks:
        block.set_arrays({name: 2 * value for name, value in block.arrays().items()})
    if entry == "histograms":
        flow.histograms.count(np.random.default_rng(0).integers(0, 256, (50, 4, 4), dtype=np.uint8))
    with torch.no_grad():
        flow.prior_mean += torch.linspace(-1, 1, 16)
        flow.prior_log_scale += torch.linspace(0.5, -0.5, 16)
    x = torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = torch.autograd.functional.jacobian(lambda x: flow._encode(x, 0, False, False)[0][0], x).reshape(16, 16)
    prior = torch.distributions.Normal(flow.prior_mean, flow.prior_log_scale.exp())
    exact = prior.log_prob(flow.encode(x)[0]).sum() + torch.linalg.slogdet(matrix)[1]
    with torch.no_grad():
        estimates = flow(x.repeat(4000, 1, 1, 1), seed=2).log_density
        exact = float(exact)
    error = float(estimates.std()) / math.sqrt(len(estimates))
    assert error < 0.05 and abs(float(estimates.mean()) - exact) < 4 * error


def test_decode_undoes_encode_and_samples_are_images(digits):
    flow = ImageFlow(STEPS, shape=(1, 8, 8), hidden=(8,), learned_prior=True)
    x = dequantize(torch.as_tensor(digits[:20, None]))
    assert (flow.decode(flow.encode(x)) - x).abs().max() < 1e-3
    samples = flow.sample(5, seed=1)
    assert samples.shape == (5, 1, 8, 8) and samples.min() >= 0 and samples.max() <= 1
    assert torch.equal(samples, flow.sample(5, seed=1)) and not torch.equal(samples, flow.sample(5, seed=2))


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_training_beats_independent_pixels(digits, precision):
    setup = Setup(
        {**SMALL, "hidden": (8,), "start": 0.1},
        40,
        40,
        kinetic=0.01,
        jacobian=0.01,
        precision=precision,
        **FIXED,
    )
    setup = replace(setup, optimizer=replace(setup.optimizer, lr=1e-2))
    found = train_image_flow(setup, digits[:200], digits[200:])
    assert found.fit.finished and found.test.bits < found.baseline - 0.2
    assert found.fit.losses[0] == pytest.approx(found.baseline, abs=0.3)
    assert found.test.evaluations > 30


def test_a_resumed_training_ends_as_an_uninterrupted_one(digits, tmp_path):
    setup = Setup(SMALL, 6, 50, kinetic=0.01, jacobian=0.01, **FIXED)
    whole = train_image_flow(setup, digits[:130], digits[200:220])
    store = {"checkpoint": tmp_path / "fit.safetensors", "resume": True}
    train_image_flow(replace(setup, updates=3), digits[:130], digits[200:220], **store)
    rest = train_image_flow(setup, digits[:130], digits[200:220], **store)
    assert (rest.fit.losses == whole.fit.losses).all() and rest.test == whole.test
    for ours, theirs in zip(rest.flow.parameters(), whole.flow.parameters()):
        assert torch.equal(ours, theirs)
    with pytest.raises(ArgumentError, match="images differs"):
        train_image_flow(setup, digits[1:131], digits[200:220], **store)


def test_every_image_comes_once_an_epoch(digits, monkeypatch):
    from pyneuralode.flows.images import training

    seen = []
    monkeypatch.setattr(training, "dequantize", lambda p, seed: seen.append(p.clone()) or dequantize(p, seed))
    setup = Setup(
        {"steps": ("cnf",), "hidden": (1,), "entry": "logit"}, 4, 20, solver="Euler", control={"step_size": 1.0}
    )
    train_image_flow(setup, digits[:40] + np.arange(40, dtype=np.uint8)[:, None, None], digits[:20])
    first, second = (torch.cat(seen[k : k + 2])[:, 0, 0, 0].tolist() for k in (0, 2))
    assert sorted(first) == sorted(second) == list(range(40)) and first != second


@pytest.mark.parametrize("name", sorted(SETUPS))
def test_every_set_up_takes_a_few_updates_at_tiny_size(name, digits):
    large = np.zeros((40, 28, 28), dtype=np.uint8)
    large[:, 10:18, 10:18] = digits[:40]
    setup = replace(SETUPS[name].with_channels(2), updates=2, batch=4)
    found = train_image_flow(setup, large, large[:4])
    assert found.fit.finished and np.isfinite(found.fit.losses).all() and np.isfinite(found.test.bits)


def test_save_and_load(tmp_path, digits):
    flow = ImageFlow(STEPS, shape=(1, 8, 8), hidden=(4,), entry="histograms", learned_prior=True)
    flow.histograms.count(digits)
    flow.save(tmp_path / "flow.safetensors")
    loaded = pn.load(tmp_path / "flow.safetensors")
    x = dequantize(torch.as_tensor(digits[:3, None]))
    assert torch.equal(loaded.encode(x), flow.encode(x))
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="damaged or not a model file"):
        pn.load(tmp_path / "other")


def test_mistakes_are_answered_by_one_sentence(digits):
    for arguments, words in (
        ({"steps": ("cnf", "squeeeze")}, "a step is 'squeeeze'.*did you mean 'squeeze'"),
        ({"steps": ("squeeze",)}, "give at least one 'cnf'"),
        ({"steps": ("split", "cnf")}, "split"),
        ({"shape": (1, 7, 8), "steps": ("squeeze", "cnf")}, "contains a squeeze of 7 x 8 pixels"),
        ({"entry": "sigmoid"}, "entry is 'sigmoid'"),
        ({"alpha": 0.7}, "alpha is 0.7"),
    ):
        with pytest.raises(ArgumentError, match=words):
            ImageFlow(**arguments)
    with pytest.raises(ArgumentError, match=r"x has shape \(2, 8, 8\)"):
        ImageFlow(shape=(1, 8, 8), hidden=(2,))(torch.zeros(2, 8, 8))
    setup = Setup(SMALL, 2, 50, **FIXED)
    for images, words in (
        (np.full((60, 8, 8), 7, dtype=np.uint8), "no contrast .every pixel is 7."),
        (digits / 255, "has dtype float64"),
        (digits[0], r"has shape \(8, 8\)"),
        (digits[:10], "contains 10 images, fewer than a batch of 50"),
    ):
        with pytest.raises(DataError, match=words):
            train_image_flow(setup, images, digits)
    with pytest.raises(ArgumentError, match="device is 'gpu': give cpu"), place("gpu"):
        pass
    with pytest.raises(ArgumentError, match="device is 'cuda:99', but torch finds"), place("cuda:99"):
        pass
    with pytest.raises(ArgumentError, match="images is 0"):
        replace(setup, images=0)
    with pytest.raises(ArgumentError, match="precision is 'float8'"):
        replace(setup, precision="float8")


@pytest.fixture
def data(tmp_path, digits):
    folder = tmp_path / "data"
    folder.mkdir()
    for prefix, images in (("train", digits[:30]), ("t10k", digits[30:40])):
        large = np.zeros((len(images), 28, 28), dtype=np.uint8)
        large[:, 10:18, 10:18] = images
        header = struct.pack(">BBBB3I", 0, 0, 8, 3, *large.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + large.tobytes())
    return folder


COMMAND = [
    "train",
    "mnist-flow",
    "--scale",
    "small",
    "--updates",
    "2",
    "--channels",
    "2",
    "--batch",
    "10",
    "--device",
    "cpu",
]


def test_the_command_trains_and_resumes(tmp_path, data):
    out = tmp_path / "out"
    command = [*COMMAND, "--data", str(data), "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "bits per dim" in result.output and "histograms" in result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert len(metrics["bits_per_dim"]) == 2 and math.isfinite(metrics["test"]["bits"])
    assert all((out / name).is_file() for name in ("model.safetensors", "samples.png", "curve.png"))
    again = CliRunner().invoke(app, [*command, "--resume"])
    assert again.exit_code == 0
    assert json.loads((out / "metrics.json").read_text())["bits_per_dim"] == metrics["bits_per_dim"]


def test_the_command_s_mistakes(tmp_path):
    out = ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*COMMAND, *out, "--data", str(tmp_path)])
    assert result.exit_code == 2 and "download_mnist()" in result.output and not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, [*COMMAND, *out, "--scale", "smal"])
    assert result.exit_code == 2 and "did you mean 'small'" in result.output


def test_the_report_at_tiny_size(monkeypatch, digits):
    from pyneuralode.reports import mnist_flow
    from pyneuralode.reports.base import Context

    large = np.zeros((40, 28, 28), dtype=np.uint8)
    large[:, 10:18, 10:18] = digits[:40]
    for scale in mnist_flow.FLOWS.values():
        tiny = replace(SETUPS[scale].with_channels(2), updates=2, batch=4)
        monkeypatch.setitem(mnist_flow.SETUPS, scale, tiny)
    monkeypatch.setattr(mnist_flow, "mnist_images", lambda part: large if part == "train" else large[:4])
    report = mnist_flow.run(Context())
    ours = {row.name: row.ours for row in report.rows}
    baseline = ours["independent per-pixel histograms: bits per dim"]
    assert baseline == pytest.approx(PixelHistograms((1, 28, 28)).count(large).bits_per_dim(large[:4]))
    for row in report.rows:
        if "reduced" in row.name:
            assert row.target == baseline and np.isfinite(row.ours)
        elif "published" in row.name:
            assert row.ours is None and 0.9 < row.theirs < 1.1
    assert set(report.figures) == {"samples", "bits"}


@pytest.mark.parametrize("activation", ["softplus", "swish"])
def test_convolutions_backwards_give_the_same_as_autograd(activation):
    field = ConcatConv(2, 4, 3, (3, 4), activation=activation, time_scale=2.0, output_scale=1.3)
    weights = {name: torch.nn.Parameter(torch.as_tensor(value)) for name, value in field.initial(1).items()}
    draws = torch.Generator().manual_seed(0)
    z, e, u = (torch.randn(3, field.dim, dtype=torch.float64, generator=draws) for _ in range(3))
    z.requires_grad_()
    t = torch.tensor(0.3, dtype=torch.float64)
    found = []
    for products in (ConvNet(field, weights), AutogradJacobian(build(field, weights))):
        slope, row = products.vjp(t, z, e)
        gradients = torch.autograd.grad((slope * u).sum() + row.square().sum(), [z, *weights.values()])
        found.append([slope, row, *gradients])
    for ours, theirs in zip(*found):
        assert torch.allclose(ours, theirs, atol=1e-12)
    assert torch.allclose(ConvNet(field, weights).slope(t, z), found[1][0], atol=1e-12)


def test_lower_precision_stays_inside_the_convolutions():
    field = ConcatConv(1, 4, 4, (8,))
    weights = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in field.initial(0).items()}
    z = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    plain = ConvNet(field, weights).vjp(0.5, z, z)
    with torch.autocast("cpu", torch.bfloat16):
        lower = ConvNet(field, weights)
    for ours, theirs in zip(lower.vjp(0.5, z, z), plain):
        assert ours.dtype == torch.float32
        assert 0 < float((ours - theirs).norm() / theirs.norm()) < 0.02


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, data):
    """Images and dequantization are the same; only Hutchinson's noise differs, so the losses nearly agree."""
    found = []
    for start in (
        [sys.executable, "-m"],
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"],
    ):
        out = tmp_path / f"out{len(start)}"
        options = ["--data", str(data), "--out", str(out)]
        subprocess.run([*start, "pyneuralode.cli", *COMMAND, *options], check=True, capture_output=True)
        subprocess.run([*start, "pyneuralode.cli", *COMMAND, *options, "--resume"], check=True, capture_output=True)
        found.append(json.loads((out / "metrics.json").read_text()))
    one, two = found
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["bits_per_dim"] == pytest.approx(one["bits_per_dim"], abs=0.05)
    assert two["test"]["bits"] == pytest.approx(one["test"]["bits"], abs=0.05)
