"""Run the scripts in examples/ as a user would, at quick scale, and check their results."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(name, folder, *arguments):
    """Run an example in an empty folder; return its output and the files that it left in the folder."""
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--quick", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout, sorted(path.name for path in folder.iterdir())


def number(pattern, text):
    """Return the number at the position of # in the only match of the pattern."""
    (found,) = re.findall(re.escape(pattern).replace(r"\#", r"([-+.e\d]*\d)"), text)
    return float(found)


def test_fit_csv_reaches_the_noise(tmp_path):
    text, files = run("fit_csv", tmp_path, "--figure", "fit.png")
    # The noise of the table is 0.2; the standard deviation of the hares is 3.5.
    assert 0.1 < number("hares: root mean square error #", text) < 0.35
    assert 0.1 < number("lynxes: root mean square error #", text) < 0.35
    assert files == ["fit.png"]


def test_fit_csv_takes_a_table_of_the_users(tmp_path):
    rows = [f"{t / 5},{100 * 0.6 ** (t / 5)}" for t in range(21)]
    (tmp_path / "decay.csv").write_text("\n".join(["hours,level", *rows]))
    text, files = run("fit_csv", tmp_path, "decay.csv")
    assert number("level: root mean square error #", text) < 1.0
    assert files == ["decay.csv"]


def test_growing_spans_goes_past_the_mean(tmp_path):
    text, files = run("growing_spans", tmp_path)
    data = number("the data itself: mean square #", text)
    assert number("all at once: mean square #", text) > 0.5 * data
    assert number("t up to 20: mean square #", text) < 0.3 * data
    assert files == []


def test_own_module_finds_the_force(tmp_path):
    text, files = run("own_module", tmp_path)
    assert number("differs from -sin(angle) by at most #", text) < 0.35
    assert number("iteration 150: mean square #", text) < 0.01 * number("iteration 0: mean square #", text)
    assert files == []


def test_own_tableau_measures_the_orders(tmp_path):
    text, files = run("own_tableau", tmp_path)
    assert number("Ralston2: order 2 expected, # measured", text) == pytest.approx(2, abs=0.1)
    assert number("Ralston3: order 3 expected, # measured", text) == pytest.approx(3, abs=0.1)
    assert number("steps, error #", text) < 1e-5
    assert files == []


def test_equations_finds_the_parameters(tmp_path):
    text, files = run("equations", tmp_path)
    for name, value in {"growth": 1.1, "hunting": 0.4, "gain": 0.25, "death": 0.4}.items():
        assert number(f"{name}: true value {value}, fitted #", text) == pytest.approx(value, rel=0.1)
    assert 0.15 < number("root mean square error #", text) < 0.25  # the noise is 0.2
    assert files == []


def test_from_torchdiffeq_learns(tmp_path):
    text, files = run("from_torchdiffeq", tmp_path)
    start = number("iteration 0: mean error of the pieces #", text)
    assert number("\nmean error of the pieces #", text) < 0.3 * start
    assert number("of the whole spiral #", text) < 1.5
    assert files == []


def test_diffeqpy_callable_solves_robertson(julia, tmp_path):
    from juliacall import Main

    if Main.seval('Base.identify_package("OrdinaryDiffEqDefault")') is None:
        pytest.skip("the Julia project lacks diffeqpy's packages: run `pyneuralode setup-julia --with-diffeqpy`")
    text, files = run("diffeqpy_callable", tmp_path)
    for line in text.splitlines():
        assert number("relative error at the end #", line) < 1e-5
    assert len(text.splitlines()) == 2 and files == []


def test_flow_two_moons_nears_their_density(tmp_path):
    text, files = run("flow_two_moons", tmp_path, "--figure", "moons.png")
    own = number("loss of the true density: # nats", text)
    assert own - 0.05 < number("loss on unseen points: # nats", text) < own + 0.4
    assert number("error after mapping to the base and back: #", text) < 1e-2
    assert files == ["moons.png"]


def test_ode_block_reads_unseen_images(tmp_path):
    text, files = run("ode_block", tmp_path)
    assert number("unseen images classified correctly: # %", text) > 99
    assert number("with # evaluations", text) > 10 and files == []


def test_every_example_is_tested():
    tests = Path(__file__).read_text(encoding="utf-8")
    for path in (ROOT / "examples").glob("*.py"):
        assert f'run("{path.stem}", ' in tests
