"""Benchmarks: peers in separate processes, rounds, tables, the comparison of two checkouts, and invalid input."""

import ast
import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import against, measures, processes, runner, tables
from benchmarks.__main__ import app
from benchmarks.entries import CaseResult, Entry, gradient_error, relative_error
from benchmarks.libraries import read_pythons
from benchmarks.measures import Effort
from benchmarks.problems import ProblemData, system
from benchmarks.processes import PeerError, PeerProcess, Workspace
from benchmarks.tasks import OTHER_LIBRARIES, OURS, TASKS, Case, Peer, Task
from benchmarks.weights import FILE, TRAINED, stored
from pyneuralode.errors import ArgumentError
from pyneuralode.progress import SilentProgress

PEERS = processes.SCRIPT.parent

# A fake library with a simulated clock: each iteration takes the time given by the problem.
FAKE = """
    import sys, time
    from interface import Result, Run

    now = time.perf_counter()
    time.perf_counter = lambda: now

    def wait(seconds):
        global now
        now += seconds

    def task(problem, variant):
        if variant == "broken":
            raise ValueError("no such variant")
        if variant == "mute":
            time.sleep(86400)
        pause = problem.settings["pause"] * (3 if variant == "slow" else 1)
        print("a library that prints")
        states = problem.arrays["states"] + (0.1 if variant == "slow" else 0.0)
        counts = {"dtype": "float64", "accepted": 7, "rejected": 0, "evaluations": 44}
        return Run(lambda: wait(pause), lambda: Result(states, {"k": [2.0]}, counts))

    TASKS = {"fake": task}
"""


@pytest.fixture
def workspace(tmp_path):
    """A workspace whose processes run `serve.py` with the fake library, named like two real libraries."""
    folder = tmp_path / "peers"
    folder.mkdir()
    for name in ("serve.py", "interface.py"):
        (folder / name).write_text((PEERS / name).read_text(encoding="utf-8"), encoding="utf-8")
    for library in ("pyneuralode", "scipy"):
        (folder / f"with_{library}.py").write_text(textwrap.dedent(FAKE), encoding="utf-8")
    return Workspace(tmp_path, {}, script=folder / "serve.py")


def fake_case(*variants):
    def make():
        return ProblemData({"states": np.ones((4, 2))}, {"pause": 0.005}, {"pause": 0.0})

    peers = [Peer(OURS, "fast"), *(Peer("scipy", variant) for variant in variants)]
    return Case("fake", make, tuple(peers), "fast")


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_peers_run_in_rounds_and_are_compared(workspace):
    case = fake_case("slow")
    effort = Effort(rounds=3, seconds=0.05)
    found = measures.time_side_by_side(workspace, "fake", case, case.peers, effort, SilentProgress())
    ours, theirs = found.entries
    assert found.reference_failure == "" and not ours.failure and not theirs.failure
    assert len(ours.rounds) == len(theirs.rounds) == 3
    assert ours.median == pytest.approx(0.005) and theirs.median == pytest.approx(0.015)
    assert ours.ratio == 1 and theirs.ratio == pytest.approx(3)
    assert ours.iterations == 10 and theirs.iterations == 3
    assert ours.state_error == 0 and theirs.state_error == pytest.approx(0.1) and theirs.gradient_error == 0
    assert theirs.counts["accepted"] == 7 and "scipy" in theirs.versions


def test_a_peer_that_fails_leaves_the_others_alone(workspace):
    case = fake_case("broken", "slow")
    found = measures.time_side_by_side(workspace, "fake", case, case.peers, Effort(2, 0.01), SilentProgress())
    ours, broken, slow = found.entries
    assert broken.failure == "ValueError: no such variant" and broken.median is None
    assert ours.rounds and slow.rounds and slow.ratio
    (table,) = tables.tables(runner.TaskResult(Task("fake", "a fake", (case,)), [found]))
    assert "scipy, broken failed: ValueError: no such variant" in table.text()


def test_a_peer_that_does_not_answer_is_ended(workspace):
    case = fake_case("mute")
    case.make().write(workspace.folder / "problem.npz")
    with PeerProcess(workspace, "scipy", "fake", "mute", workspace.folder / "problem.npz") as process:
        process.greeting()
        process._timeout = 0.2
        with pytest.raises(PeerError, match="no answer in 0.2 s"):
            process.ask("prepare", settings={})
        with pytest.raises(PeerError):
            process.ask("round", iterations=1)
    assert process._process.returncode is not None


def test_a_slow_peer_skips_rounds_when_its_time_is_spent(workspace):
    case = fake_case("slow")
    effort = Effort(rounds=4, seconds=0.03, allowance=0.01)
    found = measures.time_side_by_side(workspace, "fake", case, case.peers, effort, SilentProgress())
    assert [len(entry.rounds) for entry in found.entries] == [1, 1]


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peak memory is told by Linux only")
def test_peak_memory_is_what_an_iteration_holds(workspace):
    script = FAKE.replace("lambda: wait(pause)", "lambda: bytearray(b'x') * problem.settings['steps'] * 1_000_000")
    workspace.script.with_name("with_pyneuralode.py").write_text(textwrap.dedent(script), encoding="utf-8")
    case = fake_case()
    effort = Effort(steps=(10, 40))
    found = measures.trace_memory(workspace, "fake", case, case.peers, effort, SilentProgress())
    few, many = (point["bytes"] for point in found.entries[0].curve)
    assert few == pytest.approx(10e6, rel=0.1) and many == pytest.approx(40e6, rel=0.1)
    assert tables.states_a_step(found.entries[0], 1_000_000) == pytest.approx(1, rel=0.1)


def test_errors_are_those_of_the_worst_component():
    truth = np.array([[1.0, 1e-6], [1.0, 1e-6]])
    assert relative_error(truth + [0.0, 1e-7], truth) == pytest.approx(0.1)
    exact = {"k": np.array(2.0), "rate": np.array(2e-9), "nothing": np.array(1e-20)}
    found = {"k": np.array(2.0), "rate": np.array(3e-9), "nothing": np.array(1.0)}
    assert gradient_error(found, exact) == pytest.approx(0.5)
    assert gradient_error({}, exact) is None


@pytest.mark.parametrize("place", ["benchmarks/peers", "pyneuralode/bench/contenders"])
def test_two_checkouts_are_compared_in_alternating_rounds(workspace, tmp_path, place):
    folder = tmp_path / "older" / place
    shutil.copytree(workspace.script.parent, folder)
    slower = textwrap.dedent(FAKE).replace('settings["pause"]', 'settings["pause"] * 2')
    workspace.script.with_name("with_pyneuralode.py").write_text(slower, encoding="utf-8")
    task = Task("fake", "a fake", (replace(fake_case(), peers=(Peer(OURS, "fast"), Peer(OURS, "broken"))),))
    fast, broken = against.compare_task(workspace, tmp_path / "older", task, Effort(seconds=0.001), SilentProgress())
    assert len(fast.old) == len(fast.new) == against.ROUNDS
    assert fast.ratios == pytest.approx(2) and against.upper_bound(fast.ratios) == pytest.approx(2)
    assert not fast.passes
    assert broken.failure == "ValueError: no such variant" and not broken.passes
    page = against.table(task, [fast, broken]).text()
    assert "broken failed: ValueError: no such variant" in page and " !" in page


def test_the_upper_bound_is_that_of_the_median_ratio():
    rng = np.random.default_rng(0)
    bounds = [against.upper_bound(rng.normal(1, 0.1, 20), draws=500) for _ in range(400)]
    assert 0.9 < np.mean(np.array(bounds) > 1) < 0.99
    assert against.upper_bound(np.ones(20)) == 1


def test_seconds_to_an_error_lie_between_the_points():
    points = [{"error": 1e-2, "seconds": 1.0}, {"error": 1e-4, "seconds": 100.0}]
    entry = Entry(OURS, "Tsit5", curve=points)
    assert tables.seconds_to(entry, 1e-3) == pytest.approx(10)
    assert tables.seconds_to(entry, 1e-1) == 1.0
    assert tables.seconds_to(entry, 1e-5) is None


@pytest.mark.parametrize(
    "seconds, words",
    [(24.84, "24.8 s"), (164, "164 s"), (0.0135, "13.5 ms"), (5.12e-5, "0.0512 ms"), (0.9996, "1000 ms"), (None, "–")],
)
def test_durations_have_three_digits(seconds, words):
    assert tables.duration(seconds) == words


def test_the_tables_are_aligned_and_the_summary_leaves_out_wrong_gradients():
    ours = Entry(OURS, "Tsit5", rounds=[1e-3, 1.1e-3, 1.2e-3], ratio=1.0, gradient_error=1e-5, first=0.4, cold=9.0)
    wrong = Entry("diffrax", "Tsit5", rounds=[1e-4], ratio=0.1, gradient_error=30.0)
    right = Entry("diffrax", "Kvaerno5", rounds=[5e-3], ratio=4.5, gradient_error=1e-4, versions={"diffrax": "0.7"})
    case = CaseResult("spiral", {}, [ours, wrong, right])
    result = runner.TaskResult(TASKS["spiral"], [case])
    about = {
        "date": "2026-01-01",
        "processor": "a CPU",
        "cores": 2,
        "system": "Linux",
        "python": "3.12",
        "command": "x",
    }
    page = tables.markdown(runner.Outcome(about, [result], ("torchode",)))
    assert "| spiral | 1.10 ms | 5.00 ms (4.50x) | 0.0500 ms |" in page
    assert "diffrax, Tsit5: the gradient is wrong." in page
    assert "2026-01-01, a CPU with 2 cores" in page and "Not installed: torchode." in page and "diffrax 0.7" in page
    (table,) = tables.tables(result)
    header, *rows = table.text().splitlines()[1:5]
    assert len({len(row) for row in (header, *rows)}) == 1
    assert "400 ms (cold 9.00 s)" in rows[0]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["spirall"], "the task is 'spirall', which is unknown: did you mean 'spiral'?"),
        (["spiral", "--out", __file__], "is a file: give a folder."),
        (["spiral", "--python", "diffrax"], "python is 'diffrax': give a library and its Python"),
        (["spiral", "--python", "difrax=python"], "did you mean 'diffrax'?"),
        (
            ["--against", "no-such-folder"],
            "against is 'no-such-folder', which does not contain benchmarks/peers/serve.py",
        ),
        (["memory", "--against", processes.ROOT], "the task is 'memory', which is not timed: against supports spiral,"),
        (["spiral", "--python", "diffrax=no-such-python"], "python is 'diffrax=no-such-python', which cannot run"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_measured(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "_measure", lambda *_: pytest.fail("measured in spite of a mistake"))
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert sentence in result.stderr and len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_python_must_have_its_library(tmp_path):
    assert read_pythons([f"torchdiffeq={sys.executable}"]) == {"torchdiffeq": Path(sys.executable)}
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(ArgumentError, match="which has no diffrax"):
        read_pythons([f"diffrax={bare}"])


def test_the_tasks_are_listed():
    result = run("--list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(TASKS)


def test_every_peer_has_its_task():
    for task in TASKS.values():
        for case in task.cases:
            assert case.peers[0].library == OURS
            for peer in case.peers:
                tree = ast.parse((PEERS / f"with_{peer.library}.py").read_text(encoding="utf-8"))
                (table,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "TASKS")
                assert task.name in [key.value for key in table.keys]


def test_only_scripts_import_another_library():
    # SciPy is allowed, since the drop-in's method scipy_solver uses it.
    libraries = {*OTHER_LIBRARIES, "jax"} - {"scipy"}
    for path in [*processes.ROOT.glob("pyneuralode/**/*.py"), *processes.ROOT.glob("benchmarks/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if {name.split(".")[0] for name in names} & libraries:
                assert path.parent == PEERS


def test_the_weights_are_there():
    assert FILE.stat().st_size < 100_000
    for name in TRAINED:
        assert all(np.isfinite(value).all() and value.dtype == np.float32 for value in stored(name).values())


def test_the_trained_networks_fit_their_data():
    import pyneuralode as pn
    from pyneuralode.datasets import sweden

    spiral = pn.MLP(**TRAINED["spiral"])
    truth = pn.Linear(((-0.1, -2.0), (2.0, -0.1)), input_map="cube")
    start, ts = np.array([2.0, 0.0]), np.linspace(0, 1.5, 30)
    ours = pn.solve(spiral, start, ts, parameters=stored("spiral"), engine="torch").ys
    assert np.abs(ours - pn.solve(truth, start, ts, engine="torch").ys).max() < 0.01
    data = sweden("report")
    covid = pn.MLP(**TRAINED["covid"])
    found = pn.solve(covid, np.zeros(4), data["day"].to_numpy(float), parameters=stored("covid"), engine="torch").ys
    assert np.square(found[:, 0] - 50 / 1e7 * data["new_cases_avg7"].to_numpy()).sum() < 2e-4


def test_the_reference_solve_is_the_published_one(tmp_path):
    """The reference gradient of Robertson's problem agrees with the published values."""
    case = TASKS["robertson"].cases[0]
    setup = measures.CaseSetup(Workspace(tmp_path, {}), "robertson", case, 0)
    reference = setup.reference(case.reference_variant)
    assert reference.failure == ""
    assert reference.states[-1] == pytest.approx([0.7158270688, 9.185534765e-6, 0.2841637457], rel=1e-9)
    assert [float(reference.gradient[f"k{i}"]) for i in (1, 2, 3)] == pytest.approx(
        [-4.24755877, -2.28835509e-9, 1.37308080e-5], rel=1e-7
    )


def test_the_smallest_task_runs_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "QUICK", Effort(2, 0.005, tolerances=(1e-4, 1e-7)))
    whole = TASKS["work-precision"].cases[0]
    pair = [c for c in whole.peers if str(c) in ("pyneuralode, Tsit5", "torchdiffeq, dopri5")]
    small = Task("work-precision", "a small one", (replace(whole, peers=tuple(pair)),), "precision")
    monkeypatch.setitem(TASKS, "work-precision", small)
    out = tmp_path / "out"
    result = run("work-precision", "--quick", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "bench.md", "work-precision.png"]
    assert str(out / "bench.md") in result.stdout
    (task,) = json.loads((out / "bench.json").read_text())["tasks"]
    entries = {(e["library"], e["variant"]): e for e in task["cases"][0]["entries"]}
    loose, tight = entries["pyneuralode", "Tsit5"]["curve"]
    assert tight["error"] < 1e-2 * loose["error"] < 1e-4
    assert tight["evaluations"] > loose["evaluations"] and loose["seconds"] > 0
    for (library, _), entry in entries.items():
        assert entry["failure"] == "" and library in entry["versions"]


def test_peers_in_another_environment_do_not_see_this_checkout(workspace, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    elsewhere = Workspace(workspace.folder, {"scipy": Path(sys.executable)})
    assert "PYTHONPATH" not in processes._environment(elsewhere, "fake", elsewhere=True)
    assert str(processes.ROOT) in processes._environment(workspace, "fake", elsewhere=False)["PYTHONPATH"]


def test_help_imports_nothing_heavy():
    code = (
        "import sys, benchmarks.tasks, benchmarks.__main__; print({'torch', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=processes.ROOT).strip() == "set()"


def test_the_systems_are_the_same_for_all():
    """All libraries must solve the same systems, so that the times are comparable."""
    sys.path.insert(0, str(PEERS))
    try:
        from systems import SYSTEMS
        from with_pyneuralode import FIELDS
    finally:
        sys.path.remove(str(PEERS))
    from pyneuralode import NeuralODE

    for name, field in FIELDS.items():
        problem = system(name)
        model = NeuralODE(field, engine="torch")
        model.set_arrays(dict(zip(field.shapes(), problem.arrays["p"])))
        y = np.random.default_rng(0).uniform(0.5, 1.0, field.dim)
        assert model.slope(0.0, y) == pytest.approx(SYSTEMS[name](y, problem.arrays["p"]), rel=1e-12)
