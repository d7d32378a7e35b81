"""The engine chosen by "auto", tested without Julia; and, if Julia is installed, that this engine can solve it."""

import re
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.julia_engine import session, sources
from pyneuralode.engines.julia_engine import solve as julia_solve
from pyneuralode.engines.registry import Settings, choose
from pyneuralode.engines.torch_engine.dynamics import build
from pyneuralode.gradients import GRADIENTS, OF_STEPS, find_gradient
from pyneuralode.problem import read_events
from pyneuralode.solvers import SOLVERS, find_solver

FIELD = pn.Linear(((-0.3, 1.0), (-1.0, -0.2)))
TIMES = [0.0, 0.5, 1.0]


@dataclass(frozen=True)
class Decay(pn.VectorField):
    """A user-defined field that only the torch engine can solve."""

    dim = 2


@build.register
def _(field: Decay, parameters):
    return lambda t, y: -y


@pytest.fixture
def ready(monkeypatch):
    """Make the choice of an engine assume that Julia is installed."""
    monkeypatch.setenv("PYNEURALODE_ENGINE", "auto")
    monkeypatch.setattr(session, "runs", lambda: True)


def chosen(field, y0, ts=TIMES, parameters=None, solver="Tsit5", gradient="Backprop", events=(), **settings):
    """Return the name of the engine that "auto" chooses."""
    parameters = field.initial() if parameters is None and isinstance(field, pn.VectorField) else parameters or {}
    asked = Settings(
        field, find_solver(solver), find_gradient(gradient), pn.Control(), events=read_events(events), **settings
    )
    return choose(asked.problem(parameters, y0, ts), "auto").name


def start(wants_gradient=True):
    return torch.ones(2, dtype=torch.float64, requires_grad=wants_gradient)


def tableaus_of_julia():
    return set(
        re.findall(r'^    Tableau\("(\w+)"', (sources.folder() / "src" / "tableaus.jl").read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize("wants_gradient", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_auto_refuses_only_what_neither_engine_can_do(ready, solver, wants_gradient):
    steps = tableaus_of_julia()
    assert {"Tsit5", "DP8"} < steps
    for (gradient, method), compiled in product(GRADIENTS.items(), (True, False)):
        engines = {name for name in ("torch", "julia") if name in SOLVERS[solver].engines and name in method.engines}
        if wants_gradient and method in OF_STEPS and not (compiled and solver in steps):
            engines.discard("julia")

        asked = {"solver": solver, "gradient": gradient, "compiled": compiled}
        if engines:
            assert chosen(FIELD, start(wants_gradient), **asked) == ("julia" if "julia" in engines else "torch"), asked
        else:
            sentence = r"no engine supports this problem as it is \((torch: .* not support: use .*|julia: .*: (write|use|leave) .*); (torch: .* not support: use|julia: .*: (write|use|leave))"
            with pytest.raises(pn.ArgumentError, match=sentence):
                chosen(FIELD, start(wants_gradient), **asked)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        (Decay(), {}),
        (lambda t, y: -y, {}),
        (torch.nn.Bilinear(1, 2, 2), {}),
        (FIELD, {"events": pn.Event(lambda t, y: y[0])}),
        (FIELD, {"batch": "independent", "y0": start()[None], "events": pn.Event(lambda t, y: y[:, 0])}),
        (FIELD, {"dense": True}),
        (FIELD, {"y0": start().bfloat16()}),
        (FIELD, {"solver": "RK38"}),
    ],
    ids=[
        "own field",
        "callable",
        "module",
        "events",
        "independent events",
        "dense with gradient",
        "bfloat16",
        "solver",
    ],
)
def test_auto_takes_torch_for_what_only_it_has(ready, field, change):
    arguments = {"y0": start(), "ts": TIMES} | change
    assert chosen(field, **arguments) == "torch"


@pytest.mark.parametrize(
    "change",
    [
        {"y0": np.ones(2), "solver": "Vern9"},
        {"y0": np.ones(2), "dense": True},
        {"y0": np.ones(2), "parameters": {"A": start().expand(2, 2)}, "solver": "Rodas5P"},
        {"solver": "FBDF", "gradient": "InterpolatingAdjoint"},
        {"y0": start(False), "ts": torch.tensor([0.0, 1.0]), "solver": "Rodas5P"},
        {"batch": "independent", "y0": start()[None]},
        {"batch": "independent", "y0": start()[None], "gradient": "GaussAdjoint"},
    ],
)
def test_auto_takes_julia_where_it_has_all_that_is_asked_for(ready, change):
    assert chosen(FIELD, **({"y0": start(), "ts": TIMES} | change)) == "julia"


def test_auto_gives_a_callable_to_julia_only_if_torch_cannot_solve_it(ready):
    for solver, engine in (("Rodas5P", "torch"), ("FBDF", "julia")):
        assert chosen(lambda t, y: -y, np.ones(2), solver=solver) == engine
    with pytest.raises(pn.ArgumentError, match=r"no engine supports .* \(julia: .*y0.numpy\(\)\S*; torch: .*FBDF"):
        chosen(lambda t, y: -y, start(), solver="FBDF")


def test_gradients_that_only_parameters_or_times_want_count(ready):
    for change in ({"parameters": {"A": start().expand(2, 2)}}, {"ts": torch.tensor([0.0, 1.0], requires_grad=True)}):
        asked = {"y0": start(False), "ts": TIMES, "solver": "Rodas5P"} | change
        assert chosen(FIELD, **asked) == "torch"
        with torch.no_grad():
            assert chosen(FIELD, **asked) == "julia"


def test_the_fields_that_auto_gives_to_julia_are_those_that_julia_makes():
    code = "".join(file.read_text() for file in (sources.folder() / "src").rglob("*.jl"))
    table = re.search(r"^const FIELDS = .*?^\)", code, re.MULTILINE | re.DOTALL)[0]
    made = set(re.findall(r'^FIELDS\["(\w+)"\]', code, re.MULTILINE)) | set(
        re.findall(r'^    "(\w+)" =>', table, re.MULTILINE)
    )
    assert {kind.__name__ for kind in julia_solve.FIELDS} == made


def test_asked_for_by_name_julia_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(session, "runs", lambda: True)
    for field, change, sentence in (
        (Decay(), {}, "the field is a Decay"),
        (FIELD, {"solver": "Rodas5P"}, "gradient is 'Backprop'.* write gradient='InterpolatingAdjoint'"),
        (FIELD, {"events": pn.Event(lambda t, y: y[0])}, "events are given"),
        (lambda t, y: -y, {"batch": "independent", "y0": np.ones((1, 2))}, "batch is 'independent'"),
    ):
        with pytest.raises(pn.ArgumentError, match=sentence):
            pn.solve(field, **({"y0": start(), "ts": TIMES, "engine": "julia"} | change))


def test_a_gradient_that_julia_has_not_is_torchs_own(julia, monkeypatch):
    monkeypatch.setenv("PYNEURALODE_ENGINE", "auto")
    for field, settings in ((FIELD, {"solver": "Rodas5P"}), (Decay(), {}), (FIELD, {"dense": True})):
        found = []
        for engine in ("auto", "torch"):
            y0 = start()
            solution = pn.solve(field, y0, TIMES, engine=engine, **settings)
            assert solution.engine.startswith("torch")
            solution.ys.square().sum().backward()
            found.append(y0.grad)
        torch.testing.assert_close(*found, rtol=0, atol=0)
    y0 = start()
    pn.solve(
        FIELD, y0, TIMES, solver="FBDF", gradient="InterpolatingAdjoint", rtol=1e-9, atol=1e-9
    ).ys.square().sum().backward()
    truth = start()
    pn.solve(FIELD, truth, TIMES, engine="torch", solver="DP8", rtol=1e-11, atol=1e-11).ys.square().sum().backward()
    torch.testing.assert_close(y0.grad, truth.grad, rtol=1e-5, atol=1e-6)
