"""The report `odenet` at a tiny size: its networks, measurements and figures."""

import numpy as np
import pytest
import torch

from pyneuralode.images import ODEBlock
from pyneuralode.images.training import RECIPES
from pyneuralode.images.training.specs import ClassifierSpec, ClassifierTraining
from pyneuralode.plotting.classifiers import (
    error_against_parameters,
    evaluations_while_training,
    memory_against_depth,
    training_losses,
)
from pyneuralode.progress import SilentProgress
from pyneuralode.reports import odenet, odenet_nets
from pyneuralode.reports.base import Context
from pyneuralode.reports.registry import find_report


@pytest.fixture
def mnist(data_dir, monkeypatch):
    monkeypatch.setenv("PYNEURALODE_DATA", str(data_dir))


@pytest.fixture
def tiny(monkeypatch, mnist):
    """Reduce the report's networks to few channels, images and steps."""
    nets = []
    for net in odenet.NETS:
        options = {**net.options, "channels": 4}
        if options["kind"] in ("odenet", "rknet") and options.get("steps", 20):
            options["steps"] = 2
        nets.append(odenet_nets.DigitNet(net.name, options, quick=(128, 1), gradient=net.gradient))
    monkeypatch.setattr(odenet, "NETS", tuple(nets))
    monkeypatch.setattr(odenet_nets, "CHANNELS", 4)


def ignored(n=1, note=""):
    pass


def test_the_networks_are_those_of_the_sources():
    nets = {net.name: ClassifierSpec("odenet", net.options).build() for net in odenet.NETS}
    count = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    assert count[odenet.MAIN] == count[odenet.ADAPTIVE] == count["RK-Net, RK4"] == 208_010
    assert round(count["ResNet, 6 blocks"] / 1e6, 2) == 0.60
    main = nets[odenet.MAIN].body.ode
    assert (main.solver, main.control.step_size) == ("Euler", 1 / 20)
    for net in odenet.NETS:
        body = nets[net.name].body
        assert not isinstance(body, ODEBlock) or type(body.ode.gradient).__name__ == net.gradient


def test_a_training_counts_evaluations_and_names_what_it_misreads(mnist):
    options = {"kind": "odenet", "channels": 4, "steps": 3}
    training = ClassifierTraining(
        ClassifierSpec("odenet", options), RECIPES["digits"].for_epochs(1), images=320, tests=200
    )
    found = odenet.train(training, 0, ignored)
    assert len(found.losses) == 5 and (found.evaluations == 3).all()
    labels = training.sets()[1].labels.numpy()
    assert (found.answers != labels[found.misread]).all()
    assert len(found.misread) == min(odenet_nets.MISREAD, round(found.error / 100 * 200))


def test_memory_is_flat_by_the_adjoint_and_a_state_a_step_by_checkpoints(monkeypatch):
    monkeypatch.setattr(odenet_nets, "CHANNELS", 8)
    depths = [8, 16]
    peaks = odenet_nets.memory(depths, SilentProgress())
    rows = odenet._growth(odenet_nets.growth(depths, peaks))
    grown = {row.name: row.ours for row in rows}
    assert [row.met for row in rows] == [True, True, None, None]
    assert grown["ODE-Net, Checkpointed: memory per step"] > 0.9
    assert grown["RK-Net, Backprop: memory per step"] > 4
    assert grown["ResNet: memory per residual block"] > 4


def test_the_whole_report(tiny):
    report = find_report("odenet").load()(Context("quick", seed=1))
    rows = {row.name: row for row in report.rows}
    assert all(np.isfinite(row.ours) for row in rows.values() if row.ours is not None)
    assert rows[f"{odenet.MAIN}: test error"].theirs == 0.77
    assert {"training", "evaluations", "memory", "errors", "misread"} <= set(report.figures)
    assert set(report.captions) == set(report.figures)
    drawn = report.figures["misread"].axes
    words = [ax.get_title() for ax in drawn if ax.get_title()]
    assert words and all(", read as " in w and w[0] != w[-1] for w in words)
    table = {row[0]: dict(zip(report.tables[0].columns, row)) for row in report.tables[0].rows}
    assert table[odenet.MAIN]["evaluations"] == 2 and table["plain CNN"]["evaluations"] is None
    assert table[odenet.ADAPTIVE]["evaluations"] > 6


def test_a_recorded_run_is_shown_as_recorded():
    run = {
        "model": {"kind": "odenet"},
        "recipe": "review",
        "seed": 0,
        "test_accuracy": 0.9941,
        "curves": {"test_accuracy": [0.98, 0.9941]},
        "images": 60_000,
        "parameters": 208_010,
        "seconds": 1800.0,
        "processes": 2,
        "commit": "abc",
        "machine": "a machine",
    }
    (row,) = odenet._recorded_errors([run])
    assert "recorded" in row.name and row.ours == pytest.approx(0.59) and row.met
    assert not odenet._recorded_errors([run | {"test_accuracy": 0.992}])[0].met
    table = odenet._recorded_table([run, run | {"seed": 1}])
    assert dict(zip(table.columns, table.rows[0]))["minutes"] == 30
    lines = odenet._recorded_curves([run]).axes[0].lines
    assert list(lines[0].get_ydata()) == [0.98, 0.9941]


def test_figures_show_what_they_are_given():
    losses = {"a": np.linspace(2, 1, 100), "b": np.linspace(2, 0.5, 40)}
    figure = training_losses(losses, {"a": 10, "b": 20}, window=10)
    a, b = figure.axes[0].lines
    assert a.get_xdata()[-1] == 1000 and b.get_xdata()[-1] == 800
    assert a.get_ydata()[-1] == pytest.approx(losses["a"][-10:].mean())
    figure = evaluations_while_training({"a": np.full(50, 20.0)}, {"a": 10})
    assert set(figure.axes[0].lines[0].get_ydata()) == {20.0}
    figure = memory_against_depth([5, 10], {"a": [1e6, 2e6]})
    assert list(figure.axes[0].lines[0].get_ydata()) == [1, 2]
    figure = error_against_parameters({"a": (208_010, 0.9)}, {"b": (0.22e6, 0.42)})
    assert [tuple(line.get_xydata()[0]) for line in figure.axes[0].lines] == [(0.20801, 0.9), (0.22, 0.42)]


def test_jobs_are_repeatable(mnist):
    training = ClassifierTraining(
        ClassifierSpec("odenet", {"channels": 4, "steps": 2}),
        RECIPES["digits"].for_epochs(1),
        images=128,
        tests=50,
    )
    first, second = (odenet.train(training, 3, ignored) for _ in range(2))
    assert np.array_equal(first.losses, second.losses) and first.error == second.error
    assert torch.get_num_threads() == 1
