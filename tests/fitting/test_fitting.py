"""Fits recover known parameters, return the best ones found, can be interrupted, and resume to the same result."""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.fitting import TotalVariation, optimizers, stochastic
from pyneuralode.fitting.variables import Variables

TS = np.linspace(0, 3, 16)
MATRIX = ((-0.3, -1.0), (1.0, -0.2))
TRUTH = pn.solve(pn.Linear(MATRIX), [1.0, 0.0], TS, rtol=1e-10, atol=1e-10).ys


def start(**settings):
    return pn.NeuralODE(pn.Linear(((0.0, -0.5), (0.5, 0.0))), rtol=1e-8, atol=1e-8, **settings)


@pytest.mark.parametrize("gradient", ["Backprop", "Checkpointed", "BacksolveAdjoint"])
def test_lbfgs_recovers_the_matrix(gradient):
    result = pn.fit(start(gradient=gradient), TS, TRUTH, y0=[1.0, 0.0], plan=pn.Stage(pn.LBFGS(), 60))
    np.testing.assert_allclose(result.parameters["A"], MATRIX, atol=1e-4)
    assert result.finished and result.loss < 1e-8
    np.testing.assert_array_equal(result.model.arrays()["A"], result.parameters["A"])


@pytest.mark.parametrize(
    "optimizer", [pn.Adam(0.05), pn.AdamW(0.05, weight_decay=0.0), pn.RMSprop(0.02), pn.SGD(0.005, momentum=0.9)]
)
def test_first_order_optimizers_lower_the_loss_and_keep_the_best(optimizer):
    result = pn.fit(start(), TS, TRUTH, y0=[1.0, 0.0], plan=pn.Stage(optimizer, 80))
    assert result.loss < 0.05 * result.losses[0]
    assert result.loss == result.losses.min() and len(result.losses) == 80


def test_observed_components_weights_masks_and_missing_values():
    data = TRUTH[:, 1].copy()
    data[3] = np.nan
    wrong = TRUTH[:, 1].copy()
    wrong[3] = 100.0
    mask = np.ones(len(TS), bool)
    mask[3] = False
    losses = [
        pn.fit(start(), TS, data, y0=[1.0, 0.0], observed=[1], mask="nan", plan=pn.Stage(pn.Adam(), 1)).loss,
        pn.fit(start(), TS, wrong, y0=[1.0, 0.0], observed=[1], mask=mask, plan=pn.Stage(pn.Adam(), 1)).loss,
        pn.fit(
            start(), TS, wrong, y0=[1.0, 0.0], observed=[1], weights=mask.astype(float), plan=pn.Stage(pn.Adam(), 1)
        ).loss,
        15
        * pn.fit(
            start(), TS, wrong, y0=[1.0, 0.0], observed=[1], mask=mask, reduction="mean", plan=pn.Stage(pn.Adam(), 1)
        ).loss,
        pn.fit(
            start(),
            TS,
            data,
            y0=[1.0, 0.0],
            observe=lambda ts, ys, p: ys[:, 1:],
            mask="nan",
            plan=pn.Stage(pn.Adam(), 1),
        ).loss,
    ]
    states = start()([1.0, 0.0], TS)
    expected = ((states[:, 1] - TRUTH[:, 1])[mask] ** 2).sum()
    np.testing.assert_allclose(losses, expected, rtol=1e-10)


def test_growing_spans_start_from_the_best_of_the_stage_before():
    plan = pn.GrowingSpan(
        [1.0, 2.0, 3.0], [pn.Adam(0.5), pn.Adam(0.05), pn.Adam(0.05)], [30, 20, 10], finish=[pn.Stage(pn.LBFGS(), 5)]
    )
    result = pn.fit(start(), TS, TRUTH, y0=[1.0, 0.0], plan=plan)
    assert [stage.end for stage in result.stages] == [1.0, 2.0, 3.0, 3.0]
    for before, after in zip(result.stages, result.stages[1:]):
        model = start()
        model.set_arrays(before.parameters)
        rows = after.end >= TS
        first = ((model([1.0, 0.0], TS[rows]) - TRUTH[rows]) ** 2).sum()
        assert after.losses[0] == pytest.approx(first, rel=1e-9)


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"weight": 1.0, "smooth": 0.0}, {"weight": 1.0, "component": -1}])
def test_a_total_variation_refuses_what_is_no_price(wrong):
    with pytest.raises(pn.ArgumentError, match=f"{list(wrong)[-1]} is {list(wrong.values())[-1]}"):
        TotalVariation(**wrong)


def test_goal_ends_a_stage_and_a_penalty_is_kept_apart():
    result = pn.fit(start(), TS, TRUTH, y0=[1.0, 0.0], plan=pn.Stage(pn.LBFGS(), 100, goal=1e-3))
    assert result.loss <= 1e-3 and len(result.losses) < 100
    penalized = pn.fit(
        start(), TS, TRUTH, y0=[1.0, 0.0], plan=pn.Stage(pn.Adam(), 1), penalty=lambda ts, ys, p: 7 + 0 * ys.sum()
    )
    assert penalized.stages[0].objectives[0] == pytest.approx(penalized.losses[0] + 7)


def test_bounds_fixed_and_extra_parameters_with_fitted_initial_state():
    truth = pn.solve(
        pn.SEIR(0.3, 2.5, 0.5), [0.98, 0.015, 0.005, 0.0], np.linspace(0, 40, 21), rtol=1e-10, atol=1e-12
    ).ys[:, 2]
    model = pn.NeuralODE(pn.SEIR(0.2, 3.0, 0.5), rtol=1e-9, atol=1e-11)

    def y0(p):
        return torch.stack([1 - p["e0"] - p["i0"], p["e0"], p["i0"], 0 * p["i0"]])

    result = pn.fit(
        model,
        np.linspace(0, 40, 21),
        truth,
        y0=y0,
        observed=[2],
        plan=pn.Stage(pn.LBFGS(), 200),
        fixed=["sigma"],
        extra={"e0": 0.01, "i0": 0.01},
        bounds={"gamma": (0, None), "R0": (1.0, 6.0), "e0": (0, 0.1), "i0": (0, 0.1)},
    )
    values = {name: float(value) for name, value in result.parameters.items()}
    assert values == pytest.approx({"gamma": 0.3, "R0": 2.5, "sigma": 0.5, "e0": 0.015, "i0": 0.005}, rel=1e-2)


def test_bounds_are_kept_and_undone():
    value = torch.tensor([0.2, 3.0], dtype=torch.float64)
    for bound in [(0.0, None), (None, 4.0), (0.0, 4.0), (None, None)]:
        variables = Variables({"k": value}, {"k": bound}, ())
        torch.testing.assert_close(variables.values()["k"], value)
        with torch.no_grad():
            variables.free["k"] += 3.0
        moved = variables.values()["k"]
        assert bool((moved != value).all())
        assert bound[0] is None or bool((moved > bound[0]).all())
        assert bound[1] is None or bool((moved < bound[1]).all())


@pytest.mark.parametrize(
    "plan",
    [
        pn.GrowingSpan([1.5, 3.0], pn.Adam(0.05, schedule="cosine", clip=1.0), 30),
        [pn.Stage(pn.RMSprop(0.01), 20), pn.Stage(pn.LBFGS(), 25)],
    ],
    ids=["adam", "lbfgs"],
)
@pytest.mark.parametrize("stop", [13, 37])
def test_interrupted_and_resumed_is_the_same_as_uninterrupted(plan, stop, tmp_path, monkeypatch):
    monkeypatch.setattr(optimizers, "MEMORY_LIFE", 9)  # so that L-BFGS restarts before and after the interruption
    whole = pn.fit(start(), TS, TRUTH, y0=[1.0, 0.0], plan=plan)
    count = 0

    def interrupt(stage, iteration, loss):
        nonlocal count
        count += 1
        if count == stop:
            raise KeyboardInterrupt

    file = tmp_path / "fit.checkpoint"
    settings = {"y0": [1.0, 0.0], "plan": plan, "checkpoint": file, "checkpoint_every": 5}
    broken = pn.fit(start(), TS, TRUTH, callback=interrupt, **settings)
    assert broken.interrupted and not broken.finished and "interrupted" in broken.message
    # A line search may have evaluated a better point than the starting points of the iterations.
    lowest = min(broken.stages[-1].losses)
    assert broken.loss <= lowest and broken.loss == pytest.approx(lowest, rel=1e-6, abs=1e-13)
    resumed = pn.fit(start(), TS, TRUTH, resume=True, **settings)
    assert resumed.finished
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    np.testing.assert_array_equal(resumed.parameters["A"], whole.parameters["A"])
    with pytest.raises(pn.ArgumentError, match="plan differs"):
        pn.fit(start(), TS, TRUTH, resume=True, **(settings | {"plan": pn.Stage()}))


def test_lbfgs_starts_anew_where_it_is_stuck_and_ends_where_that_brings_nothing(monkeypatch):
    starts = []
    make = pn.LBFGS.make
    monkeypatch.setattr(pn.LBFGS, "make", lambda self, tensors: starts.append(1) or make(self, tensors))
    # Iterations that reduce the loss by less than half count as stuck.
    stuck = pn.fit(start(), TS, TRUTH, y0=[1.0, 0.0], plan=pn.Stage(pn.LBFGS(tolerance=0.5, patience=1), 200))
    assert len(starts) > 2 and len(stuck.losses) < 200 and stuck.loss < 1e-12


def test_a_loss_gone_wrong_returns_the_best_so_far():
    plan = pn.Stage(pn.SGD(lr=1e6), 50)
    result = pn.fit(start(max_steps=2000), TS, TRUTH, y0=[1.0, 0.0], plan=plan)
    assert not result.finished and not result.interrupted and "best so far" in result.message
    assert np.isfinite(result.loss) and np.isfinite(result.model.arrays()["A"]).all()


def test_user_module_is_fitted():
    class Rate(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.k = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

        def forward(self, t, y):
            return -self.k * y

    model = pn.NeuralODE(Rate(), rtol=1e-8, atol=1e-8)
    pn.fit(model, TS, np.exp(-0.7 * TS), y0=[1.0], plan=pn.Stage(pn.LBFGS(), 30))
    assert model.field.k.item() == pytest.approx(0.7, abs=1e-5)


def test_a_line_search_that_meets_a_wall_goes_on():
    """L-BFGS backtracks from a region where the penalty is not finite, and still finds the minimum outside it."""
    walls = []

    def penalty(ts, ys, parameters):
        beyond = bool(parameters["A"].abs().max() > 1.02)
        walls.append(beyond)
        return ys.sum() * (float("nan") if beyond else 0.0)

    result = pn.fit(start(), TS, TRUTH, y0=[1.0, 0.0], plan=pn.Stage(pn.LBFGS(), 80), penalty=penalty)
    assert any(walls) and result.finished
    np.testing.assert_allclose(result.parameters["A"], MATRIX, atol=1e-3)


class Slope(torch.nn.Module):
    """A loss, 3 a + 4 b, whose gradient is (3, 4), of length 5, everywhere."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64)) for _ in range(2))

    def compute(self, update):
        loss = 3 * self.a + 4 * self.b
        return stochastic.BatchLoss(loss, loss)


@pytest.mark.parametrize("clip, length", [(None, 5.0), (20.0, 5.0), (2.0, 2.0), (0.5, 0.5)])
def test_an_updates_gradient_is_shortened_to_clip_and_keeps_its_direction(clip, length):
    module = Slope()
    stochastic.train(module, module.compute, updates=3, optimizer=pn.SGD(0.1, clip=clip))
    np.testing.assert_allclose([module.a.item(), module.b.item()], -0.3 * length * np.array([0.6, 0.8]), rtol=1e-5)
    # The same in `fit`: a gradient descent step equals the learning rate times the clipped gradient.
    moved = []
    for settings in ({}, {"clip": clip}):
        result = pn.fit(start(), TS, TRUTH, y0=[1.0, 0.0], plan=pn.Stage(pn.SGD(1e-4, **settings), 2))
        moved.append((result.parameters["A"] - start().arrays()["A"]) / 1e-4)
    whole = np.linalg.norm(moved[0])
    assert whole > 20
    expected = moved[0] if clip is None else moved[0] * min(1, clip / whole)
    np.testing.assert_allclose(moved[1], expected, rtol=1e-5)
