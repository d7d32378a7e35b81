"""Values that are not real numbers raise an error wherever numbers are expected; they are never silently converted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import pyneuralode as pn
from pyneuralode.fitting.checkpoint import Checkpoint
from pyneuralode.fitting.objective import Objective
from pyneuralode.flows.planar import PlanarFlow
from pyneuralode.images.training import Augmentation, ClassifierRecipe

ROTATION = pn.Linear(((0.0, 1.0), (-1.0, 0.0)))
TS, DATA, SQUARE = [0.0, 1.0, 2.0], [[1.0, 0.0], [0.5, 0.4], [-0.4, 0.9]], [[0.0, 1.0], [-1.0, 0.5]]


def fit(ts=TS, data=DATA, y0=(1.0, 0.2), model=None, plan=pn.Stage(pn.Adam(), 1), **settings):
    return pn.fit(model or pn.NeuralODE(ROTATION, engine="torch"), ts, data, y0=y0, plan=plan, **settings)


def flow(**settings):
    return pn.ContinuousFlow(pn.MLP((2, 3, 2)), engine="torch", **settings)


def solve(y0=None, ts=TS, **settings):
    return pn.solve(ROTATION, [1.0, 0.2] if y0 is None else y0, ts, engine="torch", **settings)


# Name of the argument in the message, valid values, and a call that accepts them.
ARRAYS = {
    "data": (DATA, lambda v: fit(data=v)),
    "ts": (TS, lambda v: fit(ts=v)),
    "weights": ([1.0, 2.0, 0.5], lambda v: fit(weights=v)),
    "y0": ([1.0, 0.2], lambda v: fit(y0=v)),
    "an extra": (0.7, lambda v: fit(extra={"an extra": v}, penalty=lambda ts, ys, p: p["an extra"].sum())),
    "the state of a solve": ([1.0, 0.2], lambda v: solve(y0=v)),
    "the times of a solve": (TS, lambda v: solve(ts=v)),
    "parameters": (SQUARE, lambda v: solve(parameters={"A": v})),
    "rtol": ([1e-3, 1e-4], lambda v: solve(rtol=v)),
    "times of dense output": ([0.5, 1.0], lambda v: solve(dense=True)(v)),
    "set_arrays": (SQUARE, lambda v: pn.NeuralODE(ROTATION).set_arrays({"A": v})),
    "matrix": (SQUARE, lambda v: pn.Linear(v)),
    "log_prob": (SQUARE, lambda v: flow().log_prob(v)),
    "transform": (SQUARE, lambda v: flow().transform(v)),
    "times of transform": ([0.0, 0.5, 1.0], lambda v: flow().transform([[0.0, 1.0]], times=v)),
    "data of a flow": ([[0.0, 1.0], [-1.0, 0.5], [1.0, 0.5]], lambda v: flow().fit(v, updates=1)),
    "points of a sampler": (
        np.full((512, 2), 0.7),
        lambda v: flow().fit(sampler=lambda n, rng: v, updates=1, log_density=None),
    ),
    "planar log_prob": (SQUARE, lambda v: PlanarFlow(2, 2).log_prob(v)),
    "check_gradient": (
        [1.0, 0.2],
        lambda v: pn.NeuralODE(ROTATION, engine="torch").check_gradient(v, TS, methods=["Backprop"], directions=1),
    ),
}
KINDS = {
    "complex": lambda v: v * (1 + 1j),
    "boolean": lambda v: v > 0.3,
    "text": lambda v: v.astype(str),
    "bytes": lambda v: v.astype("S"),
    "dates": lambda v: v.astype("datetime64[D]"),
    "durations": lambda v: v.astype("timedelta64[D]"),
    "objects": lambda v: v.astype(object),
    "hidden": lambda v: np.ma.masked_array(v, mask=np.arange(v.size).reshape(v.shape) == 0),
    "a table with dates": lambda v: pd.DataFrame({"day": pd.to_datetime(["2020-01-01"]), "value": [1.0]}),
    "complex tensor": lambda v: torch.as_tensor(v) * (1 + 1j),
    "boolean tensor": lambda v: torch.as_tensor(v) > 0.3,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_anything_but_real_numbers_is_refused(name):
    good, call = ARRAYS[name]
    call(np.array(good))
    accepted = []
    for kind, turn in KINDS.items():
        try:
            call(turn(np.array(good)))
            accepted.append(kind)
        except pn.ArgumentError as error:
            assert "\n" not in str(error) and str(error).endswith(".") and ": " in str(error)
    assert not accepted


COUNTS = {
    "iterations": lambda v: pn.Stage(pn.Adam(), v),
    "iterations of spans": lambda v: pn.GrowingSpan([1.0, 2.0], pn.Adam(), v).stages(),
    "history": lambda v: pn.LBFGS(history=v),
    "patience": lambda v: pn.LBFGS(patience=v),
    "observed": lambda v: Objective(TS, np.array(DATA)[:, 0], observed=[v]),
    "checkpoint_every": lambda v: Checkpoint(Path("fit"), {}, v),
    "sizes": lambda v: pn.MLP((2, v, 2)),
    "width": lambda v: pn.HyperMLP(2, v, 2),
    "augment_dim": lambda v: pn.AugmentedNeuralODE(pn.MLP((5, 3, 5)), augment_dim=v),
    "max_steps": lambda v: pn.NeuralODE(ROTATION, max_steps=v),
    "every": lambda v: pn.Checkpointed(v),
    "component": lambda v: pn.fitting.TotalVariation(1.0, component=v),
    "n": lambda v: flow().sample(v),
    "updates": lambda v: flow().fit(np.eye(3)[:, :2], updates=v),
    "batch": lambda v: flow().fit(np.eye(3)[:, :2], updates=1, batch=v),
    "dim": lambda v: pn.ContinuousFlow(lambda t, z: -z, dim=v),
    "depth": lambda v: PlanarFlow(2, v),
    "epochs": lambda v: ClassifierRecipe(v, 2),
    "crop": lambda v: Augmentation(v),
    "steps": lambda v: pn.ODEBlock(pn.MLP((2, 3, 2)), steps=v, solver="Euler"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_of_anything_but_a_whole_number_is_refused(name):
    call = COUNTS[name]
    call(3)
    call(np.int64(3))
    accepted = []
    for value in (True, np.bool_(True), "3", b"ab", 2.5, float("nan"), float("inf"), 2 + 0j, -3, [3.5]):
        try:
            call(value)
            accepted.append(value)
        except pn.ArgumentError as error:
            assert "\n" not in str(error) and str(error).endswith(".") and ": " in str(error)
    assert not accepted


NUMBERS = {
    "end": lambda v: pn.Stage(end=v),
    "goal": lambda v: pn.Stage(goal=v),
    "ends": lambda v: pn.GrowingSpan([v, 5.0]).stages(),
    "lr": lambda v: pn.Adam(v),
    "eps": lambda v: pn.RMSprop(eps=v),
    "betas": lambda v: pn.Adam(betas=(v, 0.9)),
    "momentum": lambda v: pn.SGD(momentum=v),
    "tolerance": lambda v: pn.LBFGS(tolerance=v),
    "bounds": lambda v: fit(bounds={"A": (-5.0, 2 + v)} if isinstance(v, float) and v < 1 else {"A": (-5.0, v)}),
    "t0": lambda v: fit(t0=v - 0.5 if isinstance(v, float) else v),
    "input_scale": lambda v: pn.MLP((2, 3, 2), input_scale=v),
    "gamma": lambda v: pn.SEIR(v),
    "parameters": lambda v: pn.Equations({"x": "-k*x"}, parameters={"k": v}),
    "step_size": lambda v: pn.NeuralODE(ROTATION, step_size=v),
    "weight": lambda v: pn.fitting.TotalVariation(v),
    "kinetic": lambda v: flow().fit(np.eye(3)[:, :2], updates=1, kinetic=v),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_setting_of_anything_but_a_finite_number_is_refused(name):
    NUMBERS[name](0.5)
    accepted = []
    for value in (True, "0.5", b"ab", float("nan"), 2 + 0j, [0.5, "a"]):
        try:
            NUMBERS[name](value)
            accepted.append(value)
        except pn.ArgumentError as error:
            assert "\n" not in str(error) and str(error).endswith(".")
    assert not accepted


def test_parameters_that_are_not_finite_or_not_real_stay_out_of_a_model():
    model = pn.NeuralODE(pn.MLP((2, 3, 2)))
    before = model.arrays()
    for value in (np.nan, np.inf):
        wrong = {name: array.copy() for name, array in before.items()}
        wrong["bias_2"][1] = value
        with pytest.raises(pn.ArgumentError, match="bias_2 contains a non-finite number"):
            model.set_arrays(wrong | {"weight_1": before["weight_1"] + 1})
        np.testing.assert_array_equal(model.arrays()["weight_1"], before["weight_1"])  # all or nothing
    for dtype in (torch.complex64, torch.int32):
        with pytest.raises(pn.ArgumentError, match="dtype is torch"):
            pn.NeuralODE(ROTATION, dtype=dtype)

    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.k = nn.Parameter(torch.tensor(0.1 + 0.3j))

        def forward(self, t, y):
            return -self.k.abs() * y

    with pytest.raises(pn.ArgumentError, match="k has dtype torch.complex64"):
        fit(data=[1.0, 0.5, 0.2], y0=[1.0], model=pn.NeuralODE(Turning(), engine="torch"))


def test_a_mask_of_other_values_is_refused_and_components_are_no_mask():
    for mask in ([0.5, 1.0, 0.0], [np.nan, 1.0, 1.0], [2, 1, 0], ["a", "b", "c"]):
        with pytest.raises(pn.ArgumentError, match="mask contains values other than True and False"):
            fit(mask=mask)
    assert fit(mask=[1, 0, 1]).loss == fit(mask=[True, False, True]).loss
    with pytest.raises(pn.ArgumentError, match="give component indices, counted from 0"):
        fit(observed=[True, False])


def test_an_infinite_bound_is_an_open_one():
    plan = pn.Stage(pn.LBFGS(), 5)
    infinite, none = (fit(plan=plan, bounds={"A": (-5.0, end)}) for end in (np.inf, None))
    assert np.isfinite(infinite.loss) and infinite.loss == none.loss


def test_numbers_of_all_kinds_are_read_as_what_they_are():
    from pyneuralode.arguments import real_array, real_number, real_tensor, whole_number

    for value in (3, 3.0, np.float32(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3.0)):
        assert whole_number("n", value) == 3 and type(whole_number("n", value)) is int
        assert real_number("x", value) == 3.0 and type(real_number("x", value)) is float
    with pytest.raises(pn.ArgumentError, match="n is 1000"):
        whole_number("n", 10**400)
    for value in ([1, 2], np.float16([1, 2]), np.array([1.0, 2.0], ">f8"), np.longdouble([1, 2]), pd.Series([1, 2])):
        array = real_array("x", value)
        assert array.dtype == np.float64 and array.tolist() == [1, 2]
        assert real_tensor("x", value).tolist() == [1, 2]
    own = np.ones(2, np.float32)
    tensor = real_tensor("x", own)
    own += 1
    assert tensor.dtype == torch.float32 and tensor.tolist() == [1, 1]
    assert real_tensor("x", torch.ones(2, dtype=torch.int64), dtype=torch.float64).dtype == torch.float64
    assert real_array("x", np.ma.masked_array([1.0, 2.0], mask=[False, False])).tolist() == [1, 2]


def test_a_checkpoint_whose_tensors_have_other_shapes_is_refused(tmp_path):
    path = tmp_path / "fit"
    plan = pn.Stage(pn.Adam(), 5)
    fit(plan=plan, checkpoint=path, checkpoint_every=2)
    with safe_open(str(path), "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {"now/A", "best/A", "optimizer/0/exp_avg"} <= set(tensors)
    for name in ("now/A", "best/A", "optimizer/0/exp_avg"):
        save_file(tensors | {name: tensors[name][:1].clone()}, str(path), header)
        with pytest.raises(pn.ModelFileError, match=r"is damaged .*has shape \(1, 2\), not \(2, 2\)"):
            fit(plan=plan, checkpoint=path, resume=True)


def test_a_flows_checkpoint_whose_tensors_have_other_shapes_is_refused(tmp_path):
    path = tmp_path / "fit"
    settings = {"data": np.eye(3)[:, :2], "checkpoint": path}
    flow().fit(updates=2, **settings)
    with safe_open(str(path), "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    damaged = [name for name in tensors if name.endswith("weights.weight_1")] + ["optimizer/0/exp_avg"]
    assert len(damaged) == 3
    for name in damaged:
        save_file(tensors | {name: tensors[name][:1].clone()}, str(path), header)
        with pytest.raises(pn.ModelFileError, match=r"is damaged .*has shape \(1, 2\), not \(3, 2\)"):
            flow().fit(updates=3, resume=True, **settings)
