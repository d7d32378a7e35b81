"""Equations with a mass matrix, residuals, noise or delays, solved by Julia: known solutions, and mistakes."""

import numpy as np
import pytest
import torch
from robertson import ROBERTSON_END, robertson_mass, robertson_residual

import pyneuralode as pn
from pyneuralode.engines.julia_engine import session
from pyneuralode.solvers import DDE_SOLVERS


def turn(t, y):
    return np.array([y[1], -y[0]])


# Differential-algebraic equations.


@pytest.mark.parametrize("solver", ["Rodas5P", pytest.param("FBDF", marks=pytest.mark.slow)])
def test_robertson_with_a_mass_matrix(main, solver):
    solution = pn.solve_dae(
        robertson_mass,
        [1.0, 0.0, 0.0],
        [0.0, 1e11],
        mass_matrix=np.diag([1, 1, 0]),
        solver=solver,
        rtol=1e-8,
        atol=1e-14,
    )
    assert np.abs(solution.ys[-1] / ROBERTSON_END - 1).max() < 1e-5
    assert solution.ys[-1].sum() == pytest.approx(1, abs=1e-12)


def test_mass_matrix_corrects_the_algebraic_components(main):
    solution = pn.solve_dae(
        lambda t, y: np.array([-y[0], y[1] - 2 * y[0]]),
        [1.0, 7.0],
        [0.0, 1.0],
        mass_matrix=[[1, 0], [0, 0]],
        dense=True,
    )
    assert solution.ys[0] == pytest.approx([1, 2], abs=1e-6)
    assert solution(0.5) == pytest.approx([np.exp(-0.5), 2 * np.exp(-0.5)], abs=1e-4)


def test_robertson_as_a_residual(main):
    settings = {"solver": "DFBDF", "rtol": 1e-8, "atol": 1e-12}
    given = pn.solve_dae(robertson_residual, [1.0, 0.0, 0.0], [0.0, 1e11], dy0=[-0.04, 0.04, 0.0], **settings)
    assert np.abs(given.ys[-1] / ROBERTSON_END - 1).max() < 1e-4
    found = pn.solve_dae(
        robertson_residual,
        [1.0, 0.0, 0.0],
        [0.0, 1e11],
        dy0=[0.0, 0.0, 0.0],
        differential=[True, True, False],
        **settings,
    )
    assert np.abs(found.ys[-1] / ROBERTSON_END - 1).max() < 1e-4
    with pytest.raises(pn.ArgumentError, match=r"the residual is -0.04 at the first time \(flat index 0\)"):
        pn.solve_dae(robertson_residual, [1.0, 0.0, 0.0], [0.0, 1.0], dy0=[0.0, 0.0, 0.0], **settings)


def test_a_residual_between_its_first_and_last_time(main):
    ts = np.array([0.0, 0.3, 4.0, 40.0, 400.0, 5000.0])
    truth = pn.solve_dae(robertson_mass, [1.0, 0.0, 0.0], ts, mass_matrix=np.diag([1, 1, 0]), rtol=1e-10, atol=1e-14)
    settings = {"dy0": [-0.04, 0.04, 0.0], "rtol": 1e-8, "atol": 1e-12}
    for dense in (False, True):
        found = pn.solve_dae(robertson_residual, [1.0, 0.0, 0.0], ts, dense=dense, **settings)
        assert np.abs(found.ys / truth.ys - 1)[1:].max() < 1e-4 and found.solver == "DFBDF"


@pytest.mark.parametrize(("settings", "sentence"), [
    ({}, "neither mass_matrix nor dy0 is given"),
    ({"mass_matrix": np.eye(2), "dy0": [0.0, 0.0]}, "mass_matrix and dy0 are both given"),
    ({"mass_matrix": np.full((2, 2), np.nan)}, "mass_matrix contains values that are not finite"),
    ({"mass_matrix": [[1.0], [1.0, 2.0]]}, "mass_matrix is a list, not an array"),
    ({"dy0": [np.nan, 1.0]}, "dy0 contains values that are not finite"),
    ({"mass_matrix": np.eye(3)}, r"mass_matrix has shape \(3, 3\), but y0 has 2 components: use shape \(2, 2\)"),
    ({"mass_matrix": np.eye(2), "differential": [True, True]}, "leave differential out"),
    ({"mass_matrix": np.eye(2), "solver": "Tsit5"}, "solver is 'Tsit5', which is unknown"),
    ({"dy0": [0.0], "solver": "DFBDF"}, r"dy0 has shape \(1,\) and y0 has shape \(2,\)"),
    ({"dy0": [0.0, 0.0], "step_size": 0.1}, "step_size is 0.1, but DFBDF chooses its steps itself"),
])  # fmt: skip
def test_mistakes_in_a_dae(settings, sentence, monkeypatch):
    monkeypatch.setattr(session, "runs", lambda: True)
    field = turn if "mass_matrix" in settings else lambda t, y, dy: dy - turn(t, y)
    with pytest.raises(pn.ArgumentError, match=sentence):
        pn.solve_dae(field, [1.0, 0.0], [0.0, 1.0], **settings)


@pytest.mark.parametrize("solver", ["Rodas5P", "FBDF"])
def test_a_described_field_with_a_mass_matrix(main, solver):
    field = pn.Equations(
        {"a": "k2*b*c - k1*a", "b": "k1*a - k2*b*c - k3*b**2", "c": "a + b + c - 1"},
        parameters={"k1": 0.04, "k2": 1e4, "k3": 3e7},
    )
    settings = {"mass_matrix": np.diag([1, 1, 0]), "solver": solver, "rtol": 1e-8, "atol": 1e-14}
    solution = pn.solve_dae(field, [1.0, 0.0, 0.0], [0.0, 1e11], **settings)
    assert np.abs(solution.ys[-1] / ROBERTSON_END - 1).max() < 1e-5
    stopped = pn.solve_dae(field, [1.0, 0.0, 0.0], [0.0, 1.0], parameters={"k1": 0.0, "k2": 1e4, "k3": 3e7}, **settings)
    assert stopped.ys[-1] == pytest.approx([1, 0, 0])


# Stochastic equations.

GROWTH = pn.Equations({"x": "r*x", "y": "-y"}, parameters={"r": 0.5})
SPREAD = pn.Equations({"x": "s*x", "y": "s"}, parameters={"s": 0.3})


def growth(t, y):
    return np.array([0.5 * y[0], -y[1]])


def spread(t, y):
    return np.array([0.3 * y[0], 0.3])


@pytest.fixture(scope="module")
def stochastic(package):
    """Skip the tests that use it if StochasticDiffEq is missing."""
    return package("sde")


@pytest.mark.parametrize("solver", ["SOSRI", "SRIW1", "EM"])
def test_a_described_field_and_a_function_give_the_same_path(stochastic, solver):
    step = {"step_size": 0.01} if solver == "EM" else {}
    ts = [0.0, 0.3, 1.0]
    paths = [
        pn.solve_sde(f, g, [1.0, 2.0], ts, solver=solver, seed=3, **step)
        for f, g in ((GROWTH, SPREAD), (growth, spread), (GROWTH, spread))
    ]
    for path in paths:
        assert path.ys.shape == (3, 2) and path.nfev > 0 and path.solver == solver
        assert path.ys == pytest.approx(paths[0].ys, rel=1e-9)
    other = pn.solve_sde(GROWTH, SPREAD, [1.0, 2.0], ts, solver=solver, seed=4, **step)
    assert np.abs(other.ys[-1] - paths[0].ys[-1]).max() > 1e-3


@pytest.mark.parametrize("solver", ["SOSRI", "SOSRA", "SRIW1", "SRA1", "EM"])
def test_without_noise_the_ordinary_solution_remains(stochastic, solver):
    step = {"step_size": 1e-4} if solver == "EM" else {}
    solution = pn.solve_sde(
        GROWTH,
        SPREAD,
        [1.0, 2.0],
        [0.0, 1.0],
        noise_parameters={"s": 0.0},
        parameters={"r": 0.7},
        solver=solver,
        **step,
    )
    assert solution.ys[-1] == pytest.approx([np.exp(0.7), 2 * np.exp(-1)], rel=1e-3)


def test_mean_and_variance_of_many_paths(stochastic):
    settings = {"rtol": 1e-3, "atol": 1e-3}
    ends = np.array(
        [pn.solve_sde(GROWTH, SPREAD, [1.0, 0.0], [0.0, 1.0], seed=k, **settings).ys[-1] for k in range(400)]
    )
    # Geometric Brownian motion (logarithm: normal), and the Ornstein-Uhlenbeck process.
    logs, variance = np.log(ends[:, 0]), 0.3**2 * (1 - np.exp(-2)) / 2
    assert abs(logs.mean() - (0.5 - 0.3**2 / 2)) < 4 * 0.3 / 20 and logs.std() == pytest.approx(0.3, rel=0.15)
    assert abs(ends[:, 1].mean()) < 4 * variance**0.5 / 20 and ends[:, 1].var() == pytest.approx(variance, rel=0.3)


def test_the_path_is_random_at_all_requested_times(stochastic):
    """The increments of Brownian motion between close times have the variance of their length, at loose tolerances too."""
    still = pn.Equations({"x": "0*x"})
    noise = pn.Equations({"x": "1 + 0*x"})
    ts = np.linspace(0, 1, 201)
    path = pn.solve_sde(still, noise, [0.0], ts, rtol=1.0, atol=1.0, seed=5).ys[:, 0]
    assert np.diff(path).var() == pytest.approx(1 / 200, rel=0.4)


def test_shapes_and_failures_of_stochastic_equations(stochastic):
    start = np.ones((3, 2), dtype=np.float32)
    solution = pn.solve_sde(GROWTH, SPREAD, start, [0.0, 0.5])
    assert solution.ys.shape == (2, 3, 2) and solution.ys.dtype == np.float32
    with pytest.raises(pn.SolverError, match="SOSRI stopped with MaxIters, after the saved time t = 0"):
        pn.solve_sde(GROWTH, SPREAD, [1.0, 1.0], [0.0, 1.0], max_steps=3)
    with pytest.raises(ZeroDivisionError):
        pn.solve_sde(lambda t, y: -y, lambda t, y: 1 // 0, [1.0], [0.0, 0.1])
    with pytest.raises(pn.ArgumentError, match="g returned a float"):
        pn.solve_sde(lambda t, y: -y, lambda t, y: 0.1, [1.0], [0.0, 0.1])


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"solver": "SOSR"}, "did you mean 'SOSRI'|did you mean 'SOSRA'"),
    ({"solver": "EM"}, "step_size is None, but EM does not choose its own steps"),
    ({"seed": -1}, "seed is -1: give an integer >= 0"),
    ({"rtol": -1}, "rtol is -1"),
    ({"noise_parameters": {"s": 1.0}}, "noise_parameters are given, but g is a function"),
    ({"parameters": {"s": 1.0}}, "parameters are given, but f is a function"),
    ({"g": SPREAD, "noise_parameters": {"z": 1.0}}, r"do not have the names and shapes of g's parameters: give s \(\)"),
    ({"g": pn.MLP((3, 4, 3))}, r"g has dimension 3, but y0 has shape \(2,\)"),
    ({"g": 1.0}, "g is a float: give a VectorField, or a function"),
    ({"seed": 2**70}, "seed is .*: give an integer below 2"),
    ({"g": SPREAD, "noise_parameters": [1.0]}, "noise_parameters is a list: give a mapping"),
    ({"g": SPREAD, "noise_parameters": {"s": np.nan}}, "noise_parameters contain values that are not finite"),
    ({"ts": [1.0, 0.0]}, "ts decreases from 1 to 0: give increasing times"),
    ({"g": SPREAD, "y0": [[0.5], [1.0, 2.0]]}, "y0 is a list, not an array"),
    ({"f": torch.nn.Linear(2, 2)}, "f is a Linear: give a VectorField, or a Python function"),
])  # fmt: skip
def test_mistakes_in_an_sde(settings, sentence, monkeypatch):
    monkeypatch.setattr(session, "runs", lambda: True)
    arguments = {"f": turn, "g": turn} | settings
    with pytest.raises(pn.ArgumentError, match=sentence):
        start, ts = arguments.pop("y0", [1.0, 0.0]), arguments.pop("ts", [0.0, 1.0])
        pn.solve_sde(arguments.pop("f"), arguments.pop("g"), start, ts, **arguments)


# Delay equations. With y(t) = 1 before 0, y' = -y(t - 1) has the solution 1 - t until 1, then 1 - t + (t - 1)**2 / 2 until 2.

TIMES = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
FALLING = np.where(TIMES > 1, 1 - TIMES + (TIMES - 1) ** 2 / 2, 1 - TIMES)[:, None]
SOURCE = "(du, u, h, p, t) -> (du[1] = -p.rate * h(p, t - 1)[1])"


@pytest.fixture(scope="module")
def delayed(package, main):
    """Skip the tests that use it if DelayDiffEq is missing."""
    return package("dde")


@pytest.mark.parametrize("solver", DDE_SOLVERS)
@pytest.mark.parametrize("f", [lambda t, y, past: -past, SOURCE], ids=["function", "source"])
def test_a_delay_equation(delayed, f, solver):
    named = {"parameters": {"rate": 1.0}} if isinstance(f, str) else {}
    solution = pn.solve_dde(f, [1.0], TIMES, lags=1.0, solver=solver, rtol=1e-7, atol=1e-7, **named)
    assert solution.ys == pytest.approx(FALLING, abs=1e-5)
    assert (solution.solver, solution.engine) == (solver, "julia (diffeqpy)") and solution.nfev > 0


@pytest.mark.parametrize("solver", DDE_SOLVERS)
def test_a_delay_equation_between_steps(delayed, solver):
    """Two lags, a stiff component, and requested times that no step ends on; the reference is Vern9 at tolerance 1e-11."""

    def f(t, y, y1, y2):
        return np.array([1.5 * y[0] * (1 - y1[0]) - 0.2 * y2[1], -30 * (y[1] - np.cos(t) * y2[0])])

    ts = np.concatenate([[0.0], np.arange(0.1, 6.0, 0.37)])
    settings = {"lags": [1.0, 0.3], "history": lambda t: np.array([0.5 + 0.1 * t, 1.0])}
    truth = pn.solve_dde(f, [0.5, 1.0], ts, solver="Vern9", rtol=1e-11, atol=1e-11, **settings).ys
    try:
        found = pn.solve_dde(f, [0.5, 1.0], ts, solver=solver, rtol=1e-6, atol=1e-6, **settings).ys
    except pn.SolverError:
        assert solver == "Rodas5P"  # it can fail at a jump of a derivative, and says so
        return
    assert np.abs(found - truth).max() < 2e-5


def test_history_shapes_and_dense_output_of_a_delay_equation(delayed):
    def f(t, y, y1, y2):
        return y1 - y2

    # With y = t before 0: y1 - y2 = 1 until 0.5, so that y = t there too.
    solution = pn.solve_dde(
        f, np.zeros((2, 1)), [0.0, 0.25, 0.5], lags=[1.0, 2.0], history=lambda t: np.full((2, 1), t), dense=True
    )
    assert solution.ys[:, 0, 0] == pytest.approx([0.0, 0.25, 0.5], abs=1e-6) and solution.ys.shape == (3, 2, 1)
    assert solution(0.1)[1, 0] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"lags": 0.0}, "lags is 0.0: give positive numbers"),
    ({"lags": []}, r"lags is \[\]: give positive numbers"),
    ({"f": lambda t, y: y}, r"it must accept \(t, y, y1\); wrap it, as in lambda t, y, y1: "),
    ({"f": pn.MLP((1, 2, 1))}, "f is an MLP, which has no delays"),
    ({"history": lambda: 1.0}, r"history has the signature \(\): it must accept \(t\)"),
    ({"parameters": {"a": 1.0}}, "parameters are given for a Python function"),
    ({"ts": [1.0, 0.0]}, "ts decreases from 1 to 0: give increasing times"),
    ({"history": np.array([1.0])}, "history is an ndarray: give a function of t"),
    ({"f": SOURCE, "parameters": {3: 1.0}}, "parameters has the name 3, which is not an identifier"),
    ({"y0": [[1.0], [1.0, 2.0]]}, "y0 is a list, not an array"),
    ({"solver": "Tist5"}, "did you mean 'Tsit5'"),
    ({"solver": "Rosenbrock23"}, "solver is 'Rosenbrock23', which is unknown"),
])  # fmt: skip
def test_mistakes_in_a_delay_equation(change, sentence, monkeypatch):
    monkeypatch.setattr(session, "runs", lambda: True)
    arguments = {"f": lambda t, y, past: -past, "y0": [1.0], "ts": TIMES, "lags": 1.0} | change
    with pytest.raises(pn.ArgumentError, match=sentence):
        pn.solve_dde(arguments.pop("f"), arguments.pop("y0"), arguments.pop("ts"), **arguments)


def test_a_delay_equation_takes_integers_and_keeps_single_precision(delayed):
    solution = pn.solve_dde(lambda t, y, past: -past, [1], [0, 1, 2], lags=1)
    assert solution.ys[:, 0] == pytest.approx([1, 0, -0.5], abs=1e-6)
    assert (
        pn.solve_dde(lambda t, y, past: -past, np.float32([1.0]), [0, 1], lags=1, rtol=1e-4, atol=1e-4).ys.dtype
        == np.float32
    )


def test_a_wrong_source_of_a_delay_equation(delayed):
    for source, sentence in (
        ("(du, u, h, p, t) -> nope(u)", "nope"),
        ("1 + 1", "f is a value of type Int64: give the source of a function"),
        ("(du, u, h, p, t) -> (", "does not parse"),
    ):
        with pytest.raises(pn.ArgumentError, match=sentence):
            pn.solve_dde(source, [1.0], TIMES, lags=1.0)
