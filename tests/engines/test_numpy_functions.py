"""Right-hand sides that use NumPy arrays, as for SciPy, and formulas with thousands of terms."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import pyneuralode as pn

MATRIX = np.array([[-0.1, -2.0], [2.0, -0.1]])
TIMES = np.linspace(0, 2, 5)
START = np.array([1.0, 0.5])
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
SOLVERS = ["Tsit5", "Vern7", "RK4", "Rosenbrock23", "Rodas5P", "Kvaerno5", "AutoTsit5(Rosenbrock23)"]


def exact(t, y0=START):
    angle = 2 * np.asarray(t)
    turned = np.stack(
        [np.cos(angle) * y0[0] - np.sin(angle) * y0[1], np.sin(angle) * y0[0] + np.cos(angle) * y0[1]], axis=-1
    )
    return np.exp(-0.1 * np.asarray(t))[..., None] * turned


BUFFER = np.empty(2)


def in_place(t, y):
    BUFFER[:] = MATRIX @ y
    y[:] = np.nan  # y is a copy, so this changes nothing else
    return BUFFER


def by_index(t, y):
    slope = np.zeros_like(y)
    slope[0] = -0.1 * y[0] - 2 * y[1]
    slope[1] = 2 * y[0] - 0.1 * y[1]
    return slope


FUNCTIONS = {
    "product": lambda t, y: MATRIX @ y,
    "dot": lambda t, y: np.dot(MATRIX, y),
    "list": lambda t, y: [-0.1 * y[0] - 2 * y[1], 2 * y[0] - 0.1 * y[1]],
    "tuple": lambda t, y: (-0.1 * y[0] - 2 * y[1], 2 * y[0] - 0.1 * y[1]),
    "zeros_like": by_index,
    "reversed": lambda t, y: np.array([-2.0, 2.0]) * y[::-1] - 0.1 * y,
    "one buffer": in_place,
    "float32": lambda t, y: (MATRIX @ y).astype(np.float32) + (MATRIX @ y - (MATRIX @ y).astype(np.float32)),
    "asarray": lambda t, y: MATRIX @ np.asarray(y),
}


def solve(f, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy warns if its functions are applied to tensors
        arguments = {"y0": START, "ts": TIMES} | TIGHT | settings
        return pn.solve(f, arguments.pop("y0"), arguments.pop("ts"), engine="torch", **arguments)


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_function_of_arrays_is_solved(solver, kind):
    settings = (
        {"step_size": 0.01} if solver == "RK4" else {"rtol": 1e-6, "atol": 1e-6} if solver == "Rosenbrock23" else {}
    )
    found = solve(FUNCTIONS[kind], solver=solver, **settings)
    assert isinstance(found.ys, np.ndarray) and found.ys.dtype == np.float64
    np.testing.assert_allclose(found.ys, exact(TIMES), rtol=0, atol=5e-4 if solver == "Rosenbrock23" else 2e-7)


def test_scipys_own_functions_need_no_change():
    def pendulum(t, y):
        return [y[1], -0.25 * y[1] - 5.0 * np.sin(y[0]) + np.interp(t, [0, 1, 2], [0, 1, 0])]

    kinks = np.array([0.0, 1.0, 2.0])
    ours = solve(pendulum, y0=[np.pi - 0.1, 0.0], ts=kinks, solver="Vern7")
    theirs = solve_ivp(
        pendulum, (0, 2), [np.pi - 0.1, 0.0], t_eval=kinks, method="DOP853", max_step=0.05, rtol=1e-11, atol=1e-11
    )
    np.testing.assert_allclose(ours.ys, theirs.y.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("f", [lambda t, y: -y, lambda t, y: y * (1 - y) + t, lambda t, y: y[[1, 0]] * 0.5])
def test_a_function_of_both_kinds_has_the_numbers_of_tensors(f):
    y0 = np.array([0.3, 0.7])
    arrays, tensors = solve(f, y0=y0), solve(f, y0=torch.tensor(y0))
    np.testing.assert_array_equal(arrays.ys, tensors.ys.numpy())
    assert arrays.nfev == tensors.nfev


def test_every_call_is_counted():
    calls = []
    for f in (lambda t, y: MATRIX @ y, lambda t, y: -y, lambda t, y: y - np.mean(y)):
        for solver in ("Tsit5", "Rodas5P"):
            calls.clear()
            found = solve(lambda t, y, f=f: calls.append(t) or f(t, y), solver=solver)
            assert found.nfev == len(calls)


@pytest.mark.parametrize(
    "f",
    [
        lambda t, y: -y * y.std(),
        lambda t, y: -y / (1 + y.var()),
        lambda t, y: -y.repeat(2)[:2],
        lambda t, y: y * ((y > 0.7).sum() / 3),
    ],
    ids=["std", "var", "repeat", "whole numbers"],
)
def test_what_means_two_things_is_refused(f):
    words = r"returns different values for the two, because the results of .* differ: begin it with y = np.asarray"
    with pytest.raises(pn.ArgumentError, match=words):
        solve(f)
    with pytest.raises(pn.ArgumentError, match=words):
        solve(lambda t, y: f(t, y[0])[None], y0=START[None], batch="independent")
    solve(lambda t, y: f(t, np.asarray(y)), y0=START)
    solve(lambda t, y: f(t, torch.as_tensor(y)), y0=START)


def test_methods_that_agree_are_not_refused():
    for f in (lambda t, y: -y * y.max(), lambda t, y: y - y.mean(), lambda t, y: -y * np.max(y)):
        by_scipy = solve_ivp(
            lambda t, y: np.asarray(f(t, y)), (0, 2), START, t_eval=TIMES, rtol=1e-11, atol=1e-11, method="DOP853"
        )
        np.testing.assert_allclose(solve(f).ys, by_scipy.y.T, rtol=0, atol=1e-6)
    with pytest.raises(pn.SolverError, match="non-finite value at the start"):
        solve(lambda t, y: y.max() * y * math.nan)


@pytest.mark.parametrize(
    ("f", "sentence"),
    [
        (lambda t, y: [1.0, 2.0, 3.0], r"shape \(3,\) for a state of shape \(2,\)"),
        (lambda t, y: np.array([1j, 2.0]), "with dtype complex128: return an array of real numbers"),
        (lambda t, y: [1.0, [2.0, 3.0]], "return an array of real numbers"),
        (lambda t, y: np.array(["a", "b"]), "return an array of real numbers"),
        (lambda t, y: None, "return an array of real numbers"),
        (lambda t, y: y.astype(bool), "with dtype bool: return an array of real numbers"),
        (lambda t: -t, r"must accept \(t, y\)"),
    ],
)
def test_what_is_no_slope_is_refused(f, sentence):
    with pytest.raises(pn.ArgumentError, match=sentence):
        solve(f)


def test_errors_of_the_function_are_its_own():
    wrong = np.ones((3, 3))
    with pytest.raises(ValueError, match="mismatch"):
        solve(lambda t, y: wrong @ y)  # a NumPy error, not torch's TypeError
    with pytest.raises(ZeroDivisionError):
        solve(lambda t, y: y / 0 if False else 1 // 0)


@pytest.mark.parametrize("batch", ["joint", "independent"])
@pytest.mark.parametrize(
    "f",
    [lambda t, y: MATRIX.dot(y.T).T, lambda t, y: np.array(y), lambda t, y: -y.astype(float)],
    ids=["product", "array", "method"],
)
@pytest.mark.parametrize("wants_gradient", [True, False])
def test_a_tensor_start_is_refused_with_the_way_out(f, batch, wants_gradient):
    y0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64, requires_grad=wants_gradient)
    with pytest.raises(pn.ArgumentError, match="give y0 as a NumPy array \\(then without gradients"):
        solve(f, y0=y0, batch=batch)


def test_shapes_dtypes_tuples_and_directions():
    logistic = lambda t, y: y * (np.ones(1) - y)
    for y0 in (0.1, np.array(0.1), np.array([0.1]), np.full((2, 3), 0.1), np.full((2, 3), 0.1, dtype=np.float32)):
        found = solve(logistic if np.ndim(y0) else lambda t, y: float(y) * (1 - float(y)), y0=y0, rtol=1e-6, atol=1e-6)
        assert found.ys.shape == (5, *np.shape(y0)) and found.ys.dtype == (
            np.float32 if getattr(y0, "dtype", 0) == np.float32 else float
        )
        np.testing.assert_allclose(found.ys.reshape(5, -1)[:, 0], 1 / (1 + 9 * np.exp(-TIMES)), atol=2e-6)

    def pair(t, y):
        return np.flip(y[0]) * [-2.0, 2.0] - 0.1 * y[0], [t]

    for solver in ("Tsit5", "Rodas5P"):
        whole, clock = solve(pair, y0=(START, np.zeros(1)), solver=solver).ys
        np.testing.assert_allclose(whole, exact(TIMES), atol=2e-7)
        np.testing.assert_allclose(clock[:, 0], TIMES**2 / 2, atol=1e-7)
    back = solve(FUNCTIONS["product"], y0=exact(2.0), ts=TIMES[::-1])
    np.testing.assert_allclose(back.ys[::-1], exact(TIMES), atol=1e-7)


def test_dense_output_events_and_single_slopes():
    f = FUNCTIONS["reversed"]
    found = solve(f, dense=True)
    np.testing.assert_allclose(found(np.linspace(0, 2, 31)), exact(np.linspace(0, 2, 31)), atol=1e-5)
    crossing = 0.5 * np.arctan2(START[0], START[1])  # the time at which the first component is zero
    for condition in (lambda t, y: y[::-1][1], lambda t, y: np.min(y[:1]), lambda t, y: y[0]):
        stopped = solve(f, solver="Vern7", ts=[0.0, 2.0], events=pn.Event(condition))
        assert stopped.events.times == pytest.approx([crossing], abs=1e-7)
        np.testing.assert_allclose(stopped.events.states[0], exact(crossing), atol=1e-7)
    # The event conditions of a `VectorField` may use NumPy arrays too.
    field = pn.Linear(tuple(map(tuple, MATRIX)))
    assert solve(field, ts=[0.0, 2.0], events=pn.Event(lambda t, y: y[::-1][1])).events.times == pytest.approx(
        [crossing], abs=1e-6
    )
    np.testing.assert_allclose(pn.NeuralODE(f, engine="torch").slope(0.0, START), MATRIX @ START)


@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P"])
def test_independent_samples(solver):
    starts = np.array([[1.0, 0.5], [0.2, -0.4], [2.0, 0.1]])

    def f(t, y):
        assert isinstance(y, np.ndarray) and t.shape == (len(y), 1)
        return np.einsum("ij,bj->bi", MATRIX, y)

    found = solve(f, y0=starts, batch="independent", solver=solver)
    np.testing.assert_allclose(found.ys, np.stack([exact(TIMES, y0) for y0 in starts], axis=1), atol=2e-7)
    if solver == "Tsit5":
        crossing = pn.Event(lambda t, y: y[:, ::-1][:, 1])
        stopped = solve(f, y0=starts[:1], ts=[0.0, 2.0], batch="independent", events=crossing)
        assert stopped.events.times == pytest.approx([0.5 * np.arctan2(1.0, 0.5)], abs=1e-7)


def stiff(t, y):
    return np.array([-1e3 * (y[0] - np.cos(t)) - np.sin(t), y[0] - y[1] ** 2])


def jacobian(t, y):
    return np.array([[-1e3, 0.0], [1.0, -2 * y[1]]])


@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5"])
def test_a_jacobian_is_taken_and_saves_evaluations(solver):
    calls = []
    noted = lambda t, y: calls.append((type(t), type(y))) or jacobian(t, y)
    settings = {"y0": np.array([1.0, 0.2]), "ts": [0.0, 1.0], "solver": solver}
    plain, given = solve(stiff, **settings), solve(stiff, jacobian=noted, **settings)
    truth = solve_ivp(stiff, (0, 1), [1.0, 0.2], method="Radau", rtol=1e-11, atol=1e-12).y[:, -1]
    for found in (plain, given):
        np.testing.assert_allclose(found.ys[-1], truth, rtol=0, atol=1e-7)
    assert set(calls) == {(float, np.ndarray)} and given.nfev < plain.nfev

    stiff.jacobian = noted  # the same Jacobian, passed as an attribute
    try:
        np.testing.assert_array_equal(solve(stiff, **settings).ys, given.ys)
    finally:
        del stiff.jacobian
    tensors = solve(
        lambda t, y: -50 * y,
        y0=torch.ones(2, dtype=torch.float64),
        solver=solver,
        jacobian=lambda t, y: -50 * torch.eye(2, dtype=torch.float64),
    )
    np.testing.assert_allclose(tensors.ys, np.exp(-50 * TIMES)[:, None] * np.ones(2), atol=1e-7)


@pytest.mark.parametrize(
    ("f", "given", "sentence"),
    [
        (stiff, np.eye(2), "jacobian is an ndarray: give a function"),
        (pn.SEIR(), jacobian, "jacobian is given for an SEIR, not for a plain function: leave jacobian out"),
        (torch.nn.Linear(2, 2), jacobian, "the module's method jacobian"),
        (stiff, lambda t, y: np.ones(2), r"jacobian returned \(2,\)"),
        (stiff, lambda t, y: np.array([[1j, 0], [0, 1]]), "jacobian returned an ndarray with dtype complex128"),
    ],
)
def test_a_jacobian_that_is_none_is_refused(f, given, sentence):
    with pytest.raises(pn.ArgumentError, match=sentence):
        solve(f, solver="Rodas5P", jacobian=given)
