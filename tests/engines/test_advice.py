"""The advice in error messages is correct: an engine that is named supports the problem; if none does, each message
says what to change."""

import re
from itertools import product

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.julia_engine.backend import JULIA
from pyneuralode.engines.registry import Settings, choose
from pyneuralode.engines.torch_engine.paths import TORCH
from pyneuralode.gradients import GRADIENTS, find_gradient
from pyneuralode.problem import make_control
from pyneuralode.solvers import SOLVERS, find_solver

BACKENDS = {"torch": TORCH, "julia": JULIA}
FIELDS = {
    "network": pn.MLP((2, 4, 2)),
    "formulas": pn.Equations({"x": "v", "v": "-k*x"}, parameters={"k": 1.0}),
    "module": type("Decay", (torch.nn.Module,), {"forward": lambda self, t, y: -y})(),
    "callable": lambda t, y: -y,
}
EVENT = pn.Event(lambda t, y: y.sum() - 100.0)
EXTRAS = {
    "plain": {},
    "events": {"events": (EVENT,)},
    "tstops": {"control": make_control({"tstops": (0.5,)})},
    "dense": {"dense": True},
    "independent": {"batch": "independent"},
    "independent with events": {"batch": "independent", "events": (EVENT,)},
}


@pytest.fixture(autouse=True)
def julia_may_be_named(monkeypatch):
    """Choose engines as if Julia were installed; nothing is solved."""
    monkeypatch.setattr("pyneuralode.engines.registry.choose_engine", lambda name: "julia" if name == "auto" else name)


def problems():
    for (kind, field), extra, solver, gradient in product(FIELDS.items(), EXTRAS, SOLVERS, GRADIENTS):
        y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
        parameters = field.initial() if isinstance(field, pn.VectorField) else {}
        values = {"control": make_control({})} | EXTRAS[extra]
        asked = Settings(field, find_solver(solver), find_gradient(gradient), **values)
        try:
            yield (kind, extra, solver, gradient), asked.problem(parameters, y0, [0.0, 1.0])
        except pn.ArgumentError as refused:  # a combination that is rejected before an engine is chosen
            assert "engine" not in str(refused)


def test_advice_names_an_engine_only_if_that_engine_takes_the_problem():
    refused = 0
    for case, problem in problems():
        for name, backend in BACKENDS.items():
            if backend.unsupported(problem) is None:
                continue
            refused += 1
            with pytest.raises(pn.ArgumentError) as error:
                choose(problem, name)
            sentence = str(error.value)
            others = [other for other in BACKENDS if other != name and BACKENDS[other].unsupported(problem) is None]
            assert re.findall(r"write engine='(\w+)'", sentence) == others, (case, sentence)
            if not others:
                assert "no engine supports this problem as it is" in sentence, (case, sentence)
                # Every engine's reason says what to change.
                reasons = re.split(r"torch: |julia: ", sentence.split("(", 1)[1])[1:]
                assert len(reasons) == 2 and all(": " in reason for reason in reasons), (case, sentence)
                with pytest.raises(pn.ArgumentError, match="no engine supports"):
                    choose(problem, "auto")
            else:
                assert choose(problem, "auto").name in others
    assert refused > 500


def test_equations_with_one_engine_are_not_sent_to_another():
    with pytest.raises(pn.ArgumentError, match="tstops are given.*: leave them out") as refused:
        pn.solve_sde(lambda t, y: -y, lambda t, y: y, np.ones(2), [0.0, 1.0], tstops=[0.5])
    assert "engine=" not in str(refused.value)
    with pytest.raises(pn.ArgumentError, match=r"write y0.numpy\(\)") as refused:
        pn.solve_sde(lambda t, y: -y, lambda t, y: y, torch.ones(2), [0.0, 1.0])
    assert "engine=" not in str(refused.value)
    with pytest.raises(pn.ArgumentError, match=r"mass_matrix has shape \(3, 3\), but y0 has 2 components"):
        pn.solve_dae(lambda t, y: -y, torch.ones(2), [0.0, 1.0], mass_matrix=np.eye(3))
    with pytest.raises(pn.ArgumentError, match="as in lambda t, y, dy: "):
        pn.solve_dae(lambda t, y: -y, np.ones(2), [0.0, 1.0], dy0=np.zeros(2))
