"""The diagnosis of a fit, compared with NumPy and finite differences; bad fits are not reported as successes."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from typer.testing import CliRunner

import pyneuralode as pn
from pyneuralode.cli import app
from pyneuralode.fitting.diagnosis import Diagnosis
from pyneuralode.fitting.variables import Variables

TS = np.linspace(0, 3, 16)
MATRIX = ((-0.3, -1.0), (1.0, -0.2))
TRUTH = pn.solve(pn.Linear(MATRIX), [1.0, 0.0], TS, rtol=1e-10, atol=1e-10, engine="torch").ys
NOISY = TRUTH + 0.05 * np.random.default_rng(0).normal(size=TRUTH.shape)


def fit(plan, data=NOISY, ts=TS, start=((0.0, -0.5), (0.5, 0.0)), **settings):
    model = pn.NeuralODE(pn.Linear(start), rtol=1e-9, atol=1e-9, engine="torch")
    return pn.fit(model, ts, data, **({"y0": [1.0, 0.0], "plan": plan} | settings))


def decay(k, data, plan=pn.Stage(pn.LBFGS(), 60), **settings):
    """Fit k in x' = -k x, x(0) = 1, to `data`."""
    model = pn.NeuralODE(pn.Equations({"x": "-k*x"}, parameters={"k": k}), rtol=1e-9, atol=1e-9, engine="torch")
    return pn.fit(model, TS, data, y0=[1.0], plan=plan, **settings)


def test_columns_are_explained_as_numpy_says():
    mask = np.random.default_rng(1).random(NOISY.shape) < 0.8
    weights = np.where(np.arange(len(TS)) == 4, 0.0, 2.0)
    table = pd.DataFrame(NOISY, columns=["prey", "predator"])
    result = fit(pn.Stage(pn.LBFGS(), 5, end=2.0), table, mask=mask, weights=weights)
    seen = mask & ((TS <= 2.0) & (weights > 0))[:, None]
    errors = result.model([1.0, 0.0], TS) - NOISY
    assert [column.name for column in result.diagnosis.columns] == ["prey", "predator"]
    for k, column in enumerate(result.diagnosis.columns):
        rmse, spread = np.sqrt(np.mean(errors[seen[:, k], k] ** 2)), np.std(NOISY[seen[:, k], k])
        assert (column.rmse, column.spread) == pytest.approx((rmse, spread), rel=1e-9)
        assert column.explained == pytest.approx(1 - (rmse / spread) ** 2, rel=1e-9)
    assert "prey" in str(result) and f"{rmse:.4g}" in str(result) and f"{spread:.4g}" in str(result)


def test_the_gradient_and_the_best_step_down_it_are_those_of_the_objective():
    penalty = {"penalty": lambda ts, ys, parameters: 0.3 * parameters["A"].square().sum()}
    result = fit([pn.Stage(pn.Adam(0.05), 4), pn.Stage(pn.Adam(0.005), 30)], **penalty)
    found, best = result.diagnosis, result.parameters["A"]

    def objective(a):
        model = pn.NeuralODE(pn.Linear(a), rtol=1e-11, atol=1e-11, engine="torch")
        return ((model([1.0, 0.0], TS) - NOISY) ** 2).sum() + 0.3 * (a**2).sum()

    slope = np.zeros((2, 2))
    for place in np.ndindex(2, 2):
        step = np.zeros((2, 2))
        step[place] = 1e-5
        slope[place] = (objective(best + step) - objective(best - step)) / 2e-5
    norm = np.linalg.norm(slope)
    assert found.gradient == pytest.approx(norm, rel=1e-4)
    best_objective = result.stages[-1].best_objective
    assert best_objective == pytest.approx(objective(best), rel=1e-6)
    along = min(objective(best - length * slope / norm) for length in np.linspace(0, 0.1, 401))
    assert found.descent == pytest.approx((best_objective - along) / best_objective, rel=0.3)
    before = min(result.stages[-1].objectives[:-3])  # best objective without the last 3 of 30 iterations
    assert found.improvement == pytest.approx((before - best_objective) / before) and found.improvement > 1e-3
    assert not found.converged and "has not converged" in result.message and "more iterations" in found.advice
    assert "an unknown amount" not in str(result)


def test_near_a_minimum_the_best_step_is_that_of_the_curvature():
    """The reported decrease agrees with the lowest of 201 objectives along the gradient, far below the longest step."""
    result = fit(pn.Stage(pn.Adam(1e-4), 3), TRUTH, start=((-0.29, -1.0), (1.01, -0.2)))
    model, best = pn.NeuralODE(pn.Linear(MATRIX), rtol=1e-10, atol=1e-10, engine="torch"), result.parameters["A"]

    def objective(a):
        ys = model.solve(torch.tensor([1.0, 0.0], dtype=torch.float64), TS, parameters={"A": torch.as_tensor(a)}).ys
        return (ys - torch.as_tensor(TRUTH)).square().sum()

    a = torch.as_tensor(best).requires_grad_()
    (slope,) = torch.autograd.grad(objective(a), a)
    lengths = np.linspace(0, 0.02, 201)
    along = [float(objective(best - length * (slope / slope.norm()).numpy())) for length in lengths]
    assert 0 < np.argmin(along) < 150 and result.diagnosis.descent > 0.1
    assert result.diagnosis.descent == pytest.approx(1 - min(along) / along[0], rel=0.02)


def test_converged_is_where_neither_iterations_nor_a_step_gain_anything():
    for descent, improvement, converged in (
        (1e-9, 1e-9, True),
        (1e-9, 0.5, False),
        (0.5, 1e-9, False),
        (np.nan, 0, False),
    ):
        assert Diagnosis((), (), 1.0, descent, improvement, False).converged is converged


def test_a_fit_to_its_minimum_converged_and_needs_no_advice():
    for data in (NOISY, TRUTH):
        result = fit(pn.Stage(pn.LBFGS(), 200), data)
        assert result.diagnosis.converged and result.diagnosis.advice == ""
        assert result.message == "the whole plan ran; the fit converged" and "\nconverged: " in str(result)


@pytest.mark.parametrize("plan", [pn.Stage(pn.Adam(1e-6), 100), pn.Stage(pn.LBFGS(), 2), pn.Stage(pn.Adam(0.05), 60)])
def test_a_plan_that_ran_is_not_one_that_converged(plan):
    """A plan may finish without convergence: tiny steps, too few iterations, or a loss that still decreases."""
    result = fit(plan)
    assert result.finished and not result.diagnosis.converged
    assert "has not converged" in result.message and "\nnot converged: " in str(result)
    assert result.diagnosis.advice in " ".join(str(result).splitlines())


def test_a_column_that_cannot_be_explained_is_said_to_be():
    """One component cannot oscillate, so the best exponential explains little of a cosine."""
    result = decay(0.5, np.cos(2 * TS))
    (column,) = result.diagnosis.columns
    assert result.diagnosis.converged and column.explained < 0.5
    assert "explains" in result.message and "of the variance of column 1" in result.message
    assert "hidden components" in result.diagnosis.advice and "--augment" in result.diagnosis.advice


def test_parameters_that_ran_away_or_into_a_bound_are_named():
    away = decay(0.5, 0 * TS, pn.Stage(pn.LBFGS(), 40), bounds={"k": (0.0, None)})
    (moved,) = away.diagnosis.parameters
    assert moved.moved_far and moved.start == pytest.approx(0.5) and moved.end == pytest.approx(away.parameters["k"])
    assert moved.end > 100 * moved.start and "moved by orders of magnitude" in str(away)
    assert away.diagnosis.advice.startswith("k went from 0.5 to ") and "bounds" in away.diagnosis.advice
    into = decay(0.5, np.exp(-2 * TS), bounds={"k": (0.1, 1.0)})
    assert into.diagnosis.parameters[0].at_bound and "at its bound" in str(into)
    assert into.diagnosis.advice.startswith("k ended at its bound")
    inside = decay(0.5, np.exp(-2 * TS), bounds={"k": (0.1, 3.0)})
    assert not (inside.diagnosis.parameters[0].at_bound or inside.diagnosis.parameters[0].moved_far)
    assert inside.diagnosis.converged and inside.diagnosis.advice == ""


def test_a_goal_that_is_reached_ends_a_fit_well():
    result = fit(pn.Stage(pn.LBFGS(), 100, goal=0.1))
    assert result.diagnosis.at_goal and "reached its goal" in result.message and result.diagnosis.advice == ""
    assert not fit(pn.Stage(pn.LBFGS(), 2, goal=1e-9)).diagnosis.at_goal


def test_a_fit_that_cannot_see_or_value_anything_is_refused():
    for setting, words in (
        (lambda: pn.Stage(goal=np.inf), "goal is inf: give a nonnegative, finite loss"),
        (lambda: pn.Stage(goal=np.nan), "goal is nan"),
        (lambda: pn.Stage(goal=-1.0), "goal is -1.0"),
        (lambda: pn.LBFGS(patience=-3), "patience is -3: give a positive integer"),
        (lambda: pn.LBFGS(history=0), "history is 0"),
        (lambda: fit(pn.Stage(), weights=0), "weights is 0 for every unmasked value"),
        (lambda: fit(pn.Stage(), weights=np.zeros(16)), "weights is 0 for every unmasked value"),
        (lambda: fit(pn.Stage(), weights=TS > 9), "weights has dtype bool"),
        (
            lambda: fit(pn.Stage(end=1.0), weights=np.where(TS > 2, 1.0, 0.0)),
            "end is 1.0, but all values up to this time are masked or have weight 0: use a later end",
        ),
        (
            lambda: fit(pn.Stage(end=1.0), np.where(TS[:, None] > 2, NOISY, np.nan), mask="nan"),
            "all values up to this time are masked",
        ),
    ):
        with pytest.raises(pn.ArgumentError, match=words):
            setting()


def test_columns_without_spread_or_values_are_no_failure():
    rounded = np.where(TS > 1, 1e5 / 3, np.nextafter(1e5 / 3, 0))
    data = np.stack([rounded, np.where(TS > 2, 0.5, np.nan)], axis=1)
    result = fit(pn.Stage(pn.Adam(), 2, end=1.5), data, mask="nan")
    constant, absent = result.diagnosis.columns
    assert constant.spread == 0 and np.isnan(constant.explained) and np.isnan(absent.rmse)
    assert "constant" in str(result) and "no value was fitted" in str(result) and result.diagnosis.worst_column is None


def test_a_report_fits_a_screen():
    many = pn.Equations({f"x{i}": f"-k{i}*x{i}" for i in range(30)}, parameters={f"k{i}": 0.5 for i in range(30)})
    model = pn.NeuralODE(many, engine="torch")
    result = pn.fit(
        model, TS, np.exp(-np.outer(TS, np.linspace(0.1, 1, 30))), y0=np.ones(30), plan=pn.Stage(pn.Adam(), 2)
    )
    assert "... and 18 more columns" in str(result) and "... and 18 more parameters" in str(result)
    assert len(str(result).splitlines()) < 40 and max(map(len, str(result).splitlines())) < 100


def test_what_stops_early_or_cannot_be_evaluated_again_has_a_diagnosis_all_the_same():
    calls = []

    def penalty(ts, ys, parameters):
        calls.append(1)
        return ys.sum() * (float("nan") if len(calls) > 5 else 0.0)

    result = fit(pn.Stage(pn.Adam(), 9), penalty=penalty)
    assert not result.finished and "best so far" in result.message
    assert np.isnan(result.diagnosis.gradient) and not result.diagnosis.converged
    assert result.diagnosis.columns[0].rmse > 0 and "an unknown amount" in str(result) and "nan %" not in str(result)

    def stop(stage, iteration, loss):
        raise KeyboardInterrupt

    stopped = fit(pn.Stage(pn.Adam(), 9), callback=stop)
    assert stopped.interrupted and stopped.diagnosis.gradient > 0 and str(stopped).startswith("Interrupted in stage 1")

    def broken(ts, ys, parameters):
        raise pn.SolverError("nothing can be solved here")

    never = fit(pn.Stage(pn.Adam(), 9), penalty=broken)
    assert never.diagnosis is None and "nothing can be solved here" in str(never)


def test_a_diagnosis_takes_a_few_evaluations_and_leaves_the_fit_as_it_was(monkeypatch):
    calls = []
    settings = {"penalty": lambda ts, ys, parameters: calls.append(1) or 0 * ys.sum()}
    result = fit(pn.Stage(pn.Adam(0.05), 10), **settings)
    assert len(calls) <= result.evaluations + 3
    np.testing.assert_array_equal(result.model.arrays()["A"], result.parameters["A"])
    assert result.loss == result.losses.min()


def test_variables_are_placed_where_parameters_are_even_on_their_bounds():
    start = {name: torch.tensor([0.2, 3.0], dtype=torch.float64) for name in "abcd"}
    bounds = {"a": (0.0, None), "b": (None, 4.0), "c": (0.0, 4.0), "d": (None, None)}
    variables = Variables(start, bounds, ())
    values = {name: np.array([1.5, 2.5]) for name in "abcd"}
    variables.set_arrays(values)
    for name, array in variables.arrays().items():
        np.testing.assert_allclose(array, values[name], rtol=1e-14)
    for edge in (0.0, 4.0):
        variables.set_arrays({name: np.array([edge, edge]) for name in "abcd"})
        for name, (low, high) in bounds.items():
            if edge in (low, high):
                assert torch.isfinite(variables.free[name]).all()
                np.testing.assert_allclose(variables.arrays()[name], edge, atol=1e-14)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def swings(tmp_path_factory):
    """A table with two oscillating columns; a state of one component cannot explain either of them."""
    path, ts = tmp_path_factory.mktemp("table") / "swings.csv", np.linspace(0, 8, 33)
    pd.DataFrame({"t": ts, "x": 50 + 3 * np.cos(2 * ts), "v": np.sin(2 * ts)}).to_csv(path, index=False)
    return path


def test_the_command_prints_and_writes_whether_the_fit_fits(swings, tmp_path):
    out = tmp_path / "fit"
    done = run("fit", swings, "--columns", "x", "--out", out, "--hidden", 8, "--iterations", 30, "--finish", 100)
    assert done.exit_code == 0, done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    data = pd.read_csv(swings)["x"]
    assert metrics["spread"]["x"] == pytest.approx(np.std(data), rel=1e-6)
    assert metrics["explained"]["x"] == pytest.approx(1 - (metrics["rmse"]["x"] / metrics["spread"]["x"]) ** 2)
    assert metrics["explained"]["x"] < 0.5 and {"converged", "gradient", "descent", "improvement"} <= set(metrics)
    said = " ".join(done.stdout.split())
    assert "RMSE spread explained" in said and f"x {metrics['rmse']['x']:.4g} {np.std(data):.4g}" in said
    assert "of the variance of x" in said and "--augment" in metrics["advice"] and metrics["advice"] in said


def lines_of(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_what_is_forecast_is_drawn_dashed_and_labeled(swings, tmp_path, monkeypatch):
    figures, save = [], Figure.savefig

    def keep(figure, *arguments, **settings):
        figures.append(figure)
        save(figure, *arguments, **settings)

    monkeypatch.setattr(Figure, "savefig", keep)
    out = tmp_path / "fit"
    options = ["--hidden", 4, "--iterations", 3, "--finish", 0]
    assert run("fit", swings, "--out", out, "--spans", "2,4", *options).exit_code == 0
    (figure,) = figures
    lines = lines_of(figure)
    assert lines["model"].get_xdata()[-1] <= 4 < lines["forecast, not fitted"].get_xdata()[-1] == 8
    assert lines["forecast, not fitted"].get_linestyle() == "--" and lines["not fitted"].get_xdata()[0] > 4
    assert [text.get_text() for text in figure.legends[0].get_texts()].count("forecast, not fitted") == 1
    figures.clear()
    assert run("solve", out, "--times", "0:6:61", "--out", tmp_path / "a.csv").exit_code == 0
    lines = lines_of(figures[0])
    assert lines["model"].get_xdata()[-1] == 4 and lines["forecast, not fitted"].get_xdata()[[0, -1]].tolist() == [4, 6]
    figures.clear()
    assert run("solve", out, "--times", "0:6:61", "--y0", "50,1", "--out", tmp_path / "a.csv").exit_code == 0
    assert "forecast, not fitted" not in lines_of(figures[0])


def test_the_reports_figures_label_forecasts():
    from pyneuralode.plotting.epidemics import forecasts, growing_fits
    from pyneuralode.plotting.trajectories import span_fits

    ts, grid = np.linspace(0, 100, 51), np.linspace(0, 100, 301)
    ahead = lines_of(forecasts(ts, np.cos(ts), [(80.0, grid, {"SEIR": np.cos(grid)})], "cases"))
    assert ahead["SEIR"].get_xdata()[-1] <= 80 and ahead["SEIR, forecast"].get_linestyle() == "--"
    assert ahead["SEIR, forecast"].get_xdata()[-1] == 100 and ahead["held out"].get_xdata()[0] > 80
    states = np.stack([np.cos(grid), np.sin(grid)], axis=1)
    spans = lines_of(span_fits(ts, np.stack([np.cos(ts), np.sin(ts)], 1), [("a", 50.0, grid, states)], 1))
    for k in (1, 2):
        assert spans[f"state {k}, fit"].get_xdata()[-1] == 50 and spans[f"state {k}, forecast"].get_linestyle() == "--"
        assert spans[f"state {k}, not fitted"].get_xdata()[0] > 50
    growing = growing_fits(ts, np.cos(ts), [(50.0, grid, np.cos(grid))], "cases")
    assert lines_of(growing)["data, not fitted"].get_xdata()[0] > 50 and growing.legends


def test_results_are_sent_and_replaced_whole():
    result = fit(pn.Stage(pn.Adam(), 2))
    assert dataclasses.replace(result, message="another").diagnosis is result.diagnosis
