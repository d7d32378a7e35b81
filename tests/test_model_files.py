"""Model files: `pyneuralode.load` reads every kind of model, and imports only the code for that kind."""

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import pyneuralode as pn
from pyneuralode.images.training.specs import ClassifierSpec
from pyneuralode.model_files import KINDS, read_model_file, write_model_file


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_has_a_reader(kind):
    module, name = KINDS[kind].rsplit(".", 1)
    assert callable(getattr(importlib.import_module(f"pyneuralode.{module}"), name).from_saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_planar_flow_comes_back(tmp_path, dtype):
    path = tmp_path / "flow.safetensors"
    flow = pn.PlanarFlow(2, 3, seed=4, dtype=dtype)
    flow.save(path)
    loaded = pn.load(path)
    assert type(loaded) is pn.PlanarFlow and (loaded.dim, loaded.depth, loaded.dtype) == (2, 3, dtype)
    assert torch.equal(loaded.sample(5), flow.sample(5))


def test_reading_a_net_imports_no_application(tmp_path):
    path = tmp_path / "model.safetensors"
    pn.NeuralODE(pn.MLP((2, 3, 2))).save(path)
    code = f"""import sys, pyneuralode as pn
pn.load({str(path)!r})
print([name for name in sys.modules if name.startswith(("pyneuralode.flows", "pyneuralode.images"))])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_unknown_kind_is_refused_by_name(tmp_path):
    path = tmp_path / "model.safetensors"
    for kind in ("OwnODE", None, [1]):
        save_file({}, str(path), {"pyneuralode": json.dumps({"format": 1, "model": kind})})
        with pytest.raises(pn.ModelFileError, match="which is unknown: the known kinds are NeuralODE"):
            pn.load(path)


@pytest.mark.parametrize(
    "model",
    [pn.NeuralODE(pn.MLP((2, 3, 2))), pn.ContinuousFlow(pn.ConcatMLP((2, 3, 2))), pn.PlanarFlow(2, 3)],
    ids=lambda model: type(model).__name__,
)
def test_a_damaged_description_is_refused(tmp_path, model):
    path = tmp_path / "model.safetensors"
    model.save(path)
    arrays, description = read_model_file(path)
    kind = description.pop("model")
    description.popitem()
    write_model_file(path, kind, description, dict(list(arrays.items())[1:]))
    with pytest.raises(pn.ModelFileError, match="has a damaged description|cannot be loaded: parameters"):
        pn.load(path)


def test_arrays_of_another_classifier_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    spec = ClassifierSpec("anodev2", {"net": "resnet4", "variant": "baseline"})
    write_model_file(path, "image classifier", {"family": "anodev2", "options": spec.options}, {"a": np.zeros(2)})
    with pytest.raises(pn.ModelFileError, match="has a damaged description"):
        pn.load(path)


@pytest.mark.parametrize("model", [pn.PlanarFlow(2, 3), pn.NeuralODE(pn.MLP((2, 3, 2)))], ids=["planar", "net"])
def test_a_folder_that_is_not_there_is_refused(tmp_path, model):
    with pytest.raises(pn.ArgumentError, match="whose folder does not exist: create it first"):
        model.save(tmp_path / "absent" / "model.safetensors")


class Renamed(pn.NeuralODE):
    """A user-defined model."""


def test_only_what_can_be_loaded_is_saved(tmp_path):
    with pytest.raises(pn.ArgumentError, match="the model is of kind 'Renamed', which `load` does not support"):
        Renamed(pn.MLP((2, 4, 2))).save(tmp_path / "model")
    with pytest.raises(pn.ArgumentError, match="a folder: give the name of a file"):
        pn.NeuralODE(pn.MLP((2, 4, 2))).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_field_of_a_class_that_was_defined_again_is_not_saved(tmp_path):
    def define(rate):
        @dataclass(frozen=True)
        class Defined(pn.VectorField):
            dim = 1

            def slope(self, t, y, parameters):
                return -rate * y

        return Defined()

    old = pn.NeuralODE(define(1.0))
    define(2.0)
    with pytest.raises(pn.ArgumentError, match="create the field from the current class"):
        old.save(tmp_path / "model")


def test_a_file_is_called_damaged_only_if_it_is(tmp_path):
    path = tmp_path / "flow.safetensors"
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2) * 2), 1)
    pn.ContinuousFlow(pn.MLP((2, 4, 2)), base=base).save(path)
    with pytest.raises(pn.ModelFileError) as refused:
        pn.load(path, base=3)
    assert "base is" in str(refused.value) and "damaged description" not in str(refused.value)
    with pytest.raises(pn.ModelFileError, match="is a folder"):
        pn.load(tmp_path)
    with pytest.raises(pn.ArgumentError, match="path is None"):
        pn.load(None)
