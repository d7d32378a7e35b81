"""The examples of docstrings run as a reader would run them, and what a user calls has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import pyneuralode as pn
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
    example.globs = {"__name__": "example"}  # a reader does not have the names of the module
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("used", USED, ids=lambda used: used.__qualname__)
def test_what_a_user_calls_has_an_example(used):
    assert ">>> " in inspect.getdoc(used)
