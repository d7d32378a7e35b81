"""User-defined `VectorField` classes can be solved, saved and loaded; invalid ones raise an error."""

import importlib
import json
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

import pyneuralode as pn
from pyneuralode.fields import from_description, registered_fields

Y0, TIMES = np.array([1.0, 0.5]), np.linspace(0, 2, 5)


@dataclass(frozen=True)
class ForcedPendulum(pn.VectorField):
    """A pendulum driven by a sum of frequencies, written as a user-defined field."""

    frequencies: tuple[float, ...] = (1.0,)
    damping: float = 0.3
    dim = 2

    def shapes(self):
        return {"damping": (), "push": (len(self.frequencies),)}

    def initial(self, seed=0):
        return {
            "damping": np.array(self.damping),
            "push": np.random.default_rng(seed).normal(size=len(self.frequencies)),
        }

    def slope(self, t, y, parameters):
        angle, speed = y.unbind(-1)
        push = sum(p * torch.sin(f * t) for f, p in zip(self.frequencies, parameters["push"]))
        return torch.stack([speed, push - torch.sin(angle) - parameters["damping"] * speed], dim=-1)


OWN = ForcedPendulum((1.0, 2.5), 0.2)
# The same field as formulas, which pyneuralode compiles.
SAME = pn.Equations(
    {"angle": "speed", "speed": "a*sin(1.0*t) + b*sin(2.5*t) - sin(angle) - damping*speed"},
    {"damping": 0.2, "a": OWN.initial()["push"][0], "b": OWN.initial()["push"][1]},
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P", "rk4"])
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_a_users_field_is_solved_as_the_same_formulas_are(solver, batch, dtype):
    control = {"step_size": 0.01} if solver == "rk4" else {"rtol": 1e-5, "atol": 1e-5}
    control |= {"engine": "torch", "compiled": False}
    y0 = np.array([Y0, -Y0, 2 * Y0], dtype)
    found, expected = (pn.solve(field, y0, TIMES, solver=solver, batch=batch, **control).ys for field in (OWN, SAME))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "gradient", ["Backprop", "Checkpointed", "BacksolveAdjoint", "InterpolatingAdjoint", "ForwardMode"]
)
def test_gradients_of_a_users_field_are_those_of_the_same_formulas(gradient):
    found = []
    for field in (OWN, SAME):
        values = {name: torch.tensor(value, requires_grad=True) for name, value in field.initial().items()}
        y0, ts = torch.tensor(Y0, requires_grad=True), torch.tensor(TIMES, requires_grad=True)
        settings = {"gradient": gradient, "engine": "torch", "compiled": False, "rtol": 1e-9, "atol": 1e-9}
        pn.solve(field, y0, ts, parameters=values, **settings).ys.square().sum().backward()
        found.append(torch.cat([y0.grad, ts.grad, *(value.grad.reshape(-1) for value in values.values())]))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


def test_a_users_field_makes_a_flow():
    flow = pn.ContinuousFlow(OWN, engine="torch", dtype=torch.float64, rtol=1e-9, atol=1e-9)
    same = pn.ContinuousFlow(SAME, engine="torch", dtype=torch.float64, rtol=1e-9, atol=1e-9)
    x = torch.tensor(np.array([Y0, -Y0]))
    torch.testing.assert_close(flow.log_prob(x), same.log_prob(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("model", [pn.NeuralODE, lambda *a, **k: pn.AugmentedNeuralODE(*a, augment_dim=1, **k)])
def test_a_users_field_is_saved_and_loaded(tmp_path, model):
    model = model(OWN, seed=3, engine="torch")
    model.save(tmp_path / "model.safetensors")
    loaded = pn.load(tmp_path / "model.safetensors")
    assert loaded.field == OWN and hash(loaded.field) == hash(OWN) and type(loaded.field) is ForcedPendulum
    loaded.engine = "torch"
    y0 = Y0[: OWN.dim - getattr(model, "augment_dim", 0)]
    np.testing.assert_array_equal(loaded(y0, TIMES), model(y0, TIMES))


def test_a_users_flow_is_saved_and_loaded(tmp_path):
    flow = pn.ContinuousFlow(OWN, engine="torch")
    flow.save(tmp_path / "flow.safetensors")
    assert pn.load(tmp_path / "flow.safetensors").field == OWN


MODULE = """
from dataclasses import dataclass
import pyneuralode as pn

@dataclass(frozen=True)
class {name}(pn.VectorField):
    rate: float = 1.0
    dim = 1

    def slope(self, t, y, parameters):
        return -self.rate * y
"""


@pytest.fixture
def make_module(tmp_path, monkeypatch):
    """Return a function that writes and imports a module with a field; the field is unregistered after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    registry = importlib.import_module("pyneuralode.fields.base")._REGISTRY
    monkeypatch.setattr(sys.modules["pyneuralode.fields.base"], "_REGISTRY", dict(registry))

    def make(module, name):
        (tmp_path / f"{module}.py").write_text(MODULE.format(name=name))
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module, raising=False)
        return getattr(importlib.import_module(module), name)

    yield make
    for module in ("users_one", "users_two"):
        sys.modules.pop(module, None)


def test_a_file_whose_field_no_module_defines_is_refused_by_name(tmp_path, make_module, monkeypatch):
    field = make_module("users_one", "GatedMLQ")()
    path, flow = tmp_path / "model.safetensors", tmp_path / "flow.safetensors"
    pn.NeuralODE(field, engine="torch").save(path)
    pn.ContinuousFlow(field, engine="torch").save(flow)
    base = sys.modules["pyneuralode.fields.base"]
    monkeypatch.setattr(base, "_REGISTRY", {k: v for k, v in base._REGISTRY.items() if k != "GatedMLQ"})
    words = r"the class of the field is GatedMLQ, which no imported module defines \(the most similar known name is GatedMLP\): import the mod"
    for read, file in ((pn.load, path), (pn.load, flow)):
        with pytest.raises(pn.ModelFileError, match=words):
            read(file)
    make_module("users_one", "GatedMLQ")
    assert pn.load(path).field.rate == 1.0
    with pytest.raises(
        pn.ModelFileError, match=r"Zzz, which no imported module defines \(known names are MLP, |\(known names are "
    ):
        from_description({"kind": "Zzz"})


def test_a_class_defined_again_replaces_the_first_and_another_of_its_name_is_refused(make_module):
    first = make_module("users_one", "Decaying")
    second = make_module("users_one", "Decaying")
    assert first is not second and registered_fields()["Decaying"] is second
    assert type(from_description({"kind": "Decaying", "rate": 2.0})) is second
    with pytest.raises(
        pn.ArgumentError, match=r"users_two defines a vector field Decaying, .* name of users_one.Decaying"
    ):
        make_module("users_two", "Decaying")
    assert registered_fields()["Decaying"] is second
    with pytest.raises(
        pn.ArgumentError, match="vector field MLP, but that is already the name of pyneuralode.fields.networks.MLP"
    ):
        make_module("users_two", "MLP")


def test_abstract_bases_are_not_registered():
    class Abstract(pn.VectorField, abstract=True):
        def slope(self, t, y, parameters):
            return -y

    @dataclass(frozen=True)
    class OfAnyDimension(Abstract):
        dim: int

    assert "Abstract" not in registered_fields() and "Network" not in registered_fields()
    assert from_description(OfAnyDimension(3).describe()) == OfAnyDimension(3)
    assert pn.solve(OfAnyDimension(3), np.ones(3), [0.0, 1.0], engine="torch").ys[-1] == pytest.approx(
        np.exp(-1), rel=1e-4
    )


def test_classes_that_cannot_work_are_refused_in_one_sentence():
    with pytest.raises(pn.ArgumentError, match="Shapeless does not define its dimension"):

        class Shapeless(pn.VectorField):
            pass

    with pytest.raises(
        pn.ArgumentError, match="Bent defines slope, but engines solve MLP fields with built-in code: derive"
    ):

        class Bent(pn.MLP):
            def slope(self, t, y, parameters):
                return -y

    class Slopeless(pn.VectorField):
        dim = 1

    with pytest.raises(pn.ArgumentError, match="Slopeless has no slope: define the method slope"):
        pn.solve(Slopeless(), [1.0], [0.0, 1.0], engine="torch")
    with pytest.raises(pn.ArgumentError, match="Slopeless is not a dataclass: write @dataclass"):
        Slopeless().describe()


def test_slopes_of_a_users_field_are_checked():
    @dataclass(frozen=True)
    class Flat(pn.VectorField):
        dim = 2

        def slope(self, t, y, parameters):
            return y[..., :1]

    with pytest.raises(pn.ArgumentError, match=r"Flat returned shape \(1,\) for a state of shape \(2,\)"):
        pn.solve(Flat(), [1.0, 2.0], [0.0, 1.0], engine="torch")


def test_a_description_with_an_unknown_argument_is_a_damaged_file(tmp_path):
    path = tmp_path / "model.safetensors"
    pn.NeuralODE(OWN, engine="torch").save(path)
    with safe_open(str(path), "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description = json.loads(file.metadata()["pyneuralode"])
    description["field"]["mass"] = 1.0
    save_file(arrays, str(path), {"pyneuralode": json.dumps(description)})
    with pytest.raises(
        pn.ModelFileError, match="ForcedPendulum has no argument 'mass': its arguments are damping, frequencies"
    ):
        pn.load(path)
