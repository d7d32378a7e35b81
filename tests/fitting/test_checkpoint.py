"""A loaded checkpoint equals the saved one bit for bit; other files raise an error."""

import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import pyneuralode as pn
from pyneuralode.fitting import Adam
from pyneuralode.fitting.checkpoint import Checkpoint
from pyneuralode.fitting.stochastic import BatchLoss, train

STATE = {
    "now": {"weight": torch.arange(6.0).reshape(2, 3).t(), "bias": torch.tensor(0.1, dtype=torch.float64)},
    "optimizer": {0: {"step": torch.tensor(3.0), "pairs": [torch.ones(2), torch.zeros(2)], "alpha": [None, None]}},
    "history": {"losses": [0.1, 1 / 3, math.inf], "evaluations": [3, 2**40], "none": [], "mixed": [1, 0.5]},
    "arrays": [{"k": np.float32([1.5, 2.5])}],
    "plain": [True, None, "text", -math.inf],
}


def same(ours, theirs):
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, (torch.Tensor, np.ndarray)):
        equal = torch.equal if isinstance(theirs, torch.Tensor) else np.array_equal
        return ours.dtype == theirs.dtype and equal(ours, theirs)
    return type(ours) is type(theirs) and ours == theirs


def test_a_nested_state_comes_back_as_it_was(tmp_path):
    store = Checkpoint(tmp_path / "fit", {"data": "1"}, 10)
    assert not store.exists()
    store.save({"now": {}})
    store.save(STATE)
    assert store.exists() and [path.name for path in tmp_path.iterdir()] == ["fit"]
    assert same(store.load(), STATE)


def test_a_file_that_is_not_of_this_fit_is_refused(tmp_path):
    path = tmp_path / "fit"
    Checkpoint(path, {"data": "1"}, 10).save(STATE)
    for identity in ({"data": "2"}, {}, {"data": "1", "plan": "another"}):
        with pytest.raises(
            pn.ArgumentError, match="(data|plan) differs from the one saved in .*remove the file to start over"
        ):
            Checkpoint(path, identity, 10).load()
    with safe_open(str(path), "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del tensors["now/bias"]
    save_file(tensors, str(path), header)
    with pytest.raises(pn.ModelFileError, match="is damaged .now/bias is missing.: remove it"):
        Checkpoint(path, {"data": "1"}, 10).load()
    save_file(tensors, str(path))
    with pytest.raises(pn.ModelFileError, match="is not a checkpoint of a fit: choose another path"):
        Checkpoint(path, {"data": "1"}, 10).load()
    with pytest.raises(pn.ArgumentError, match="but its folder does not exist: create it first"):
        Checkpoint(tmp_path / "nowhere" / "fit", {}, 10)


def test_a_fit_over_time_does_not_resume_from_a_training(tmp_path):
    store = {"checkpoint": tmp_path / "fit", "resume": True}
    module = torch.nn.Linear(1, 1)

    def compute(update):
        loss = module(torch.ones(1, 1)).square().mean()
        return BatchLoss(loss, loss)

    assert train(module, compute, updates=2, optimizer=Adam(), **store).finished
    model = pn.NeuralODE(pn.Linear(((-1.0,),)), engine="torch")
    with pytest.raises(pn.ArgumentError, match="kind of fit differs"):
        pn.fit(model, [0.0, 1.0], [1.0, 0.5], y0=[1.0], **store)
    more = train(module, compute, updates=3, optimizer=Adam(), **store)
    assert more.finished and len(more.losses) == 3


def test_a_plan_that_is_through_is_not_run_again(tmp_path):
    store = {"checkpoint": tmp_path / "fit", "y0": [1.0], "plan": pn.Stage(Adam(), 3)}
    ts, data, calls = [0.0, 1.0, 2.0], [1.0, 0.5, 0.2], []
    model = pn.NeuralODE(pn.Linear(((-1.0,),)), engine="torch")
    whole = pn.fit(model, ts, data, **store)
    again = pn.fit(model, ts, data, **store, resume=True, callback=lambda *arguments: calls.append(arguments))
    assert not calls and again.finished and again.loss == whole.loss
    np.testing.assert_array_equal(again.losses, whole.losses)
