import json
import math
import stat
import types

import numpy as np
import pytest
from matplotlib.figure import Figure

from pyneuralode.errors import ArgumentError, DataError, SolverError
from pyneuralode.reports import registry
from pyneuralode.reports.base import Findings, Row, Table
from pyneuralode.reports.format import number
from pyneuralode.reports.runner import run_reports

ROW_KEYS = ["name", "ours", "theirs", "unit", "better", "source", "target", "met"]


def plot():
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def sample(context):
    return Findings(
        rows=[
            Row("loss <best>", np.float32(1.25e-4), 1.97e-4, source="R & P", target=1.97e-4),
            Row("accuracy", 0.9871, 0.9923, unit="%", better="higher", target=0.99),
            Row("loss after 200 steps", 0.01130, 0.01124, better="match", tolerance=0.02),
            Row("parameters", 5754, 5754, better="match"),
            Row("diverged", math.nan, target=1.0),
        ],
        figures={"curve": plot(), "field": plot()},
        tables=[Table("Errors <table>", ["model", "RMSE"], [["a <b>", -0.000123456], ["none", math.inf]], "A note.")],
        notes=["Deduced, not printed: x < y."],
        captions={"curve": "The curve & its points."},
    )


@pytest.fixture
def register_report(monkeypatch):
    """Return a function that registers a `run` function as a report, without a module file."""

    def register(id, run=sample):
        module = f"fake_report_{id}"
        monkeypatch.setitem(__import__("sys").modules, module, types.SimpleNamespace(run=run))
        entry = registry.Report(id, f"Title of <{id}>", "A report & a poster", module)
        monkeypatch.setitem(registry.REPORTS, id, entry)

    return register


def metrics(folder):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)


def entries(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_metrics_follow_the_schema(tmp_path, register_report):
    register_report("fake")
    outcome = run_reports(["fake", "fake"], tmp_path / "deep" / "out", scale="quick", seed=3)
    found = metrics(tmp_path / "deep" / "out" / "fake")
    assert list(found) == ["id", "engine", "scale", "seed", "seconds", "rows", "tables"]
    assert (found["id"], found["engine"], found["scale"], found["seed"]) == ("fake", "torch", "quick", 3)
    assert found["seconds"] >= 0
    assert all(list(row) == ROW_KEYS for row in found["rows"])
    best, accuracy, match, count, diverged = found["rows"]
    assert best["ours"] == pytest.approx(1.25e-4) and best["met"] is True
    assert accuracy["met"] is False and accuracy["unit"] == "%"
    assert match["target"] == 0.01124 and match["met"] is True
    assert count["ours"] == 5754 and count["target"] is None and count["met"] is None
    assert diverged["ours"] is None and diverged["theirs"] is None and diverged["met"] is False
    assert found["tables"][0]["rows"] == [["a <b>", -0.000123456], ["none", None]]
    assert outcome.page == tmp_path / "deep" / "out" / "index.html"


def test_figures_are_png_and_svg_and_nothing_else_is_left(tmp_path, register_report):
    register_report("fake")
    run_reports(["fake"], tmp_path)
    assert entries(tmp_path / "fake") == [
        "curve.png", "curve.svg", "field.png", "field.svg", "metrics.json", "page.json"
    ]  # fmt: skip
    assert entries(tmp_path)[-1] == "page.json" and len(entries(tmp_path)) == 8
    assert (tmp_path / "fake" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert stat.S_IMODE((tmp_path / "fake").stat().st_mode) & 0o700 == 0o700
    before = (tmp_path / "fake" / "curve.svg").read_bytes()
    run_reports(["fake"], tmp_path)
    assert (tmp_path / "fake" / "curve.svg").read_bytes() == before


def test_the_page_shows_the_numbers_and_escapes_the_words(tmp_path, register_report):
    register_report("fake")
    page = run_reports(["fake"], tmp_path).page.read_text(encoding="utf-8")
    for text in (
        "Title of &lt;fake&gt;", "A report &amp; a poster", "loss &lt;best&gt;", "R &amp; P", "1.250×10⁻⁴",
        "1.97×10⁻⁴", "≤&nbsp;1.97×10⁻⁴", "≥&nbsp;0.99", "≈&nbsp;0.01124 ± 2&nbsp;%", "0.9871", "5,754",
        "✓&nbsp;met", "✗&nbsp;missed", "a &lt;b&gt;", "−1.235×10⁻⁴", "x &lt; y", "A note.",
        "The curve &amp; its points.", 'src="fake/curve.png"', 'href="fake/curve.svg"', "2 of 4",
    ):  # fmt: skip
        assert text in page, text
    for text in (
        "<best>",
        "<table>\n<b>",
        "<fake>",
        "nan",
        "inf<",
        "http://",
        "https://",
        "<script",
        "A quick run",
    ):
        assert text not in page, text


def test_a_quick_run_is_labeled_and_not_judged(tmp_path, register_report):
    register_report("fake")
    outcome = run_reports(["fake"], tmp_path, scale="quick")
    page = outcome.page.read_text(encoding="utf-8")
    assert "A quick run" in page and "2 of 4" not in page
    assert outcome.missed == ()


def test_results_of_other_runs_stay_on_the_page(tmp_path, register_report):
    register_report("first")
    register_report("second")
    run_reports(["first"], tmp_path)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "metrics.json").write_text("[1, 2]")
    page = run_reports(["second"], tmp_path).page.read_text(encoding="utf-8")
    assert page.index("Title of &lt;first&gt;") < page.index("Title of &lt;second&gt;")
    assert "others" not in page


def test_a_report_that_raises_leaves_nothing(tmp_path, register_report):
    def fail(context):
        raise SolverError("the solve ended at t = 3.")

    register_report("bad", fail)
    with pytest.raises(SolverError):
        run_reports(["bad"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_complete_before_a_failure_stays_and_is_on_the_page(tmp_path, register_report):
    def interrupt(context):
        raise KeyboardInterrupt

    register_report("good")
    register_report("bad", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_reports(["good", "bad"], tmp_path)
    assert metrics(tmp_path / "good")["id"] == "good"
    assert "Title of &lt;good&gt;" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not [name for name in entries(tmp_path) if "bad" in name or "partial" in name]


def test_a_failure_while_writing_keeps_the_former_result_whole(tmp_path, register_report):
    class Broken(Figure):
        def savefig(self, *args, **options):
            raise OSError(28, "No space left on device")

    register_report("fake")
    run_reports(["fake"], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    register_report("fake", lambda context: Findings([Row("new", 1.0)], {"a": plot(), "b": Broken()}))
    with pytest.raises(ArgumentError, match="No space left"):
        run_reports(["fake"], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_new_result_replaces_the_former_one_as_a_whole(tmp_path, register_report):
    register_report("fake")
    run_reports(["fake"], tmp_path)
    register_report("fake", lambda context: Findings([Row("new", 1.0)], {"other": plot()}))
    run_reports(["fake"], tmp_path)
    assert entries(tmp_path / "fake") == ["metrics.json", "other.png", "other.svg", "page.json"]


def test_files_of_the_user_s_are_not_overwritten(tmp_path, register_report):
    register_report("fake", lambda context: pytest.fail("computed before the folder was looked at"))
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "thesis.tex").write_text("years of work")
    with pytest.raises(ArgumentError, match="a 'fake' not written by a report: choose"):
        run_reports(["fake"], tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("<h1>My home page</h1>")
    with pytest.raises(ArgumentError, match="index.html was not written by a report"):
        run_reports(["fake"], other)
    assert entries(tmp_path / "fake") == ["thesis.tex"]


def test_a_damaged_result_is_named_before_anything_is_computed(tmp_path, register_report):
    register_report("first")
    run_reports(["first"], tmp_path)
    (tmp_path / "first" / "metrics.json").write_text('{"id": "fir')
    register_report("second", lambda context: pytest.fail("computed before the folder was looked at"))
    with pytest.raises(DataError, match="first contains an incomplete result"):
        run_reports(["second"], tmp_path)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"ids": ["fak"]}, "did you mean 'fake'"),
        ({"ids": []}, "ids is empty: give one or more of"),
        ({"scale": "huge"}, "scale is 'huge'"),
        ({"engine": "tortch"}, "did you mean 'torch'"),
        ({"seed": -1}, "seed is -1: give"),
        ({"workers": 0}, "workers is 0: give"),
        ({"scale": "quick", "check": True}, "full scale"),
    ],
)
def test_wrong_arguments_are_answered_before_anything_runs(tmp_path, register_report, wrong, words):
    register_report("fake", lambda context: pytest.fail("computed in spite of a wrong argument"))
    with pytest.raises(ArgumentError, match=words):
        run_reports(**{"ids": ["fake"], "out": tmp_path / "out", **wrong})
    assert not (tmp_path / "out").exists()


def test_out_below_a_file_is_refused(tmp_path, register_report):
    register_report("fake")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArgumentError, match="is a file: give a folder"):
            run_reports(["fake"], out)


def test_check_names_the_rows_that_missed(tmp_path, register_report):
    register_report("fake")
    assert run_reports(["fake"], tmp_path).missed == ()
    assert run_reports(["fake"], tmp_path, check=True).missed == (
        "fake: 'accuracy' is 0.9871; the target is at least 0.99.",
        "fake: 'diverged' is not a finite number; the target is at most 1.",
    )


def test_the_context_carries_the_arguments_and_the_progress_is_told(tmp_path, register_report):
    told = []

    class Recorder:
        def task(self, description, total=None):
            told.append((description, total))
            return self

        def advance(self, n=1, note=""):
            told.append((n, note))

    def run(context):
        context.progress.task("stage [0, 60]", 2).advance(note=f"{context.seed} {context.workers} {context.quick}")
        return Findings([Row("one", 1)])

    register_report("fake", run)
    run_reports(["fake"], tmp_path, scale="quick", seed=7, workers=2, progress=Recorder())
    assert told == [("stage [0, 60]", 2), (1, "7 2 True")]


@pytest.mark.parametrize(
    "row, met",
    [
        (Row("a", 1.0, target=1.0), True),
        (Row("a", 1.1, target=1.0), False),
        (Row("a", 1.0, better="higher", target=1.0), True),
        (Row("a", 0.9, better="higher", target=1.0), False),
        (Row("a", -1.02, -1.0, better="match", tolerance=0.021), True),
        (Row("a", -1.02, -1.0, better="match", tolerance=0.019), False),
        (Row("a", math.inf, better="higher", target=1.0), False),
        (Row("a", None, target=1.0), False),
        (Row("a", 1.0, 2.0), None),
        (Row("a", 1.0, 2.0, better="match"), None),
    ],
)
def test_a_row_s_verdict(row, met):
    assert row.met is met


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Row("a", 1.0, better="bigger"),
        lambda: Row("a", 1.0, 1.0, tolerance=0.1),
        lambda: Row("a", 1.0, better="match", tolerance=0.1),
        lambda: Row("a", 1.0, 1.0, better="match", target=1.0),
        lambda: Table("t", ["a", "b"], [[1]]),
        lambda: Findings([Row("a", 1.0), Row("a", 2.0)]),
        lambda: Findings([], {"../up": plot()}),
        lambda: Findings([], {}, captions={"absent": "words"}),
    ],
)
def test_rows_tables_and_reports_refuse_what_could_not_be_shown(wrong):
    with pytest.raises(ArgumentError):
        wrong()


@pytest.mark.parametrize(
    "value, text, trimmed",
    [
        (0.01124, "0.01124", "0.01124"),
        (1.97e-4, "1.970e-4", "1.97e-4"),
        (0.0173, "0.01730", "0.0173"),
        (9.99996e-4, "0.001000", "0.001"),
        (13.43, "13.43", "13.43"),
        (99.996, "100.0", "100"),
        (1234.56, "1235", "1235"),
        (-3.0e7, "-3.000e7", "-3e7"),
        (0.0, "0", "0"),
        (208010, "208,010", "208,010"),
    ],
)
def test_numbers_have_four_significant_digits(value, text, trimmed):
    assert number(value) == text
    assert number(value, trim=True) == trimmed
