"""Run the examples in docstrings and CONTRIBUTING.md as a reader would; every public object must have an example."""

import doctest
import importlib
import inspect
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines import registry
from pyneuralode.engines.backend import Prepared
from pyneuralode.fields import registered_fields
from pyneuralode.gradients import GRADIENTS

ROOT = Path(pn.__file__).parent


def modules_with_examples():
    for path in sorted(ROOT.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            name = ".".join(("pyneuralode", *path.relative_to(ROOT).with_suffix("").parts))
            yield importlib.import_module(name.removesuffix(".__init__"))


EXAMPLES = [
    example
    for module in modules_with_examples()
    for example in doctest.DocTestFinder(exclude_empty=True).find(module)
    if example.examples
]
USED = [
    pn.solve,
    pn.load,
    pn.NeuralODE,
    pn.AugmentedNeuralODE,
    pn.Control,
    pn.Event,
    pn.Solution,
    pn.VectorField,
    Prepared.solve,
    *GRADIENTS.values(),
    *(kind for name, kind in registered_fields().items() if getattr(pn, name, None) is kind),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name.removeprefix("pyneuralode."))
def test_the_example_in_a_docstring_runs(example, tmp_path, monkeypatch):
    monkeypatch.setenv("PYNEURALODE_ENGINE", "torch")
    monkeypatch.chdir(tmp_path)
    example.globs = {"__name__": "example"}  # without the names of the module, which a reader would not have
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("used", USED, ids=lambda used: used.__qualname__)
def test_what_a_user_calls_has_an_example(used):
    assert ">>> " in inspect.getdoc(used)


@pytest.mark.skipif(not (ROOT.parent / ".git").exists(), reason="needs a checkout")
def test_the_diffs_of_contributing_apply():
    text = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for diff in re.findall(r"```diff\n(.*?)```", text, re.DOTALL):
        subprocess.run(["git", "apply", "--check", "-"], input=diff, text=True, cwd=ROOT.parent, check=True)


def test_the_backend_of_contributing_solves_exactly(monkeypatch):
    monkeypatch.setattr(registry, "_BACKENDS", dict(registry._BACKENDS))
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL
    )
    names = {"__name__": "example"}
    exec(code, names)  # noqa: S102
    y0, ts = torch.tensor([1.0, 0.0], requires_grad=True), torch.linspace(0, 2, 5)
    for start in (y0, y0.detach().numpy()):
        found, expected = (pn.solve(names["rotation"], start, ts, engine=engine) for engine in ("exact", "torch"))
        assert found.engine == "exact" and type(found.ys) is type(expected.ys)
        torch.testing.assert_close(torch.as_tensor(found.ys), torch.as_tensor(expected.ys), rtol=1e-4, atol=1e-4)
    for field, state, more in (
        (pn.SEIR(), np.ones(4), {}),
        (names["rotation"], np.ones((3, 2)), {}),
        (names["rotation"], np.ones(2), {"dense": True}),
    ):
        with pytest.raises(pn.ArgumentError, match="engine 'exact' .* write engine='torch'"):
            pn.solve(field, state, [0.0, 1.0], engine="exact", **more)
