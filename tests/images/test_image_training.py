"""Training of classifiers: contents of batches, accuracy, and equal results with and without interruption."""

import json
import pickle
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import pyneuralode as pn
from pyneuralode.cli import app
from pyneuralode.errors import ArgumentError, DataError, ModelFileError
from pyneuralode.fitting import SGD, Adam
from pyneuralode.fitting.in_julia import _is_known
from pyneuralode.fitting.schedules import StepDecay
from pyneuralode.images.training import RECIPES, Augmentation, ClassifierRecipe, ImageData, measure, train_classifier
from pyneuralode.images.training.data import Batches
from pyneuralode.images.training.specs import ClassifierSpec, ClassifierTraining

RECIPE = ClassifierRecipe(4, 20, SGD(0.1, momentum=0.9, weight_decay=5e-4), augmentation=Augmentation(1, True))


@pytest.fixture(scope="module")
def bars():
    """Images (200, 8, 8) of a vertical or a horizontal bar, 100 for training and 100 for testing."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 60, (200, 8, 8), dtype=np.uint8), rng.integers(0, 2, 200)
    for image, label, place in zip(images, labels, rng.integers(1, 6, 200)):
        (image if label else image.T)[1:7, place : place + 2] += 150
    train = ImageData(images[:100], labels[:100], classes=2)
    return train, train.like(images[100:], labels[100:])


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))


def test_crops_and_flips_are_what_they_say():
    pixels = torch.randint(0, 256, (9, 3, 6, 5), dtype=torch.uint8)
    change = Augmentation(crop=2, flip=True)
    draws = change.draw(np.random.default_rng(0), 9)
    assert draws[:, :2].min() == 0 and draws[:, :2].max() == 4 and set(draws[:, 2].tolist()) == {0, 1}
    for image, (row, column, mirrored), ours in zip(pixels, draws.tolist(), change.apply(pixels, draws)):
        padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)))
        cut = padded[:, row : row + 6, column : column + 5]
        assert (ours.numpy() == (cut[:, :, ::-1] if mirrored else cut)).all()
    assert torch.equal(Augmentation().apply(pixels, draws), pixels)


def test_every_image_comes_once_an_epoch_and_parts_make_up_a_batch():
    numbers = np.arange(40, dtype=np.uint8)
    data = ImageData(numbers[:, None, None] + np.zeros((40, 4, 4), np.uint8), numbers % 10)
    batches = Batches(data, 8, Augmentation(1, True), seed=3)
    labels = [torch.cat([batches(5 * epoch + k)[1] for k in range(5)]) for epoch in (0, 1)]
    assert [torch.bincount(part).tolist() for part in labels] == [[4] * 10] * 2
    assert not torch.equal(*labels)
    images, whole = batches(7)
    halves = [batches(7, slice(rank, None, 2)) for rank in (0, 1)]
    assert torch.equal(torch.stack([x for x, _ in halves], 1).flatten(0, 1), images)
    assert torch.equal(torch.stack([y for _, y in halves], 1).flatten(), whole)


def test_normalized_pixels_have_mean_zero_and_deviation_one():
    images = np.random.default_rng(0).integers(0, 200, (50, 3, 8, 8), dtype=np.uint8)
    images[:, 1] //= 4
    data = ImageData(images, np.zeros(50, int))
    x = data.normalized(data.images)
    assert x.dtype == torch.float32 and x.mean((0, 2, 3)).abs().max() < 1e-5
    assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert data.like(images[:2], [1, 2]).mean == data.mean  # test images are normalized with the training statistics


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bars_are_told_apart(bars, precision):
    recipe = replace(RECIPE, epochs=8, precision=precision, channels_last=precision == "bfloat16", schedule="one-cycle")
    found = train_classifier(net(), *bars, recipe)
    assert found.fit.finished and found.accuracy > 0.9
    assert (
        found.accuracy
        == found.curves.test_accuracy[-1]
        == float((found.logits.argmax(1) == bars[1].labels).float().mean())
    )
    assert found.logits.dtype == torch.float32 and all(p.dtype == torch.float32 for p in found.model.parameters())
    assert all(len(values) == 8 for values in vars(found.curves).values())
    assert found.curves.loss[-1] < found.curves.loss[0] and found.curves.train_accuracy[-1] > 0.9


def test_double_precision(bars):
    found = train_classifier(net().double(), *bars, replace(RECIPE, epochs=1))
    single = train_classifier(net(), *bars, replace(RECIPE, epochs=1))
    assert found.logits.dtype == torch.float64 and found.curves.loss[0] != single.curves.loss[0]
    assert found.curves.loss[0] == pytest.approx(single.curves.loss[0], abs=1e-5)


def test_a_resumed_training_ends_as_an_uninterrupted_one(bars, tmp_path):
    whole = train_classifier(net(), *bars, RECIPE, seed=1)
    store = {"checkpoint": tmp_path / "fit.safetensors", "resume": True, "seed": 1}

    def stop(curves):
        if len(curves.loss) == 3:
            raise KeyboardInterrupt

    part = train_classifier(net(), *bars, RECIPE, callback=stop, **store)
    assert part.fit.interrupted and part.accuracy is None and "interrupted after 15 updates" in part.fit.message
    rest = train_classifier(net(9), *bars, RECIPE, **store)
    assert same(rest.model, whole.model)
    assert (rest.fit.losses == whole.fit.losses).all() and rest.accuracy == whole.accuracy
    for name in ("loss", "train_accuracy", "test_accuracy", "evaluations"):
        assert getattr(rest.curves, name) == getattr(whole.curves, name)
    again = train_classifier(net(9), *bars, RECIPE, **store)
    assert same(again.model, whole.model) and again.accuracy == whole.accuracy


def test_what_a_checkpoint_is_not_of(bars, tmp_path):
    store = {"checkpoint": tmp_path / "fit.safetensors", "resume": True}
    recipe = replace(RECIPE, epochs=1)
    train_classifier(net(), *bars, recipe, **store)
    with pytest.raises(ArgumentError, match="model differs from the one saved in .*remove the file"):
        train_classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), *bars, recipe, **store)
    with pytest.raises(ArgumentError, match="precision differs"):
        train_classifier(net(), *bars, replace(recipe, precision="bfloat16"), **store)
    with pytest.raises(ArgumentError, match="images differs"):
        train_classifier(net(), bars[1], bars[0], recipe, **store)
    store["checkpoint"].write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="is damaged"):
        train_classifier(net(), *bars, recipe, **store)


def test_a_loss_that_is_not_finite_ends_the_training_with_its_cause(bars):
    recipe = replace(RECIPE, optimizer=SGD(1e30))
    found = train_classifier(net(), *bars, recipe)
    assert not (found.fit.finished or found.fit.interrupted)
    assert "the loss is nan at a learning rate of 1e+30" in found.fit.message
    assert all(p.isfinite().all() for p in found.model.parameters()) and 0 <= found.accuracy <= 1


def test_evaluations_and_misread_images(bars):
    class Counted(nn.Module):
        evaluations = 7

        def forward(self, x):
            return x

    class Own(nn.Sequential):
        @property
        def evaluations(self):
            return None

    train, tests = bars
    found = train_classifier(Own(Counted(), Counted(), *net()), train, tests, replace(RECIPE, epochs=1))
    assert found.curves.evaluations == [14.0] and set(found.fit.evaluations) == {14}
    wrong = found.misread(tests.labels)
    answers = found.logits.argmax(1)
    assert sorted(wrong.tolist()) == (answers != tests.labels).nonzero()[:, 0].tolist()
    certainty = found.logits.softmax(1).max(1).values[wrong]
    assert (certainty.diff() <= 0).all()
    assert torch.allclose(measure(found.model, tests, batch=7), found.logits, atol=1e-5)


def test_recipes():
    assert [StepDecay(0.5, (3, 5))(k) for k in (0, 2, 3, 5)] == pytest.approx([0.5, 0.5, 0.05, 0.005])
    paper = RECIPES["paper"].rate(each_epoch=10)
    assert [paper(k) for k in (0, 1499, 1500, 2500)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert RECIPES["paper"].for_epochs(35).drops == (15, 25)
    assert RECIPES["review"].rate(10) is None
    cycle = RECIPES["short"].rate(10)
    assert max(cycle(k) for k in range(10 * RECIPES["short"].epochs)) == pytest.approx(RECIPES["short"].optimizer.lr)
    parameter = nn.Parameter(torch.ones(1))
    optimizer = SGD(0.1, weight_decay=0.5).make([parameter])
    parameter.grad = torch.zeros(1)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.1 * 0.5)
    assert _is_known(SGD(0.1)) and not _is_known(SGD(0.1, weight_decay=0.5)) and _is_known(Adam())


def test_mistakes_are_answered_by_one_sentence(bars):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    for arguments, words in (
        ((images / 255, np.zeros(5, int)), "images are of type float64: give integers"),
        ((images[0], np.zeros(8, int)), r"images have shape \(8, 8\)"),
        ((images, np.zeros(4, int)), "images has 5 entries, but labels has 4"),
        ((images, np.full(5, 10)), "labels range from 10 to 10: use integers from 0 to 9"),
        ((images, np.full(5, -1)), "labels range from -1 to -1"),
        ((images, np.zeros(5)), "labels have shape .* and type float64"),
        ((np.full((5, 8, 8), 3, np.uint8), np.zeros(5, int)), "without contrast"),
        ((images, np.zeros(5, int), 10, (0.5, 0.5)), "give one finite number per channel \\(number of channels: 1\\)"),
    ):
        with pytest.raises(DataError, match=words):
            ImageData(*arguments)
    train, tests = bars
    with pytest.raises(DataError, match=r"test_data has shape \(1, 8, 7\) and 2 classes"):
        train_classifier(net(), train, train.like(images[:, :, :7], [0] * 5), RECIPE)
    with pytest.raises(ArgumentError, match=r"does not accept images of shape \(1, 8, 8\)"):
        train_classifier(nn.Conv2d(3, 8, 3), train, tests, RECIPE)
    with pytest.raises(
        ArgumentError, match=r"returned shape \(2, 3\): give a model that returns logits of shape \(n, 2\)"
    ):
        train_classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), train, tests, RECIPE)
    with pytest.raises(ArgumentError, match="batch is 101, but there are 100 images"):
        train_classifier(net(), train, tests, replace(RECIPE, batch=101))
    with pytest.raises(ArgumentError, match="seed is -1"):
        train_classifier(net(), train, tests, RECIPE, seed=-1)
    for changes, words in (
        ({"precision": "float8"}, "precision is 'float8'"),
        ({"schedule": "one-circle"}, "did you mean 'one-cycle'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
    ):
        with pytest.raises(ArgumentError, match=words):
            replace(RECIPE, **changes)
    with pytest.raises(ArgumentError, match="crop is -1"):
        Augmentation(-1)
    with pytest.raises(ArgumentError, match="images is 0"):
        train.take(0)
    with pytest.raises(ArgumentError, match="family is 'odenets'.*did you mean 'odenet'"):
        ClassifierSpec("odenets")


def test_a_described_model_is_saved_read_and_sent(tmp_path):
    spec = ClassifierSpec("anodev2", {"net": "resnet4", "variant": "baseline"})
    model = spec.build(3)
    spec.save(model, tmp_path / "model.safetensors")
    assert same(pn.load(tmp_path / "model.safetensors"), model) and not same(spec.build(4), model)
    training = pickle.loads(pickle.dumps(ClassifierTraining(spec, RECIPES["short"], images=5)))
    assert training.spec == spec and same(training.spec.build(3), model)
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="damaged or not a model file"):
        pn.load(tmp_path / "other")


@pytest.fixture
def mnist(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "mnist"
    folder.mkdir()
    for prefix, n in (("train", 40), ("t10k", 20)):
        images, labels = (
            rng.integers(0, 256, (n, 28, 28), dtype=np.uint8),
            rng.integers(0, 10, n, dtype=np.uint8),
        )
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return folder


@pytest.fixture
def cifar(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "cifar10"
    folder.mkdir()
    for name, n in (("train10k", 32), ("test1k", 16)):
        images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", x=images, y=rng.integers(0, 10, n, dtype=np.uint8))
    return folder


ODENET = "train odenet --recipe digits --epochs 2 --batch 20 --steps 1 --precision float32 --device cpu"
ANODEV2 = "train anodev2 --recipe short --reduced --epochs 1 --batch 16 --variant baseline --device cpu"
ODENET, ANODEV2 = ODENET.split(), ANODEV2.split()


def test_the_odenet_command_trains_and_resumes(tmp_path, mnist):
    out = tmp_path / "out"
    command = [*ODENET, "--data", str(mnist), "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "4 updates" in result.output and "of 20 classified correctly" in result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["parameters"] == 208_010 and metrics["finished"] and metrics["curves"]["evaluations"] == [1, 1]
    assert metrics["machine"] and {"commit", "seed", "seconds", "recipe", "settings"} <= set(metrics)
    assert all((out / name).stat().st_size > 1000 for name in ("model.safetensors", "curve.png", "misread.png"))
    assert sum(p.numel() for p in pn.load(out / "model.safetensors").parameters()) == 208_010
    again = CliRunner().invoke(app, [*command, "--resume"])
    assert again.exit_code == 0
    assert json.loads((out / "metrics.json").read_text())["curves"] == metrics["curves"]
    other = CliRunner().invoke(app, [*command, "--resume", "--kind", "cnn"])
    assert (
        other.exit_code == 2
        and "model differs from the one saved in" in other.output
        and len(other.output.splitlines()) == 1
    )


def test_seeds_side_by_side(tmp_path, cifar):
    out = tmp_path / "out"
    command = [*ANODEV2, "--data", str(cifar), "--out", str(out), "--seeds", "3,1"]
    result = CliRunner().invoke(app, [*command, "--workers", "1"])
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "metrics.json").read_text())
    singles = [json.loads((out / f"seed-{seed}" / "metrics.json").read_text()) for seed in (3, 1)]
    assert summary["seeds"] == [3, 1] and summary["test_accuracy"] == [s["test_accuracy"] for s in singles]
    assert summary["min"] == min(summary["test_accuracy"]) and [s["seed"] for s in singles] == [3, 1]
    assert (out / "seed-1" / "model.safetensors").is_file() and (out / "curve.png").is_file()


def test_the_commands_mistakes(tmp_path, mnist, cifar, monkeypatch):
    out = ["--out", str(tmp_path / "out")]
    for command, words in (
        ([*ODENET, "--data", str(tmp_path)], "download_mnist()"),
        ([*ANODEV2, "--data", str(tmp_path)], "train10k.npz is not in"),
        ([*ODENET, "--data", str(mnist), "--recipe", "reviews"], "did you mean 'review'"),
        ([*ODENET, "--data", str(mnist), "--kind", "odnet"], "did you mean 'odenet'"),
        ([*ANODEV2, "--data", str(cifar), "--variant", "anodev2"], "variant is 'anodev2'"),
        ([*ANODEV2, "--data", str(cifar), "--steps", "2"], "the baseline has no ODE blocks"),
        ([*ANODEV2, "--data", str(cifar), "--seeds", "1,1"], "give distinct nonnegative integers"),
        ([*ANODEV2, "--data", str(cifar), "--images", "33"], "images is 33: give a number from 1 to 32"),
        ([*ODENET, "--data", str(mnist), "--device", "gpu"], "device is 'gpu'"),
    ):
        result = CliRunner().invoke(app, [*command, *out])
        assert result.exit_code == 2 and words in result.output, result.output
        assert len(result.output.splitlines()) == 1
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.slow
def test_two_processes_train_on_the_same_batches(tmp_path, cifar):
    """Batch normalization uses separate means for each half of a batch, so the losses agree only approximately."""
    found = []
    for start in (
        [sys.executable, "-m"],
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"],
    ):
        out = tmp_path / f"out{len(start)}"
        command = [*start, "pyneuralode.cli", *ANODEV2, "--variant", "anode", "--steps", "2"]
        command += ["--precision", "float32", "--data", str(cifar), "--out", str(out)]
        for more in ([], ["--resume"]):
            subprocess.run([*command, *more], check=True, capture_output=True)
        found.append(json.loads((out / "metrics.json").read_text()))
    one, two = found
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["curves"]["loss"] == pytest.approx(one["curves"]["loss"], rel=0.05)
