"""Python functions solved by Julia through diffeqpy: known solutions, and the arguments passed to Julia."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from robertson import ROBERTSON_END, robertson

import pyneuralode as pn
from pyneuralode.engines.julia_engine import diffeqpy_modules, session
from pyneuralode.solvers import solvers_of

QUICK = ["Tsit5", "Vern7", "Rodas5P", "FBDF", "AutoTsit5(Rosenbrock23)"]
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in solvers_of("julia") if name not in QUICK]


def turn(t, y):
    return np.array([y[1], -y[0]])


def solve(f, y0, ts, **settings):
    return pn.solve(f, y0, ts, engine="julia", **settings)


@pytest.mark.parametrize("name", QUICK + OTHERS)
def test_every_solver_turns_the_circle(main, name):
    ts = np.array([0.0, 1.0, 5.0])
    step = {} if pn.solvers.find_solver(name).adaptive else {"step_size": 2e-4 if name == "Euler" else 1e-2}
    solution = solve(turn, [1.0, 0.0], ts, solver=name, rtol=1e-8, atol=1e-8, **step)
    truth = np.stack([np.cos(ts), -np.sin(ts)], axis=1)
    order = pn.solvers.find_solver(name).order
    assert np.abs(solution.ys - truth).max() < (2e-6 if order > 2 else 1e-3 if step else 2e-5)
    assert (solution.solver, solution.engine) == (name, "julia (diffeqpy)")
    assert solution.nfev >= solution.accepted > 0


@pytest.mark.parametrize(("solver", "control", "bound"), [
    ("Rodas5P", {"rtol": 1e-8, "atol": 1e-14}, 1e-5),
    ("Rosenbrock23", {"rtol": 1e-5, "atol": 1e-12}, 1e-3),
])  # fmt: skip
def test_robertson(main, solver, control, bound):
    solution = solve(robertson, [1.0, 0.0, 0.0], [0.0, 1e11], solver=solver, **control)
    assert np.abs(solution.ys[-1] / ROBERTSON_END - 1).max() < bound


@pytest.mark.parametrize("settings", [{"step_size": 0.03}, {}], ids=["step_size", "times"])
def test_fixed_steps_are_the_torch_engines(main, settings):
    def forced(t, y):
        return np.array([np.cos(3 * t) - y[0] * y[1], y[0]])

    def forced_torch(t, y):
        return torch.stack([torch.cos(3 * t) - y[0] * y[1], y[0]])

    ts = np.linspace(2.0, 0.5, 16)  # decreasing times
    ours = solve(forced, [0.3, 0.5], ts, solver="RK4", **settings)
    theirs = pn.solve(
        forced_torch,
        torch.tensor([0.3, 0.5], dtype=torch.float64),
        ts,
        solver="RK4",
        engine="torch",
        **settings,
    )
    # The interpolants differ between steps; the solution at the steps is the same.
    assert np.abs(ours.ys - theirs.ys.numpy()).max() < (1e-5 if settings else 1e-13)
    assert ours.rejected == 0


def test_falling_times_and_dense_output(main):
    solution = solve(turn, [1.0, 0.0], [5.0, 0.0], dense=True, rtol=1e-9, atol=1e-9)
    times = np.linspace(0.0, 5.0, 11)
    truth = np.stack([np.cos(times - 5), -np.sin(times - 5)], axis=1)
    assert np.abs(solution(times) - truth).max() < 1e-6
    assert solution(2.5).shape == (2,)
    with pytest.raises(pn.ArgumentError, match="t is 5.1, outside the solved time span, 5 to 0"):
        solution(5.1)


@pytest.mark.parametrize("solver", ["Tsit5", pytest.param("Rodas5P", marks=pytest.mark.slow)])
def test_state_keeps_shape_and_dtype(main, solver):
    start = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    seen = set()

    def decay(t, y):
        seen.add((type(t), y.shape, y.dtype))
        return -y

    solution = solve(decay, start, [0.0, 1.0], solver=solver, rtol=1e-4, atol=1e-4)
    assert solution.ys.shape == (2, 2, 3) and solution.ys.dtype == np.float32
    assert np.abs(solution.ys[-1] - start * np.exp(-1)).max() < 2e-3
    assert seen == {(float, (2, 3), np.dtype("float32"))}
    assert solve(lambda t, y: -y, 1.0, [0.0, 1.0]).ys.shape == (2,)


def test_function_may_keep_its_states(main):
    kept = []
    solve(lambda t, y: kept.append(y) or -y, [1.0], [0.0, 1.0])
    assert len({float(y[0]) for y in kept}) > 5


def test_evaluations_are_counted(main):
    calls = []
    solution = solve(lambda t, y: calls.append(t) or turn(t, y), [1.0, 0.0], [0.0, 9.0], rtol=1e-4, atol=1e-4)
    assert solution.nfev == len(calls)
    assert solve(turn, [1.0, 0.0], [0.0, 9.0], solver="Euler", step_size=0.1).accepted == 90


def test_tolerances_for_each_component(main):
    tight = solve(turn, [1.0, 0.0], [0.0, 5.0], rtol=[1e-9, 1e-9], atol=[1e-9, 1e-9])
    assert tight.nfev == solve(turn, [1.0, 0.0], [0.0, 5.0], rtol=1e-9, atol=1e-9).nfev
    assert solve(turn, [1.0, 0.0], [0.0, 5.0], max_step=0.01).accepted >= 500


def test_a_wall_is_a_solver_error_with_its_time(main):
    with pytest.raises(pn.SolverError, match="look for a singularity there") as wall:
        solve(lambda t, y: y**2, [1.0], [0.0, 2.0])
    assert wall.value.t == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(pn.SolverError, match="the solve took max_steps = 7 steps"):
        solve(turn, [1.0, 0.0], [0.0, 99.0], max_steps=7)
    with pytest.raises(pn.SolverError, match="non-finite value at the start"):
        solve(lambda t, y: y * np.nan, [1.0], [0.0, 2.0])


def test_exceptions_of_the_function_come_out_as_they_are(main):
    class Mine(Exception):
        pass

    def fails(t, y):
        if t > 0.5:
            raise Mine("at half time")
        return -y

    with pytest.raises(Mine, match="at half time") as failure:
        solve(fails, [1.0], [0.0, 1.0])
    assert any(entry.name == "fails" for entry in failure.traceback)

    def interrupted(t, y):
        if t > 0.5:
            os.kill(os.getpid(), signal.SIGINT)
        return -y

    with pytest.raises(KeyboardInterrupt):
        solve(interrupted, [1.0], [0.0, 1.0])
    assert solve(lambda t, y: -y, [1.0], [0.0, 1.0]).ys[-1, 0] == pytest.approx(np.exp(-1), abs=1e-5)


def test_solves_within_solves_and_from_threads(main):
    def outer(t, y):
        return -y * solve(lambda t, x: -x, [1.0], [0.0, 1.0]).ys[-1]

    truth = np.exp(-np.exp(-1))
    assert solve(outer, [1.0], [0.0, 1.0], solver="BS3", rtol=1e-4, atol=1e-4).ys[-1, 0] == pytest.approx(
        truth, abs=1e-3
    )
    ends = []
    threads = [
        threading.Thread(target=lambda: ends.append(solve(lambda t, y: -y, [1.0], [0.0, 1.0]).ys[-1, 0]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == pytest.approx([np.exp(-1)] * 3, abs=1e-5)


@pytest.mark.parametrize(("returned", "sentence"), [
    (lambda y: [0.0, 0.0], "the field returned a list: return a NumPy array"),
    (lambda y: torch.zeros(2), "the field returned a Tensor"),
    (lambda y: y[:1], r"the field returned shape \(1,\) for a state of shape \(2,\)"),
    (lambda y: y.astype(np.float32), "the field returned dtype float32 for a state of dtype float64"),
])  # fmt: skip
def test_what_the_function_returns_is_checked(main, returned, sentence):
    with pytest.raises(pn.ArgumentError, match=sentence):
        solve(lambda t, y: returned(y), [1.0, 0.0], [0.0, 1.0])


def refused(sentence, f=turn, y0=(1.0, 0.0), **settings):
    with pytest.raises(pn.ArgumentError, match=sentence):
        solve(f, list(y0) if type(y0) is tuple and type(y0[0]) is float else y0, [0.0, 1.0], **settings)


def test_what_this_path_does_not_take(main):
    refused("y0 is a torch tensor, but Julia .* computes no gradients: write y0.numpy", y0=torch.ones(2))
    refused("y0 is a tuple", y0=(np.ones(2), np.ones(3)))
    refused("parameters contains k", parameters={"k": torch.ones(2, dtype=torch.float64)})
    refused(r"it must accept \(t, y\)", f=lambda y: -y)
    refused("solver is 'RK38', which the Julia engine does not support", solver="RK38")
    refused("step_size is 0.1, but FBDF chooses its steps itself", solver="FBDF", step_size=0.1)


def test_auto_leaves_python_functions_to_torch():
    solution = pn.solve(lambda t, y: -y, torch.ones(1, dtype=torch.float64), [0.0, 1.0], engine="auto")
    assert solution.engine.startswith("torch")


# The network is never used without request, and the Julia engine works without diffeqpy.


@pytest.fixture
def lacking(main, monkeypatch):
    """Stochastic equations with a missing Julia package."""
    monkeypatch.setitem(diffeqpy_modules.PACKAGES, "sde", ("OrdinaryDiffEq", "NoSuchPackage"))
    monkeypatch.setattr(diffeqpy_modules, "_modules", {})
    diffeqpy_modules._wants_installation.cache_clear()
    installed = []
    monkeypatch.setattr(diffeqpy_modules, "_install", installed.append)
    return installed


SENTENCE = (
    "the Julia packages NoSuchPackage, which diffeqpy needs, are missing: run `pyneuralode setup-julia --with-diffeqpy`"
)


def test_missing_packages_are_named(lacking, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    for _ in range(2):
        with pytest.raises(pn.EngineError, match=SENTENCE):
            pn.solve_sde(turn, turn, [1.0, 0.0], [0.0, 1.0])
    assert not lacking


@pytest.mark.parametrize("answer", ["n", "y"])
def test_a_terminal_is_asked_once(lacking, monkeypatch, answer):
    asked = []
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    for _ in range(2):
        with pytest.raises(pn.EngineError, match=SENTENCE):
            pn.solve_sde(turn, turn, [1.0, 0.0], [0.0, 1.0])
    assert len(asked) == 1 and "Julia packages now? [y/n]" in asked[0]
    assert bool(lacking) == (answer == "y")


def test_diffeqpy_finds_the_julia_that_runs(main, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = str(main.seval("Sys.BINDIR"))
    with diffeqpy_modules._julia_on_path(folder):
        assert Path(shutil.which("julia")).parent == Path(folder)
    assert os.environ["PATH"] == str(tmp_path)


def test_the_versions_that_run_are_those_of_the_project(main):
    assert main.seval(diffeqpy_modules._UNCHANGED)() is True


def test_worker_process_is_told_apart(monkeypatch):
    monkeypatch.setattr(session, "_process", "worker")
    monkeypatch.setattr(session, "runs", lambda: True)
    with pytest.raises(
        pn.EngineError, match="Julia runs in the worker process, from which it cannot call a Python function"
    ):
        pn.solve_dae(turn, [1.0, 0.0], [0.0, 1.0], mass_matrix=np.eye(2))


def test_described_fields_do_not_load_diffeqpy(main):
    code = (
        "import sys, numpy as np, pyneuralode as pn;"
        "s = pn.solve(pn.Linear(((-1.0,),)), np.array([1.0]), [0.0, 1.0], engine='julia');"
        "print(s.engine[:5], 'juliacall' in sys.modules, 'diffeqpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["julia", "True", "False"]
