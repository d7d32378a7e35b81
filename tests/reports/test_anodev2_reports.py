"""The reports on ANODEV2's tables: which networks are trained, each only once, and the comparison with the paper."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pyneuralode.errors import DataError
from pyneuralode.images.training import RECIPES
from pyneuralode.reports import anodev2_cells, anodev2_tables
from pyneuralode.reports.anodev2_cells import Cell, Plan, TrainedCell
from pyneuralode.reports.base import Context
from pyneuralode.reports.recorded import keep, provenance, recorded
from pyneuralode.reports.registry import find_report


@pytest.fixture
def cells(monkeypatch):
    """Replace training by made-up results (3 seeds of ResNet-4, one of AlexNet), and record the requested cells."""
    asked = []
    level = {"baseline": 0.5, "neural_ode": 0.4, "anode": 0.6, "anodev2_one": 0.7, "anodev2_two": 0.65}

    def look_up(cell, plan, seed, advance):
        asked.append((cell, seed))
        accuracy = level[cell.variant] + 0.01 * (seed % 3)
        return TrainedCell(
            accuracy,
            (accuracy - 0.1, accuracy),
            (0.3, 0.4 + 0.1 * (seed % 3)),
            20.0,
            "stopped at update 7" if cell.net == "alexnet" else "",
        )

    short = RECIPES["short"].for_epochs(2)
    monkeypatch.setattr(anodev2_cells, "train_cell", look_up)
    monkeypatch.setattr(anodev2_cells, "_TRAINED", {})
    plans = {"resnet4": Plan(3, short), "alexnet": Plan(1, short)}
    for module in (anodev2_cells, anodev2_tables):
        monkeypatch.setattr(module, "plans", lambda context: plans)
    return asked


def test_a_table_in_the_paper_s_form(cells):
    report = find_report("anodev2-table1").load()(Context())
    rows = {row.name: row for row in report.rows}
    mean = rows["ResNet-4, ANODEV2, configuration one: test accuracy, mean"]
    assert mean.ours == pytest.approx(71.0) and mean.theirs == 78.11 and mean.target is None
    gap = rows["ResNet-4, ANODEV2, configuration one above ANODE: difference of the means"]
    assert gap.ours == pytest.approx(10.0) and gap.theirs == pytest.approx(0.81) and gap.target is None
    form = {row[0]: row[1:] for row in report.tables[0].rows}
    assert form["ANODE, ours"] == [
        "60.00 / 60.00, 60.00",
        "60.00 / 62.00, 61.00",
        "not trained at this scale",
    ]
    assert form["ANODE, theirs"] == ["87.86 / 88.14, 88.02", "76.92 / 77.45, 77.30", "88.48 / 88.75, 88.60"]
    scale = {(row[0], row[1]): row[2:] for row in report.tables[1].rows}
    assert (
        scale["ResNet-4", "ANODE"] == pytest.approx([5, 10_000, 1_000, 2, 3, 50.0, 10.0])
        and scale["ResNet-4", "baseline"][0] is None
    )
    assert "AlexNet, ANODE: stopped at update 7." in report.notes
    assert [ax.get_title(loc="left") for ax in report.figures["accuracy"].axes] == ["ResNet-4", "AlexNet"]


def test_cells_that_tables_share_are_trained_once(cells):
    anodev2_tables.table2(Context(seed=5))
    assert len(cells) == 3 * (3 + 1) and {seed for _, seed in cells} == {5, 6, 7}
    anodev2_tables.table4(Context(seed=5))
    added = cells[12:]
    assert len(added) == 4 and {cell.variant for cell, _ in added} == {"neural_ode"}
    assert cells[0][0].steps == 2 and cells[11][0].variant == "baseline"  # the most expensive jobs first
    anodev2_tables.table4(Context(seed=6))
    assert {seed for _, seed in cells[16:]} == {6, 8}


def test_the_ablation_s_targets(cells):
    report = find_report("anodev2-table4").load()(Context())
    judged = {row.name: row for row in report.rows if row.target is not None}
    gap = judged["ResNet-4, ANODE above Neural ODE: difference of the means"]
    assert gap.met and gap.ours == pytest.approx(20) and gap.theirs == pytest.approx(29.93)
    assert len(judged) == 2 and all("above Neural ODE" in name for name in judged)  # AlexNet has only one seed


def test_parameters():
    report = find_report("anodev2-table3").load()(Context())
    rows = {row.name: row for row in report.rows}
    assert (
        rows["ResNet-4, baseline: parameters"].ours == 7_706 and rows["AlexNet, baseline: parameters"].ours == 1_756_682
    )
    judged = [row for row in report.rows if row.met is not None]
    assert len(judged) == 8 and all(row.met for row in judged) and len(report.rows) == 12


def test_a_cell_is_trained_for_what_it_says(tmp_path, monkeypatch):
    rng, folder = np.random.default_rng(0), tmp_path / "cifar10"
    folder.mkdir()
    for name, n in (("train10k", 40), ("test1k", 20)):
        images, labels = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, n)
        np.savez(folder / f"{name}.npz", x=images, y=labels.astype(np.uint8))
    monkeypatch.setenv("PYNEURALODE_DATA", str(tmp_path))
    told = []
    plan = Plan(1, replace(RECIPES["short"].for_epochs(2), batch=16), 32, 10)
    for cell in (
        Cell("resnet4", "baseline"),
        Cell("resnet4", "neural_ode", 2),
        Cell("resnet4", "anodev2_two", 2),
    ):
        found = anodev2_cells.train_cell(cell, plan, 0, lambda n=1, note="": told.append(n))
        assert len(found.curve) == 2 and found.accuracy == found.curve[-1] and not found.failure
    assert sum(told) == 3 * 4
    monkeypatch.setenv("PYNEURALODE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")
    with pytest.raises(DataError, match=r"download_cifar10\(\)"):
        anodev2_cells.train_cell(cell, plan, 0, lambda n=1, note="": None)


def run(variant, accuracy, **changes):
    settings = {"epochs": 350}
    numbers = {"images": 50_000, "tests": 10_000, "test_accuracy": accuracy, "seconds": 3.5, "finished": True}
    about = {
        "model": {"net": "resnet4", "variant": variant, "steps": 5},
        "seed": 2,
        "recipe": "paper",
        "settings": settings,
    }
    return {**about, **numbers, "commit": "abc", "machine": "Linux, 1 x GPU", **changes}


def test_recorded_runs_are_shown_as_such(cells, tmp_path, monkeypatch):
    assert recorded("anodev2", tmp_path) == []
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, content in zip(paths, (run("anode", 0.77), run("anodev2_two", 0.78))):
        path.write_text(json.dumps(content))
    assert keep("anodev2", paths, tmp_path) == tmp_path / "anodev2.json"
    kept = recorded("anodev2", tmp_path)
    assert [run["test_accuracy"] for run in kept] == [0.77, 0.78]
    monkeypatch.setattr(anodev2_tables, "recorded", lambda id: kept)
    report = anodev2_tables.table1(Context())
    (row,) = report.tables[2].rows
    assert len(anodev2_tables.table2(Context()).tables) == 2  # ANODE has two steps in that table
    assert row == ["ResNet-4", "ANODE", 5, 50_000, 10_000, 350, 2, 77.0, 3.5, "Linux, 1 x GPU", "abc"]
    for changes in ({"finished": False}, {"commit": None}):
        paths[0].write_text(json.dumps(run("anode", 0.77, **changes)))
        with pytest.raises(
            DataError, match=r"one.json is not the metrics.json of a finished run, with commit, machine"
        ):
            keep("anodev2", paths, tmp_path)
    with pytest.raises(DataError, match=r"cannot be read"):
        keep("anodev2", [tmp_path / "absent.json"], tmp_path)


def test_where_a_run_was_made_is_said_without_names(monkeypatch):
    found = provenance()
    assert set(found) == {"commit", "machine"} and "CPU cores" in found["machine"] and "/" not in found["machine"]
    assert provenance("abc")["commit"] == "abc"
    monkeypatch.setenv("PYNEURALODE_COMMIT", "def")
    assert provenance()["commit"] == "def"
