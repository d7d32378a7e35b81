"""SEIR and neural ODE fits of real data, with few iterations; `pyneuralode report` runs the full fits."""

import numpy as np
import pytest

from pyneuralode.datasets import sweden
from pyneuralode.epidemics import fit_neural, fit_seir, neural_curve, neural_model, neural_plan
from pyneuralode.fitting import LBFGS, Adam, GrowingSpan, Stage
from pyneuralode.reports import covid
from pyneuralode.reports.seir import SCALE, THEIR_START

DATA = sweden("report")
DAYS, VALUES = DATA["day"].to_numpy(float), SCALE * DATA["new_cases_avg7"].to_numpy()


def test_the_reports_seir_fit_gives_its_numbers():
    fit = fit_seir(DAYS, VALUES, field=THEIR_START, plan=Stage(Adam(1e-3), 200), bounded=False)
    assert fit.result.losses[0] == pytest.approx(0.29616, rel=0.01)
    assert fit.result.loss == pytest.approx(0.01124, rel=0.02)
    found = [float(fit.result.parameters[name]) for name in ("gamma", "R0", "sigma")]
    assert found == pytest.approx([0.1599, 5.6525, 0.1166], rel=0.01)
    assert ((fit.curve(DAYS) - VALUES) ** 2).sum() == pytest.approx(fit.result.loss, rel=1e-6)


def test_converged_seir_fits():
    three = fit_seir(DAYS, VALUES, field=THEIR_START)
    five = fit_seir(DAYS, VALUES, field=THEIR_START, fit_initial=True)
    # 0.0095308 and 0.0069129 are the global minima: fits from 25 random starts and with another solver agree.
    assert three.result.loss == pytest.approx(0.0095308, rel=1e-3)
    assert five.result.loss == pytest.approx(0.0069129, rel=1e-3)
    assert all(float(value) > 0 for value in five.result.parameters.values())


def test_seir_incidence_recovers_its_own_curve():
    days = np.arange(0.0, 120.0, 4.0)
    start = {"i0": 1e-3, "e0": 1e-3, "observable": "incidence", "factor": 2.0}
    truth = fit_seir(days, np.ones(len(days)), field=THEIR_START, plan=Stage(Adam(1e-12), 1), **start).curve(days)
    again = fit_seir(days, truth, field=THEIR_START, plan=Stage(LBFGS(), 100), **(start | {"factor": 1.5}))
    assert again.result.loss < 1e-12 and float(again.result.parameters["factor"]) == pytest.approx(2.0, rel=1e-3)


def test_a_short_neural_fit_lowers_the_loss_over_growing_spans():
    plan = GrowingSpan([60, 91], Adam(5e-3, schedule="cosine"), 100)
    result = fit_neural(DAYS, VALUES, plan=plan)
    assert [stage.end for stage in result.stages] == [60, 91]
    first, second = result.stages
    assert first.best_loss < 0.02 * first.losses[0] and second.best_loss < 0.05
    seen = DAYS <= 91
    assert ((neural_curve(result.model, DAYS[seen]) - VALUES[seen]) ** 2).sum() == pytest.approx(result.loss, rel=1e-6)


def test_the_price_on_variation_is_not_part_of_the_loss():
    plan = neural_plan(170.0, adam=2, finish=3)
    result = fit_neural(DAYS, VALUES, plan=plan, smoothness=1e-3)
    stage = result.stages[-1]
    assert all(total > loss for loss, total in zip(stage.losses, stage.objectives))
    assert ((neural_curve(result.model, DAYS) - VALUES) ** 2).sum() == pytest.approx(result.loss, rel=1e-6)


def test_neural_plan_ends_where_the_data_end():
    assert [stage.end for stage in neural_plan(100.0).stages()] == [60.0, 91.0, 100.0, 100.0]


def test_neural_model_is_the_reports_net():
    assert sum(array.size for array in neural_model().arrays().values()) == 5754


def test_variation_of_a_known_curve():
    result = fit_neural(DAYS, VALUES, plan=Stage(Adam(), 1))
    curve = neural_curve(result.model, np.arange(0, 170.05, 0.1))
    data = np.abs(np.diff(VALUES)).sum()
    assert covid.variation(result, DAYS, VALUES) == pytest.approx(np.abs(np.diff(curve)).sum() / data)
    assert data == pytest.approx(
        SCALE * (2 * DATA["new_cases_avg7"].max() - DATA["new_cases_avg7"].iloc[[0, -1]].sum()), rel=0.15
    )


@pytest.mark.slow
def test_every_seed_of_our_set_up_reaches_the_target():
    losses = []
    for seed in range(5):
        result = fit_neural(DAYS, VALUES, seed=seed, plan=neural_plan(170.0, finish=3000), smoothness=1e-3)
        losses.append(result.loss)
        assert covid.variation(result, DAYS, VALUES) <= 1.05
    assert max(losses) <= 1.97e-4 and min(losses) <= 1e-4
