"""`pyneuralode fit` and `pyneuralode solve`: correct output files; a mistake gives one message and writes no file."""

import csv
import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import pyneuralode as pn
from pyneuralode.cli import app
from pyneuralode.cli.fitting import Settings, Standardization
from pyneuralode.datasets.timeseries import read_timeseries
from pyneuralode.fitting import FitResult

ROOT = Path(__file__).parents[2]
FILES = ["fit.json", "fit.png", "metrics.json", "model.safetensors"]
SHORT = ["--hidden", "8", "--iterations", 3, "--finish", 0]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def program(*arguments, code="from pyneuralode.cli import main; main()", **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def spiral(ts):
    """An oscillation of angular frequency 1 that decays at the rate 0.1, in columns of very different scales."""
    decay = np.exp(-0.1 * ts)
    return np.stack([2 * decay * np.cos(ts), 1e5 + 300 * decay * np.sin(ts)], axis=1)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Forty-one rows of `spiral` with missing values, among them the first value of column a."""
    ts = np.linspace(1, 9, 41)
    rows = [f"{t:g},{'' if k % 9 == 0 else f'{a:.6f}'},{b:.4f},x" for k, (t, (a, b)) in enumerate(zip(ts, spiral(ts)))]
    return write(tmp_path_factory.mktemp("table") / "spiral.csv", "time,a,b,remark", *rows)


@pytest.fixture(scope="module")
def fitted(table):
    """The output folder of a fit, and the output of the command."""
    out = table.parent / "fit"
    result = run("fit", table, "--columns", "a,b", "--out", out, "--iterations", 100, "--finish", 100, "--hidden", "16")
    assert result.exit_code == 0, result.stderr
    return out, result


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "linear.safetensors"
    pn.NeuralODE(pn.Linear(((0.0, 1.0), (-1.0, 0.0))), rtol=1e-9, atol=1e-9).save(path)
    return path


def solution(path):
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, dtype=float)


def test_fit_finds_the_curve_and_ends_by_printing_the_paths(fitted):
    out, result = fitted
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert sorted(result.stdout.splitlines()[-4:]) == [str(out / name) for name in FILES]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["rmse"]["a"] < 0.02 and metrics["rmse"]["b"] < 3  # the amplitudes are 2 and 300
    assert metrics["finished"] and metrics["rows"] == 41 and metrics["seed"] == 0
    assert 0 < metrics["iterations"] <= 600 and metrics["seconds"] > 0
    assert metrics["settings"]["hidden"] == [16]


def test_the_numbers_are_those_of_the_model_in_the_datas_units(fitted, table):
    out, _ = fitted
    metrics, about = (json.loads((out / name).read_text()) for name in ("metrics.json", "fit.json"))
    data = read_timeseries(table, columns=["a", "b"])
    curve = pn.load(out / "model.safetensors").solve(np.array(about["y0"]), data.ts).ys
    errors = curve - data.values
    rmse = np.sqrt(np.nanmean(errors**2, axis=0))
    assert list(metrics["rmse"].values()) == pytest.approx(rmse, rel=1e-9)
    sizes = np.nanstd(data.values, axis=0)
    assert metrics["loss"] == pytest.approx(np.nanmean((errors / sizes) ** 2), rel=1e-9)
    assert about["columns"] == ["a", "b"] and about["time"] == "time" and about["t0"] == 1
    # The first value of a is missing, but the fitted initial state is still close to the exact one.
    assert about["y0"] == pytest.approx(spiral(np.array([1.0]))[0], rel=0.1)


def test_solve_continues_the_fit(fitted, tmp_path):
    out, _ = fitted
    result = run("solve", out, "--times", "2:9:29", "--out", tmp_path / "more")
    assert result.exit_code == 0, result.stderr
    paths = [tmp_path / "more" / "solution.csv", tmp_path / "more" / "solution.png"]
    assert result.stdout.splitlines() == list(map(str, paths)) and paths[1].stat().st_size > 1000
    header, rows = solution(paths[0])
    assert header == ["time", "a", "b"]
    assert rows[:, 0] == pytest.approx(np.linspace(2, 9, 29))
    assert (np.abs(rows[:, 1:] - spiral(rows[:, 0])).max(axis=0) < [0.05, 8]).all()


def test_solve_without_options_covers_the_fitted_span(fitted, tmp_path):
    assert run("solve", fitted[0] / "model.safetensors", "--out", tmp_path / "a.csv").exit_code == 0
    _, rows = solution(tmp_path / "a.csv")
    assert len(rows) == 201 and rows[0, 0] == 1 and rows[-1, 0] == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.png"]


def test_solve_from_another_state_and_without_a_description(model, tmp_path):
    result = run("solve", model, "--y0", "-1,0", "--times", "5,6,8.5", "--out", tmp_path / "a.csv")
    assert result.exit_code == 0, result.stderr
    header, rows = solution(tmp_path / "a.csv")
    assert header == ["t", "y1", "y2"]
    turned = np.array([0, 1, 3.5])
    assert rows == pytest.approx(np.stack([[5, 6, 8.5], -np.cos(turned), np.sin(turned)], axis=1), abs=1e-6)


def test_solve_begins_where_the_fit_began(model, tmp_path):
    about = {"format": 1, "time": "s", "columns": ["x", "v"], "t0": 0.0, "t1": 1.0, "y0": [1.0, 0.0]}
    (tmp_path / "fit.json").write_text(json.dumps(about))
    for times, expected in (("3,4", [3, 4]), ("0,4", [0, 4]), ("2,", None), ("2", [2]), ("0", [0])):
        result = run("solve", model, "--times", times, "--out", tmp_path / "a.csv")
        if expected is None:
            assert result.exit_code == 2 and "times is '2,'" in result.stderr
        else:
            header, rows = solution(tmp_path / "a.csv")
            assert header == ["s", "x", "v"] and rows[:, 0].tolist() == expected
            assert rows[:, 1] == pytest.approx(np.cos(expected), abs=1e-6)


def test_the_options_reach_the_model(table, tmp_path):
    options = [
        "--augment",
        2,
        "--activation",
        "swish",
        "--solver",
        "bs3",
        "--gradient",
        "Checkpointed",
        "--seed",
        4,
    ]
    result = run(
        "fit",
        table,
        "--time",
        "time",
        "--columns",
        "b",
        "--out",
        tmp_path / "fit",
        *SHORT,
        *options,
        "--rtol",
        1e-4,
    )
    assert result.exit_code == 0, result.stderr
    model = pn.load(tmp_path / "fit" / "model.safetensors")
    assert model.field.sizes == (3, 8, 3) and model.augment_dim == 2 and model.field.activation == "swish"
    assert model.solver == "BS3" and model.gradient == pn.Checkpointed()
    assert run("solve", tmp_path / "fit", "--out", tmp_path / "s").exit_code == 0
    assert solution(tmp_path / "s" / "solution.csv")[0] == ["time", "b"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd", "LBFGS"])
def test_every_optimizer_brings_the_loss_down(optimizer):
    settings = Settings(optimizer=optimizer, iterations=60, finish=0, hidden="8", spans="3")
    ts = np.linspace(0, 3, 16)
    model = settings.model(2, 1.0)
    z = np.stack([np.cos(ts), -np.sin(ts)], axis=1)
    result = pn.fit(model, ts, z, y0=z[0], plan=settings.plan(ts), reduction="mean")
    assert result.loss < 0.3 * result.losses[0]


def test_spans_that_end_early_leave_the_rest_unfitted(table, tmp_path):
    result = run("fit", table, "--columns", "b", "--spans", "2,3.1", "--out", tmp_path / "fit", *SHORT)
    assert result.exit_code == 0, result.stderr
    metrics = json.loads((tmp_path / "fit" / "metrics.json").read_text())
    assert (metrics["rows"], metrics["end"], metrics["settings"]["spans"]) == (11, 3.1, [2, 3.1])


def test_the_scaling_is_taken_up_exactly():
    values = spiral(np.linspace(0, 9, 30))
    standard = Standardization.of(values)
    trained = Settings(hidden="8,8", augment=1).model(2, 0.7)
    scaled = standard.model(trained, 1)
    z0, ts = np.array([0.5, -1.0]), np.linspace(0, 4, 9)
    ys = scaled.solve(standard.mean + standard.size * z0, ts).ys
    zs = trained.solve(z0, ts).ys
    assert (ys[:, :2] - standard.mean) / standard.size == pytest.approx(zs[:, :2], abs=1e-4)
    assert ys[:, 2] == pytest.approx(zs[:, 2], abs=1e-4)
    assert Standardization.of(np.full((5, 2), [0.1, 0.0])).size == pytest.approx([0.1, 1.0])


def test_a_former_fit_is_replaced_and_other_files_are_not(table, tmp_path):
    out = tmp_path / "fit"
    for seed in (0, 1):
        assert run("fit", table, "--columns", "b", "--out", out, "--seed", seed, *SHORT).exit_code == 0
    assert json.loads((out / "metrics.json").read_text())["seed"] == 1
    write(out / "notes.txt", "mine")
    result = run("fit", table, "--columns", "b", "--out", out, *SHORT)
    assert result.exit_code == 2 and "contains 'notes.txt'" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit"]


def test_a_write_that_fails_leaves_the_former_fit(table, tmp_path, monkeypatch):
    out = tmp_path / "fit"
    assert run("fit", table, "--columns", "b", "--out", out, *SHORT).exit_code == 0

    def full(figure, path, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    result = run("fit", table, "--columns", "b", "--out", out, "--seed", 1, *SHORT)
    assert result.exit_code == 2 and result.stdout == ""
    assert "cannot be written to (No space left on device)" in result.stderr.splitlines()[-1]
    answers(run("solve", out, "--out", tmp_path / "a.csv"), "cannot be written to (No space left on device)")
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert json.loads((out / "metrics.json").read_text())["seed"] == 0


def test_a_fit_that_stops_early_is_written_and_ends_with_1(table, tmp_path, monkeypatch):
    def stopping(*arguments, **settings):
        result = pn.fit(*arguments, **settings)
        return dataclasses.replace(result, finished=False, message="stopped in stage 1 of 5: the best so far")

    monkeypatch.setattr("pyneuralode.cli.fitting.fit", stopping)
    result = run("fit", table, "--columns", "b", "--out", tmp_path / "fit", *SHORT)
    assert result.exit_code == 1 and "The fit was stopped in stage 1 of 5" in result.stderr
    assert sorted(path.name for path in (tmp_path / "fit").iterdir()) == FILES


@pytest.mark.parametrize("interrupted, status", [(True, 130), (False, 2)])
def test_a_fit_that_ends_before_its_first_loss_writes_nothing(interrupted, status, table, tmp_path, monkeypatch):
    ended = FitResult(None, np.inf, {}, [], False, interrupted, "stopped in stage 1 of 5, iteration 0: nothing.")
    monkeypatch.setattr("pyneuralode.cli.fitting.fit", lambda *arguments, **settings: ended)
    result = run("fit", table, "--columns", "b", "--out", tmp_path / "fit", *SHORT)
    assert result.exit_code == status and len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_tables_of_other_shapes_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\ufeffa; t ;b\r\n\r\n1;0;NA\r\n;1;\r\n3;2.5;1e3\r\n;;\r\n", encoding="utf-8")
    data = read_timeseries(path, time="t")
    assert data.columns == ("a", "b") and data.time == "t"
    np.testing.assert_array_equal(data.ts, [0, 2.5])  # the row at 1 has no value
    np.testing.assert_array_equal(data.values, [[1, np.nan], [3, 1000]])


GOOD = ("t,x,y", "0,1,2", "1,2,3", "2,4,5")
TABLES = {
    "absent": (None, [], "cannot be read (No such file or directory)"),
    "empty": ([""], [], "is empty: give a CSV file"),
    "blank cells alone": ([",,", ",,"], [], "is empty"),
    "header alone": (["t,x"], [], "has no row of numbers"),
    "no header": (["0,1", "1,2"], [], "begins with the number 0: put the names"),
    "one column": (["t", "0", "1"], [], "has only the column 't'"),
    "no such column": (GOOD, ["--columns", "x,yy"], "is 'yy', which is unknown: did you mean 'y'?"),
    "no such time": (GOOD, ["--time", "tt"], "is 'tt', which is unknown: did you mean 't'?"),
    "a column twice": (GOOD, ["--columns", "x,x"], "column 'x' of"),
    "time as a value": (GOOD, ["--columns", "t"], "column 't' of"),
    "text": (["t,x", "0,1", "1,low", "2,3"], [], "contains 'low' in line 3: write a finite number"),
    "text among the times": (["t,x", "0,1", "noon,2"], [], "column 't' of"),
    "an infinite value": (["t,x", "0,1", "1,inf"], [], "contains 'inf' in line 3"),
    "an underscore": (["t,x", "0,1", "1,1_0"], [], "contains '1_0' in line 3"),
    "times out of order": (["t,x", "0,1", "2,1", "1,1"], [], "the time 1 in line 4 after 2: sort the lines"),
    "a time twice": (["t,x", "0,1", "1,1", "1,1"], [], "the time 1 in line 4 a second time"),
    "a time missing": (["t,x", "0,1", ",1"], [], "no time in line 3"),
    "one row": (["t,x", "0,1"], [], "one row with a value: give at least two"),
    "one row that counts": (["t,x", "0,1", "1,"], [], "one row with a value: give at least two"),
    "nothing but NaN": (["t,x,y", "0,1,nan", "1,2,"], [], "column 'y' of"),
    "a cell too many": (["t,x", "0,1", "1,2,3"], [], "3 cells in line 3, but 2 columns"),
    "a quote left open": (["t,x", '0,"1', "1,2"], [], "is not a CSV file"),
    "no solver": (GOOD, ["--solver", "tsit6"], "did you mean 'Tsit5'?"),
    "no gradient": (GOOD, ["--gradient", "backprob"], "did you mean 'Backprop'?"),
    "no activation": (GOOD, ["--activation", "tahn"], "did you mean 'tanh'?"),
    "no optimizer": (GOOD, ["--optimizer", "adamm"], "did you mean 'adam'?"),
    "text as widths": (GOOD, ["--hidden", "32x32"], "hidden is '32x32': give comma-separated numbers"),
    "no width": (GOOD, ["--hidden", "0"], "give at least two positive widths"),
    "falling spans": (GOOD, ["--spans", "2,1"], "increasing times"),
    "spans before the data": (
        GOOD,
        ["--spans", "0.5,2"],
        "spans begins with 0.5, before the second row at 1",
    ),
    "text as spans": (GOOD, ["--spans", "all"], "spans is 'all': give comma-separated numbers"),
    "negative rtol": (GOOD, ["--rtol", "-1"], "rtol is -1.0"),
    "negative rate": (GOOD, ["--lr", "-1"], "lr is -1.0"),
    "no iterations": (GOOD, ["--iterations", "0"], "iterations is 0"),
    "negative finish": (GOOD, ["--finish", "-1"], "finish is -1"),
    "negative augmentation": (GOOD, ["--augment", "-1"], "augment is -1"),
    "negative seed": (GOOD, ["--seed", "-1"], "seed is -1"),
    "out is a file": (GOOD, ["--out", __file__], "is a file: give a folder"),
}


def answers(result, sentence):
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1 and result.stderr.strip().endswith(".")
    assert result.stdout == ""


@pytest.mark.parametrize("case", TABLES)
def test_a_table_or_option_that_does_not_fit(case, tmp_path):
    lines, options, sentence = TABLES[case]
    path = tmp_path / "data.csv"
    if lines is not None:
        write(path, *lines)
    before = sorted(tmp_path.iterdir())
    answers(run("fit", path, "--out", tmp_path / "out", "--iterations", 1, "--finish", 0, *options), sentence)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "data.csv").write_bytes(b"\x89PNG\xff\xfe,\x00")
    answers(run("fit", tmp_path / "data.csv", "--out", tmp_path / "out"), "give a text file in UTF-8")


def damage(path, kind):
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) - 5])
    elif kind == "header truncated":
        path.write_bytes(content[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("weights")
    elif kind == "foreign":
        save_file({"w": np.ones(2)}, str(path))
    elif kind == "newer":
        length = struct.unpack("<Q", content[:8])[0]
        header = content[8 : 8 + length].replace(rb"\"format\": 1", rb"\"format\": 9")
        assert header != content[8 : 8 + length]
        path.write_bytes(content[:8] + header + content[8 + length :])
    elif kind == "absent":
        path.unlink()


@pytest.mark.parametrize(
    "kind, sentence",
    [
        ("truncated", "damaged or not a model file"),
        ("header truncated", "damaged or not a model file"),
        ("empty", "damaged or not a model file"),
        ("text", "damaged or not a model file"),
        ("foreign", "not a model of pyneuralode"),
        ("newer", "has format 9, but this version reads formats up to 1: update pyneuralode"),
        ("absent", "does not exist: give the path of a saved model"),
    ],
)
def test_a_model_file_that_cannot_be_read(kind, sentence, model, tmp_path):
    damage(model, kind)
    before = sorted(tmp_path.iterdir())
    answers(run("solve", model, "--y0", "1,0", "--times", "0:1:3", "--out", tmp_path / "out"), sentence)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--y0", "1,0"], "times is not given"),
        (["--times", "0:1:3"], "y0 is not given"),
        (["--times", "0:1:3", "--y0", "1"], "y0 has 1 numbers, but the model has 2 columns"),
        (["--times", "0:1:3", "--y0", "1,b"], "y0 is '1,b': give comma-separated numbers"),
        (["--times", "0:1:3", "--y0", "1,nan"], "y0 is '1,nan': give comma-separated numbers"),
        (["--times", "0:1", "--y0", "1,0"], "times is '0:1': give 0:10:101"),
        (["--times", "0:1:-3", "--y0", "1,0"], "times is '0:1:-3': give 0:10:101"),
        (["--times", "0:1:0", "--y0", "1,0"], "times is '0:1:0', which is not increasing"),
        (["--times", "1,0", "--y0", "1,0"], "times is '1,0', which is not increasing"),
        (["--times", "0:1:3", "--y0", "1,0", "--out", f"{__file__}/a.csv"], "cannot be written to"),
    ],
)
def test_wrong_options_of_solve(options, sentence, model, tmp_path):
    answers(run("solve", model, "--out", tmp_path / "out", *options), sentence)
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("{", "fit.json is damaged"),
        ("[]", "fit.json is damaged"),
        ('{"format": 2}', "has format 2, but this version reads formats up to 1"),
        (
            '{"format": 1, "time": "t", "columns": ["a"], "t0": 0, "t1": 1, "y0": [1]}',
            "does not match the model",
        ),
        (
            '{"format": 1, "time": "t", "columns": ["a", "b"], "t0": 0, "t1": 1, "y0": [1, 0]}',
            "begins with -1, before",
        ),
    ],
)
def test_a_description_that_does_not_fit(text, sentence, model, tmp_path):
    (tmp_path / "fit.json").write_text(text)
    answers(run("solve", model, "--times", "-1,1", "--out", tmp_path / "out"), sentence)


def test_a_solve_that_fails_is_a_sentence(tmp_path):
    path = tmp_path / "model.safetensors"
    pn.NeuralODE(pn.Linear(((1.0,),), input_map="square")).save(path)
    answers(run("solve", path, "--y0", "1", "--times", "0,2", "--out", tmp_path / "out"), "the step fell to")
    assert list(tmp_path.iterdir()) == [path]


INTERRUPTED = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from pyneuralode import progress
    from pyneuralode.cli import main

    class Slow(progress.SilentProgress):
        __enter__ = lambda self: self
        __exit__ = lambda self, *exception: None
        def advance(self, n=1, note=""):
            if note:
                Path(sys.argv[-1] + ".begun").touch()
                time.sleep(0.01)

    progress.RichProgress = Slow
    main()
    """
)


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_writes_the_best_so_far(table, tmp_path):
    out = tmp_path / "out"
    options = ["--columns", "b", "--hidden", "8", "--iterations", 100_000, "--spans", 3]
    process = program("fit", table, *options, "--out", out, code=INTERRUPTED)
    while not (tmp_path / "out.begun").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130
    assert errors.startswith("The fit was interrupted in stage 1 of 2, iteration ") and errors.count("\n") == 1
    assert errors.endswith("the parameters are the best so far. The parameters have been saved.\n")
    assert output.splitlines()[-1] == str(out / "metrics.json")
    assert sorted(path.name for path in out.iterdir()) == FILES
    metrics = json.loads((out / "metrics.json").read_text())
    assert not metrics["finished"] and metrics["end"] == 3 and metrics["iterations"] < 100_000
    assert pn.load(out / "model.safetensors").field.sizes == (1, 8, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.begun"]


def test_the_program_itself(table, tmp_path):
    process = program("fit", table, "--columns", "a", "--out", tmp_path / "fit", *SHORT)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == str(tmp_path / "fit" / "metrics.json")
    assert "stage 1 of 5" in errors and "Warning" not in errors
    process = program("fit", table, "--out", tmp_path / "other")
    output, errors = process.communicate()
    assert process.returncode == 2 and output == "" and errors.count("\n") == 1
    assert "column 'remark' of" in errors and "contains 'x' in line 2" in errors
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("command", ["fit", "solve"])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys, pyneuralode.cli as cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    _, errors = program(command, "--help", code=code).communicate()
    assert errors.strip() == "[]"
