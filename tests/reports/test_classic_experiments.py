import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import pyneuralode as pn
from pyneuralode.fitting import Adam, Stage, fit
from pyneuralode.reports import cubic, depth, spiral
from pyneuralode.reports.base import Context
from pyneuralode.reports.registry import find_report


def silent(n, note=""):
    pass


def test_the_reports_are_registered():
    for id, module in (("cubic", cubic), ("spiral", spiral), ("depth", depth)):
        assert find_report(id).load() is module.run


# spiral


def test_the_exact_spiral_solves_its_equation():
    row_convention = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    states = spiral.truth(spiral.TIMES)
    np.testing.assert_allclose(states[0], [2, 0])
    linear = pn.Linear(tuple(map(tuple, row_convention.T)))
    solved = pn.solve(linear, states[0], spiral.TIMES, solver="Vern7", rtol=1e-11, atol=1e-12).ys
    np.testing.assert_allclose(solved, states, atol=1e-9)


@pytest.mark.parametrize("name", spiral.SOLVERS)
def test_training_on_the_spiral_lowers_the_loss(name):
    training = spiral.train(name, 0, "torch", silent, iterations=60)
    assert list(training.trajectories) == [0, 50, 59]
    assert training.losses[-10:].mean() < 0.3 * training.losses[:10].mean()
    wrong = np.mean((training.trajectories[59] - spiral.truth(spiral.TIMES)) ** 2)
    assert training.error == pytest.approx(wrong) and training.seconds > 0


def test_evaluations_are_those_of_the_steps():
    # Each solve has nine steps, with one evaluation per step for Euler and four for RK4.
    assert spiral.train("Euler", 0, "torch", silent, iterations=3).evaluations == 3 * 9
    assert spiral.train("RK4", 0, "torch", silent, iterations=3).evaluations == 3 * 9 * 4


def test_spiral_reports_every_solver(monkeypatch):
    short = spiral.train("Euler", 0, "torch", silent, iterations=2)
    short.trajectories = {k: spiral.truth(spiral.TIMES) + 0.1 for k in spiral.SHOWN}
    monkeypatch.setattr(spiral, "train", lambda name, seed, engine, advance: short)
    report = spiral.run(Context("quick"))
    rows = {row.name: row for row in report.rows}
    assert len(rows) == 9
    best = rows["Dopri5: error, best seed"]
    assert best.ours == pytest.approx(0.01) and best.target == 0.0167 and best.met
    assert rows["RK4: seconds of a run, mean"].theirs == 12.95
    assert all(isinstance(figure, Figure) for figure in report.figures.values())


# cubic


def test_the_cubic_data_spiral_inward_as_written():
    states = cubic.data()
    assert states.shape == (30, 2)
    np.testing.assert_allclose(states[0], [2, 0])
    radius = np.linalg.norm(states, axis=1)
    assert radius[-1] < 0.55 * radius[0]

    def written(t, u):
        return u**3 @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=u.dtype)

    again = pn.solve(written, cubic.START, cubic.TIMES, rtol=1e-10, atol=1e-10).ys
    np.testing.assert_allclose(again, states, atol=1e-7)


def test_spans_hold_9_18_and_30_points():
    assert [int((end >= cubic.TIMES).sum()) for end in cubic.SPANS] == [9, 18, 30]


def test_the_misfit_adds_up_to_the_loss_of_the_fit():
    model = cubic.model_of("warm", 1)
    result = fit(model, cubic.TIMES, cubic.data(), y0=cubic.START, plan=Stage(Adam(0.05), 3, 1.5))
    missed = cubic.misfit(result.parameters, cubic.model_of("warm"), 1.5)
    assert missed.shape == (2,)
    assert missed.sum() == pytest.approx(result.loss, rel=1e-9)


def test_the_poster_plan_is_the_one_printed():
    for stages in (cubic.plans_of("warm")[0].stages(), cubic.plans_of("scratch")):
        settings = [(s.end, s.optimizer.lr, s.iterations) for s in stages]
        assert settings == [(1.5, 0.05, 300), (3.0, 0.05, 500), (5.0, 0.01, 500)]


def test_cubic_reports_every_span(monkeypatch):
    def short_plans(kind):
        stages = [Stage(Adam(0.02), 2, end) for end in cubic.SPANS]
        return stages if kind == "scratch" else [stages]

    monkeypatch.setattr(cubic, "plans_of", short_plans)
    report = cubic.run(Context("quick"))
    rows = {row.name: row for row in report.rows}
    names = [f"poster's setup, span {span}: state 1, median seed" for span in ("1.5", "3", "5")]
    targets = [rows[name].target for name in names]
    assert targets == [0.0432, 0.755, 0.825]
    final = rows["our plan, span 5: both states, worst seed"]
    assert final.target == 0.02 and final.met is False  # two iterations are not enough
    assert len(report.tables[0].rows) == 3
    assert set(report.figures) == set(report.captions) == {"fits", "plane", "losses"}


def test_our_plan_reaches_the_converged_fit():
    result = cubic.fit_spiral("ours", 0, "torch", silent)[0]
    assert result.finished and result.loss < 0.02
    assert [stage.end for stage in cubic.span_ends([result])] == list(cubic.SPANS)


# depth


def test_a_residual_network_is_its_layers():
    states = depth.residual_network(5)
    y = torch.as_tensor(depth.STARTS)
    for layer in range(5):
        np.testing.assert_allclose(states[layer], y.numpy(), atol=1e-12)
        y = y + 1.0 * depth.field(torch.tensor(layer, dtype=y.dtype), y)
    np.testing.assert_allclose(states[5], y.numpy(), atol=1e-12)


def test_swaps_counts_pairs_once():
    paths = np.array([[0.0, 1.0, 2.0], [1.5, 1.0, 2.0], [1.5, 1.0, 0.5]])
    assert depth.swaps(paths) == 2
    assert depth.swaps(np.array([[0.0, 1.0], [0.5, 0.6]])) == 0


def test_order_is_the_slope():
    distances = {n: 3.0 * n**-2.0 for n in (5, 10, 20, 40)} | {1: 99.0}
    assert depth.order(distances, 5, 40) == pytest.approx(2.0)


def test_depth_shows_first_order_and_no_crossing_of_the_ode():
    report = depth.run(Context("quick"))
    rows = {row.name: row.ours for row in report.rows}
    assert rows["order of the distance in 1 / depth, 100 to 1,000 layers"] == pytest.approx(1.0, abs=0.05)
    far, near = (rows[f"distance of {n} layers from the ODE at the end"] for n in (5, 50))
    assert 0 < near < 0.1 * far
    assert rows["pairs of neighbors that change places, ODE"] == 0
    assert rows["pairs of neighbors that change places, 5 layers"] > 0
    assert set(report.figures) == {"trajectories", "distance"}
