"""The registry of backends: supported problems, prepared problems, and caches that are never stale."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines import registry
from pyneuralode.engines.backend import Backend, Prepared
from pyneuralode.engines.registry import Settings, choose, prepare
from pyneuralode.engines.torch_engine.paths import TORCH
from pyneuralode.gradients import GRADIENTS, GradientMethod, find_gradient
from pyneuralode.problem import Control, Solution, make_control
from pyneuralode.solvers import SOLVERS, find_solver

NETWORK, FORMULA = pn.MLP((2, 5, 2), "tanh"), pn.Equations({"x": "v", "v": "-k*x"}, parameters={"k": 2.0})
TS = np.linspace(0.0, 1.0, 5)
FIELDS = {
    "network": NETWORK,
    "formula": FORMULA,
    "callable": lambda t, y: -y,
}


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2).double()

    def forward(self, t, y):
        return self.linear(y)


FIELDS["module"] = Module()


def start(*shape, dtype=torch.float64):
    return torch.full(shape or (2,), 0.8, dtype=dtype)


@pytest.fixture(autouse=True)
def torch_engine(monkeypatch):
    monkeypatch.setenv("PYNEURALODE_ENGINE", "torch")


def settings(field=NETWORK, solver="Tsit5", gradient="Backprop", **more):
    return Settings(field, find_solver(solver), find_gradient(gradient), Control(), **more)


def fresh(model, y0, ts, **more):
    """Solve with a new copy of the model, which has no cached preparation."""
    return copy.deepcopy(model).solve(y0, ts, **more)


# Prepared problems.


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_a_prepared_problem_solves_for_any_values_of_its_kind(name, batch):
    model = pn.NeuralODE(FIELDS[name], batch=batch)
    y0 = start(3, 2) if batch == "independent" else start()
    prepared = model.prepare(y0, TS)
    rng = np.random.default_rng(0)
    for _ in range(3):
        values = {key: torch.tensor(rng.normal(size=p.shape), requires_grad=True) for key, p in model.tensors().items()}
        other = torch.tensor(rng.normal(size=y0.shape))
        ts = np.sort(rng.uniform(0, 1, 4))
        found, expected = prepared.solve(values, other, ts), fresh(model, other, ts, parameters=values)
        assert torch.equal(found.ys, expected.ys) and found.engine == expected.engine == prepared.engine
        if values:
            ours, theirs = (torch.autograd.grad(s.ys.sum(), list(values.values())) for s in (found, expected))
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_values_of_another_kind_are_refused():
    model = pn.NeuralODE(NETWORK)
    parameters, y0 = model.tensors(), start()
    prepared = model.prepare(y0, TS)
    short = {name: value.reshape(-1)[:1] for name, value in parameters.items()}
    for values, sentence in (
        ((parameters, start(3, 2), TS), "y0 is .*, but was .* when the problem was prepared"),
        ((parameters, y0.float(), TS), "y0 is .*, but was .* when the problem was prepared"),
        ((parameters, y0.numpy(), TS), "y0 is .*, but was .* when the problem was prepared"),
        ((short, y0, TS), "parameters is of shapes .*, but was .* when the problem was prepared"),
        (
            (parameters, y0, TS.reshape(1, -1)),
            "ts is of kind 'rows', but was of kind 'shared' when the problem was prepared",
        ),
        ((parameters, y0.clone().requires_grad_(), TS), "autograd now records y0, but did not when"),
    ):
        with pytest.raises(pn.ArgumentError, match=sentence):
            prepared.solve(*values)
    with torch.no_grad():  # a problem prepared for gradients can also be solved without them
        assert torch.equal(prepared.solve(parameters, y0, TS).ys, model(y0, TS))


def test_an_estimated_trace_needs_its_noise():
    flow = pn.ContinuousFlow(pn.HyperMLP(dim=2, width=4, hidden=4), trace="hutchinson")
    points = torch.zeros(3, 2)
    asked = flow.settings()._replace(integrals=registry.PathIntegrals(estimated=True))
    prepared = prepare(asked.problem(flow.tensors(), points, [1.0, 0.0]))
    with pytest.raises(pn.ArgumentError, match="noise is None"):
        prepared.solve(flow.tensors(), points, [1.0, 0.0])


# Caches.


CHANGES = {
    "solver": lambda m: setattr(m, "solver", "Vern7"),
    "control": lambda m: setattr(m, "control", make_control({"rtol": 1e-3})),
    "gradient": lambda m: setattr(m, "gradient", pn.ForwardMode()),
    "compiled": lambda m: setattr(m, "compiled", False),
    "field": lambda m: setattr(m, "field", pn.MLP((2, 5, 2), "sin")),
    "dtype": lambda m: m.float(),
    "weights": lambda m: m.set_arrays(NETWORK.initial(7)),
    "batch": lambda m: setattr(m, "batch", "independent"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_model_keeps_is_never_stale(change):
    model, y0 = pn.NeuralODE(NETWORK), start(3, 2)
    model(y0, TS)
    CHANGES[change](model)
    found, expected = model.solve(y0, TS), fresh(model, y0, TS)
    assert torch.equal(found.ys, expected.ys)
    assert (found.engine, np.sum(found.nfev), found.solver) == (expected.engine, np.sum(expected.nfev), expected.solver)


@pytest.mark.parametrize(
    "values",
    [
        (start(4, 2), TS),
        (start().numpy(), TS),
        (start(dtype=torch.float32), TS),
        (start(), [0.0, 2.0]),
        (start(), TS[::-1].copy()),
        (start(), torch.tensor(TS, requires_grad=True)),
        (start().requires_grad_(), TS),
        ([0.8, 0.8], TS),
    ],
    ids=["samples", "numpy", "single", "times", "backwards", "times with gradient", "start with gradient", "list"],
)
def test_values_of_every_kind_after_each_other(values):
    model = pn.NeuralODE(FORMULA)
    model(start(), TS)
    for _ in range(2):
        found, expected = model.solve(*values), fresh(model, *values)
        np.testing.assert_array_equal(
            np.asarray(torch.as_tensor(found.ys).detach()), torch.as_tensor(expected.ys).detach()
        )
        model(start(), TS)


def test_tolerances_that_their_owner_changes_later_do_not_matter():
    tolerance = np.array([1e-3, 1e-3])
    model = pn.NeuralODE(NETWORK, rtol=tolerance, atol=tolerance)
    before = model(start(), TS)
    tolerance *= 1e-6
    assert torch.equal(model(start(), TS), before) and torch.equal(fresh(model, start(), TS).ys, before)


def test_the_same_times_with_another_content_are_read_again():
    model, ts = pn.NeuralODE(NETWORK), TS.copy()
    model(start(), ts)
    ts *= 2
    assert torch.equal(model(start(), ts), fresh(model, start(), TS * 2).ys)
    ts[2] = ts[1]
    with pytest.raises(pn.ArgumentError, match="twice"):
        model(start(), ts)


def test_copies_and_pickles_of_a_model_keep_nothing_of_it():
    model = pn.NeuralODE(NETWORK)
    expected = model(start(), TS)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.prepared is not model.prepared and torch.equal(twin(start(), TS), expected)


def test_what_is_kept_stays_small():
    model = pn.NeuralODE(NETWORK)
    for samples in range(1, 40):
        model(start(samples, 2), TS)
    assert len(model.prepared._kept) <= model.prepared.MOST


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_threads_share_what_is_prepared(name, batch):
    """Eight threads that solve different problems of one kind at once get the results and gradients of one thread."""
    model = pn.NeuralODE(FIELDS[name], batch=batch)
    rng = np.random.default_rng(1)
    shape = (4, 2) if batch == "independent" else (2,)
    starts = [torch.tensor(rng.normal(size=shape)) for _ in range(8)]

    def solve(y0, times):
        y0 = y0.clone().requires_grad_()
        ys = model(y0, times)
        return ys.detach(), torch.autograd.grad(ys.square().sum(), y0)[0]

    spans = [TS * (1 + i / 8) for i in range(8)]
    expected = [solve(y0, span) for y0, span in zip(starts, spans)]
    wrong, gate = [], threading.Barrier(8)

    def work(i):
        gate.wait()
        for _ in range(10):
            found = solve(starts[i], spans[i])
            if not all(torch.equal(a, b) for a, b in zip(found, expected[i])):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Supported problems.


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_problem_is_refused_with_a_sentence_or_prepared(solver, gradient):
    """All combinations of settings are prepared, or rejected with a message that names a setting and a remedy."""
    for field in (NETWORK, FORMULA, FIELDS["callable"]):
        for batch, dense, events in (
            ("joint", False, ()),
            ("joint", True, ()),
            ("joint", False, (EVENT,)),
            ("independent", False, ()),
        ):
            if batch == "independent" and gradient not in ("Backprop", "Checkpointed"):
                continue
            y0 = start(2, 2).requires_grad_()
            parameters = field.initial() if isinstance(field, pn.VectorField) else {}
            asked = settings(field, solver, gradient, batch=batch, dense=dense, events=events)
            problem = asked.problem(parameters, y0, TS)
            sentence = TORCH.unsupported(problem)
            has = "torch" in SOLVERS[solver].engines and "torch" in GRADIENTS[gradient].engines
            assert (sentence is None) == has
            if sentence is None:
                assert isinstance(TORCH.prepare(problem), Prepared)
            else:
                assert sentence.endswith(".") and "which the torch engine does not support: use another" in sentence


EVENT = pn.Event(lambda t, y: y.sum() - 100.0)


def test_unknown_names_are_answered_with_the_nearest():
    class Mine(GradientMethod):
        pass

    for gradient, nearest in (("Backpop", "Backprop"), (Mine(), "use one of Backprop"), ("gauss", "GaussAdjoint")):
        with pytest.raises(pn.ArgumentError, match=f"gradient is .*{nearest}"):
            pn.solve(NETWORK, start(), TS, gradient=gradient)
    with pytest.raises(pn.ArgumentError, match="engine is 'jula', which is unknown: did you mean 'julia'"):
        pn.solve(NETWORK, start(), TS, engine="jula")
    with pytest.raises(pn.ArgumentError, match="the field is an int: give a VectorField"):
        pn.solve(3, start(), TS)


def test_a_backend_of_the_users_own_is_taken_by_its_name(monkeypatch):
    class Still(Prepared):
        engine = "still"

        def run(self, parameters, y0, ts):
            return Solution(ts, torch.stack([y0] * len(ts)), 0, 0, 0, "nothing moved", "none", self.engine)

    class Stillness(Backend):
        name = "still"

        def unsupported(self, problem):
            return "events are watched, and nothing moves: leave them out." if problem.events else None

        def prepare(self, problem):
            return Still(problem)

    monkeypatch.setattr(registry, "_BACKENDS", dict(registry._BACKENDS))
    registry.register(Stillness())
    solution = pn.solve(NETWORK, start(), TS, engine="still")
    assert solution.engine == "still" and torch.equal(solution.ys[-1], start())
    with pytest.raises(pn.ArgumentError, match="nothing moves"):
        pn.solve(NETWORK, start(), TS, engine="still", events=EVENT)
    with pytest.raises(pn.ArgumentError, match="already a backend"):
        registry.register(Stillness())


def test_the_log_says_once_who_solves(caplog, monkeypatch):
    monkeypatch.setattr(registry, "_announced", set())
    with caplog.at_level("INFO", "pyneuralode"):
        for _ in range(3):
            choose(settings().problem(NETWORK.initial(), start(), TS), "auto")
    assert [record.message for record in caplog.records] == ["engine: torch, set by PYNEURALODE_ENGINE"]
