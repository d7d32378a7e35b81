"""Compiled networks against the generic path and finite differences; special cases."""

import logging
import re

import numpy as np
import pytest
import torch
from paths import RALSTON, both, check

from pyneuralode.engines.torch_engine.compiled import available
from pyneuralode.engines.torch_engine.compiled.networks import function
from pyneuralode.errors import SolverError
from pyneuralode.fields import ACTIVATIONS, INPUT_MAPS, MLP, SEIR, Linear
from pyneuralode.gradients import Checkpointed
from pyneuralode.models import solve
from pyneuralode.tableaus import TABLEAUS

numba = pytest.importorskip("numba")


def net(rng, depth, **settings):
    dim = int(rng.integers(1, 6))
    hidden = rng.integers(1, 40, size=depth - 1).tolist()
    return MLP((dim, *hidden, dim), init_scale=float(rng.uniform(0.5, 1.2)), **settings)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_run_free_as_on_the_generic_path(seed):
    rng = np.random.default_rng(seed)
    field = net(
        rng,
        1 + seed % 4,
        activation=ACTIVATIONS[seed % len(ACTIVATIONS)],
        input_map=INPUT_MAPS[seed % 3],
        input_scale=1.5,
        output_scale=0.7,
    )
    shape = [(), (3,), (2, 2)][seed % 3]
    ts = np.sort(rng.uniform(0, 2, size=9))[:: 1 if seed % 2 else -1]
    y0 = 0.5 * rng.normal(size=(*shape, field.dim))
    results = both(
        field, y0, ts.copy(), seed=seed, rtol=1e-6, atol=1e-8, solver=("Tsit5", "Vern7", "DP8", "BS3", "DP5")[seed % 5]
    )
    for a, b in zip((results[0][0].ys, *results[0][1]), (results[1][0].ys, *results[1][1])):
        assert (a - b).abs().max() <= 1e-5 * (1 + b.abs().max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("solver", [*TABLEAUS, RALSTON], ids=str)
def test_the_same_steps_agree_to_rounding(solver, dtype):
    # No output time coincides with a step, so every method's interpolant and its lazily computed stages are tested.
    field = MLP((3, 17, 3), activation="tanh")
    ts = [0.0, 0.11, 0.12, 0.5, 0.74, 1.0]
    y0 = np.random.default_rng(1).normal(size=(2, 3))
    check(both(field, y0, ts, dtype=dtype, solver=solver, step_size=0.25), 100 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_agree_within_ten_units_in_the_last_place_a_step(seed, dtype):
    rng, steps = np.random.default_rng(seed), 10
    field = net(rng, 1 + seed % 4, activation=ACTIVATIONS[seed % len(ACTIVATIONS)])
    y0 = rng.normal(size=(3, field.dim))
    solver = ("Tsit5", "Vern7", "DP8", "RK4")[seed % 4]
    (ours, our_grads), (theirs, their_grads) = both(
        field, y0, [0.0, 0.5], dtype=dtype, seed=seed, solver=solver, step_size=0.5 / steps
    )
    for mine, other in (((ours.ys,), (theirs.ys,)), (our_grads, their_grads)):
        unit = np.spacing(max(value.detach().abs().max().numpy() for value in other))
        worst = max(float((a - b).detach().abs().max()) for a, b in zip(mine, other))
        assert worst <= 10 * steps * unit


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_activation_agrees_to_rounding(activation, dtype):
    field = MLP((2, 9, 20, 2), activation=activation, init="normal")
    y0 = np.random.default_rng(2).normal(size=2)
    results = both(field, y0, [0.0, 0.05, 0.1], dtype=dtype, solver="RK4", step_size=0.05)
    check(results, 200 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("gradient", ["Backprop", Checkpointed(1), Checkpointed(3)])
@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "RK4"])
def test_checkpointed_takes_the_steps_again(solver, gradient):
    field = MLP((2, 30, 2), input_map="cube")
    steps = dict(step_size=0.03) if solver == "RK4" else {}
    y0, ts = [[1.2, 0.0], [0.5, 0.5]], np.linspace(0, 1.5, 20)
    check(both(field, y0, ts, solver=solver, gradient=gradient, **steps), 1e-11)


def test_a_long_tape_gives_way_to_taking_the_steps_again(monkeypatch):
    monkeypatch.setattr(function, "TAPE_BYTES", 40_000)
    check(both(MLP((2, 30, 2)), [1.2, 0.0], np.linspace(0, 8, 20)), 1e-11)


def test_described_fields_without_a_network():
    spiral = Linear(((-0.1, 2.0), (-2.0, -0.1)), input_map="cube")
    check(both(spiral, [2.0, 0.0], np.linspace(0, 5, 30)), 1e-9)
    check(both(SEIR(), [[0.99, 0.01, 0.0, 0.0], [0.9, 0.05, 0.05, 0.0]], np.linspace(0, 60, 30)), 1e-9)


def test_gradient_against_central_differences():
    field = MLP((2, 12, 2), activation="swish")
    ts, y0 = np.linspace(0, 1, 6), np.array([0.7, -0.4])
    arrays = field.initial(3)

    def loss(name=None, index=None, shift=0.0):
        moved = {k: v.copy() for k, v in arrays.items()}
        if name:
            moved[name][index] += shift
        return float((solve(field, y0, ts, parameters=moved, step_size=0.05).ys ** 2).sum())

    parameters = {k: torch.tensor(v, requires_grad=True) for k, v in arrays.items()}
    solution = solve(field, torch.tensor(y0), ts, parameters=parameters, step_size=0.05)
    assert solution.engine == "torch (compiled)"
    (solution.ys**2).sum().backward()
    for name, index in (("weight_1", (3, 1)), ("bias_1", (5,)), ("weight_2", (1, 7)), ("bias_2", (0,))):
        slope = (loss(name, index, 1e-5) - loss(name, index, -1e-5)) / 2e-5
        assert float(parameters[name].grad[index]) == pytest.approx(slope, rel=1e-7)


def test_tolerances_by_component_and_many_outputs_in_one_step():
    field = MLP((2, 10, 2))
    ts = np.concatenate([[0.0], 0.3 + 1e-4 * np.arange(20), [1.0]])
    tolerances = dict(rtol=np.array([1e-6, 1e-3]), atol=np.array([1e-8, 1e-4]))
    check(both(field, [1.0, 0.5], ts, **tolerances, first_step=0.2), 1e-10)


def test_a_graph_can_be_used_twice_and_only_where_wanted():
    field, ts = MLP((2, 10, 2)), [0.0, 0.3, 1.0]
    parameters = {k: torch.tensor(v, requires_grad=k == "bias_1") for k, v in field.initial().items()}
    ys = solve(field, torch.tensor([1.0, 0.0]), ts, parameters=parameters).ys
    first = torch.autograd.grad(ys.sum(), parameters["bias_1"], retain_graph=True)[0]
    again = torch.autograd.grad(ys.sum(), parameters["bias_1"])[0]
    torch.testing.assert_close(first, again, rtol=1e-12, atol=1e-14)


def test_times_have_gradients():
    field, grads = MLP((2, 10, 2)), []
    for compiled in (True, False):
        ts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64, requires_grad=True)
        ys = solve(field, torch.tensor([1.0, 0.0], dtype=torch.float64), ts, compiled=compiled).ys
        grads.append(torch.autograd.grad(ys.pow(2).sum(), ts)[0])
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "matrix, y0, ts, control",
    [
        ([[1e308]], [1e10], [0.0, 1.0], {}),
        ([[1.0]], [1.0], [0.0, 50.0], dict(max_steps=7)),
        ([[1.0]], [1.0], [0.0, 2.0], dict(input_map="square")),
        ([[-50.0]], [1.0], [0.0, 1.0], dict(min_step=0.05, first_step=0.06)),
    ],
)
def test_failures_speak_as_the_generic_path_does(matrix, y0, ts, control):
    field = Linear(matrix, input_map=control.pop("input_map", "identity"))
    said = []
    for compiled in (True, False):
        with pytest.raises(SolverError) as caught:
            solve(field, np.array(y0), ts, compiled=compiled, **control)
        said.append(re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "#", str(caught.value)))
    assert said[0] == said[1]


def test_where_it_does_not_apply():
    field, y0, ts = MLP((2, 4, 2)), np.array([1.0, 0.0]), [0.0, 1.0]
    assert solve(field, y0, ts, dense=True).engine == "torch"
    assert solve(field, torch.tensor(y0, requires_grad=True), ts, gradient="BacksolveAdjoint").engine == "torch"
    # No input requires a gradient.
    assert solve(field, y0, ts, gradient="BacksolveAdjoint").engine == "torch (compiled)"


def test_without_numba_the_generic_path_runs_and_says_so_once(monkeypatch, caplog):
    def refuse(name):
        raise ImportError("Numba needs another NumPy")

    monkeypatch.setattr(available, "import_module", refuse)
    available.compiled.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="pyneuralode"):
            for _ in range(2):
                assert solve(MLP((2, 4, 2)), np.array([1.0, 0.0]), [0.0, 1.0]).engine == "torch"
        assert [r.getMessage().count("Numba needs another NumPy") for r in caplog.records].count(1) == 1
    finally:
        available.compiled.cache_clear()


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_elementary_functions_in_units_of_the_last_place(real):
    from pyneuralode.engines.torch_engine.compiled import elementary

    exact = np.float64 if real is np.float32 else np.longdouble
    if np.finfo(exact).eps >= np.finfo(real).eps:
        pytest.skip("no longer floating-point type to compare with here")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=20_000) * scale for scale in (1e-6, 1e-2, 0.3, 1, 8, 25)])
    edges = [0.0, -0.0, 1e-30, -1e-30, 86, -86, 1e30, -1e30, np.inf, -np.inf, np.nan]
    x = np.concatenate([x, edges]).astype(real)
    cases = {
        "exp": (np.exp, x, 2),
        "expm1": (np.expm1, x[~(np.abs(x) > 60)], 2),
        "log1p": (np.log1p, np.abs(x[np.abs(x) <= 1]), 3),
        "tanh": (np.tanh, x, 3),
        "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), x[~(x < -86)], 3),
    }
    for name, (reference, arguments, limit) in cases.items():
        ours = _apply(getattr(elementary, name), arguments)
        with np.errstate(over="ignore"):
            truth = reference(arguments.astype(exact))
            rounded = truth.astype(real)
        finite = np.isfinite(rounded)
        assert np.array_equal(ours[~finite], rounded[~finite], equal_nan=True), name
        ulps = np.abs(ours[finite] - truth[finite]) / np.spacing(np.abs(rounded[finite]))
        assert ulps.max() <= limit, (name, ulps.max(), arguments[finite][ulps.argmax()])


def _apply(function, arguments):
    from pyneuralode.engines.torch_engine.compiled.llvm_codegen import (
        emitted_function,
        for_each_vector,
        load,
        pointer,
        store,
    )

    def apply(builder, x, out, count):
        def write(places, lanes):
            store(builder, places[1], function(load(builder, places[0], lanes)))

        for_each_vector(builder, count, (x, out), write)

    apply.__qualname__ = function.__name__
    emitted = emitted_function(apply)

    @numba.njit
    def loop(x, out):
        emitted(pointer(x), pointer(out), len(x))

    out = np.empty_like(arguments)
    loop(arguments, out)
    return out
