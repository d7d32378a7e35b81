"""Interrupted and resumed training equals uninterrupted training bit for bit, for every registered recipe, setup,
optimizer and schedule."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import pyneuralode as pn
from pyneuralode.fitting.in_julia import OPTIMIZERS
from pyneuralode.fitting.optimizers import LBFGS, SCHEDULES
from pyneuralode.fitting.schedules import OneCycle, StepDecay
from pyneuralode.flows.images.training import SETUPS, train_image_flow
from pyneuralode.flows.planar import PlanarFlow
from pyneuralode.images.training import RECIPES, ImageData, train_classifier
from pyneuralode.images.training.specs import FAMILIES, ClassifierSpec

FIRST_ORDER = [kind for kind in OPTIMIZERS if kind is not LBFGS]


class Stop:
    """A Progress that raises KeyboardInterrupt after `after` units, like Ctrl-C."""

    def __init__(self, after):
        self.left = after

    def task(self, description, total=None):
        return self

    def advance(self, n=1, note=""):
        self.left -= n
        if self.left <= 0:
            raise KeyboardInterrupt


def stopping(after):
    """Return a callback that raises KeyboardInterrupt, like Ctrl-C, at its call number `after`."""
    calls = itertools.count(1)

    def callback(*arguments):
        if next(calls) == after:
            raise KeyboardInterrupt

    return callback


def check_same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def net(seed=0):
    """Return a net with batch norm, dropout, and two convolutions, so that channels_last differs from contiguous."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(96, 2),
    )


def images(count, *shape, classes=2):
    rng = np.random.default_rng(0)
    return ImageData(rng.integers(0, 256, (count, *shape), dtype=np.uint8), rng.integers(0, classes, count), classes)


@pytest.mark.parametrize("name", RECIPES)
def test_a_classifiers_training_resumes_to_the_same_bits(name, tmp_path):
    recipe = replace(RECIPES[name].for_epochs(4), batch=10)
    data = images(40, 3, 8, 8)
    whole = train_classifier(net(), data, data, recipe, seed=3)
    store = {"checkpoint": tmp_path / "fit.safetensors", "resume": True, "seed": 3}
    part = train_classifier(net(), data, data, recipe, callback=stopping(3), **store)
    assert part.fit.interrupted and len(part.fit.losses) == 12
    torch.manual_seed(99)  # a new process has another state of torch's random number generator
    rest = train_classifier(net(9), data, data, recipe, **store)
    check_same(rest.model, whole.model)
    np.testing.assert_array_equal(rest.fit.losses, whole.fit.losses)
    assert torch.equal(rest.logits, whole.logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", RECIPES)
def test_the_packages_classifiers_resume_to_the_same_bits(family, name, tmp_path):
    recipe = replace(RECIPES[name].for_epochs(2), batch=2)
    options = {"odenet": {"steps": 1}, "anodev2": {"net": "resnet4", "variant": "anodev2_one", "steps": 1}}
    spec = ClassifierSpec(family, options[family])
    data = images(4, *{"odenet": (1, 28, 28), "anodev2": (3, 32, 32)}[family], classes=10)
    whole = train_classifier(spec.build(), data, data, recipe)
    store = {"checkpoint": tmp_path / "fit.safetensors", "resume": True}
    assert train_classifier(spec.build(), data, data, recipe, callback=stopping(2), **store).fit.interrupted
    check_same(train_classifier(spec.build(5), data, data, recipe, **store).model, whole.model)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if len(setup.flow["steps"]) > 6 else name
        for name, setup in SETUPS.items()
    ],
)
def test_an_image_flows_training_resumes_to_the_same_bits(name, tmp_path):
    setup = replace(SETUPS[name].with_channels(2), updates=4, batch=2)
    pixels = images(6, 4, 4).images.numpy()
    whole = train_image_flow(setup, pixels, pixels[:2], seed=2)
    store = {"checkpoint": tmp_path / "fit.safetensors", "checkpoint_every": 2, "resume": True, "seed": 2}
    part = train_image_flow(setup, pixels, pixels[:2], progress=Stop(3), **store)
    assert part.fit.interrupted and len(part.fit.losses) == 3
    rest = train_image_flow(setup, pixels, pixels[:2], **store)
    check_same(rest.flow, whole.flow)
    np.testing.assert_array_equal(rest.fit.losses, whole.fit.losses)
    assert rest.test == whole.test


def resumed_flow(build, tmp_path, stop=7, **settings):
    """Return a flow fitted without interruption, and one that was stopped and resumed from its last checkpoint."""
    whole, rest = build(), build()
    losses = whole.fit(**settings).losses
    store = {"checkpoint": tmp_path / "fit.safetensors", "checkpoint_every": 3, "resume": True}
    assert build().fit(**settings, callback=stopping(stop), **store).interrupted
    np.testing.assert_array_equal(rest.fit(**settings, **store).losses, losses)
    return whole, rest


POINTS = np.random.default_rng(1).normal(size=(40, 2))
SOURCES = {
    "rows": {"data": POINTS},
    "sampler": {"sampler": lambda n, rng: rng.normal(size=(n, 2))},
    "log density": {"log_density": lambda x: -x.square().sum(-1)},
}


@pytest.mark.parametrize("kind", FIRST_ORDER)
@pytest.mark.parametrize("schedule", [*SCHEDULES, OneCycle(0.02, 11), StepDecay(0.02, (4, 8))], ids=str)
def test_a_flows_fit_resumes_to_the_same_bits(kind, schedule, tmp_path):
    def build():
        return pn.ContinuousFlow(
            pn.ConcatMLP((2, 4, 2)), trace="hutchinson", solver="RK4", step_size=0.5, engine="torch"
        )

    optimizer = kind(0.02, clip=1.0, **({"momentum": 0.9} if kind is pn.SGD else {}))
    settings = {"updates": 11, "batch": 8, "optimizer": optimizer, "schedule": schedule, **SOURCES["rows"]}
    check_same(*resumed_flow(build, tmp_path, **settings))


@pytest.mark.parametrize("flow, source", [*(("continuous", name) for name in SOURCES), ("planar", "log density")])
def test_a_fit_to_any_source_resumes_to_the_same_bits(flow, source, tmp_path):
    def build():
        if flow == "planar":
            return PlanarFlow(2, 3)
        return pn.ContinuousFlow(pn.ConcatMLP((3, 4, 3)), augment_dim=1, solver="RK4", step_size=0.5, engine="torch")

    check_same(*resumed_flow(build, tmp_path, updates=11, batch=8, optimizer=pn.Adam(0.02), **SOURCES[source]))


TS = np.linspace(0, 3, 16)
TRUTH = pn.solve(pn.Linear(((-0.3, -1.0), (1.0, -0.2))), [1.0, 0.0], TS, rtol=1e-10, atol=1e-10, engine="torch").ys
RATES = {pn.Adam: 0.05, pn.AdamW: 0.05, pn.RMSprop: 0.01, pn.SGD: 0.002, pn.LBFGS: 1.0}


def check_fit_resumes(build, plan, stop, tmp_path, **settings):
    settings |= {"y0": [1.0, 0.0], "plan": plan}
    whole = pn.fit(build(), TS, TRUTH, **settings)
    store = {"checkpoint": tmp_path / "fit", "checkpoint_every": 3}
    assert pn.fit(build(), TS, TRUTH, callback=stopping(stop), **settings, **store).interrupted
    rest = pn.fit(build(), TS, TRUTH, resume=True, **settings, **store)
    np.testing.assert_array_equal(rest.losses, whole.losses)
    assert list(rest.parameters) == list(whole.parameters)
    for name, value in whole.parameters.items():
        np.testing.assert_array_equal(rest.parameters[name], value)
    for ours, theirs in zip(rest.stages, whole.stages, strict=True):
        assert (ours.best_loss, ours.end) == (theirs.best_loss, theirs.end)
    assert rest.message == whole.message


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("stop", [8, 19])
def test_a_fit_resumes_to_the_same_bits_in_every_stage(kind, schedule, stop, tmp_path):
    def build():
        return pn.NeuralODE(pn.MLP((2, 4, 2)), rtol=1e-6, atol=1e-6, engine="torch")

    each = pn.LBFGS() if kind is LBFGS else kind(RATES[kind], schedule=schedule, clip=1.0)
    plan = pn.GrowingSpan([1.5, 3.0], each, 10, finish=[pn.Stage(pn.LBFGS(), 5), pn.Stage(each, 3)])
    check_fit_resumes(build, plan, stop, tmp_path, bounds={"bias_2": (-5.0, 5.0)})


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_weights_that_do_not_lie_in_order_resume_to_the_same_bits(kind, tmp_path):
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[0.0, 0.4], [-0.6, 0.1]], dtype=torch.float64).t())

        def forward(self, t, y):
            return y @ self.weight

    assert not Turned().weight.is_contiguous()
    plan = [pn.Stage(kind(RATES[kind]), 9)]
    check_fit_resumes(lambda: pn.NeuralODE(Turned(), engine="torch"), plan, 5, tmp_path)
