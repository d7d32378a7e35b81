"""The Julia engine: trajectories and gradients of every field against the torch engine; stiff reference problems."""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.gradients import find_gradient, gradients_of
from pyneuralode.solvers import SOLVERS

pytestmark = pytest.mark.usefixtures("julia")

FIELDS = {
    "MLP tanh": pn.MLP((2, 9, 2), "tanh", input_map="cube", init_bias=0.3),
    "MLP swish": pn.MLP((3, 8, 5, 3), "swish", input_scale=2.0, output_scale=0.7, init_bias=0.3),
    "MLP gelu": pn.MLP((2, 6, 2), "gelu", input_map="square", init_bias=0.3),
    "Linear": pn.Linear(((-0.1, -2.0), (2.0, -0.1)), input_map="cube"),
    "SEIR": pn.SEIR(0.2, 3.0, 0.4),
    "Equations": pn.Equations(
        {"x": "a*x - b*x*y", "y": "-c*y + b*x*y + 0.1*sin(t)"}, parameters={"a": 1.5, "b": 1.0, "c": 3.0}
    ),
}
STARTS = {"SEIR": [0.9, 0.06, 0.04, 0.0], "Equations": [1.0, 0.8]}
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
TIMES = np.array([0.0, 0.4, 0.7, 1.5, 2.0])

every_field = pytest.mark.parametrize("name", FIELDS)


def start_of(name: str) -> np.ndarray:
    return np.array(STARTS.get(name, [0.9, -0.4, 0.3][: FIELDS[name].dim]))


def gradients(name, engine, gradient, y0, **settings):
    """Return the gradient of a loss over all states with respect to the initial state and parameters, as one vector."""
    model = pn.NeuralODE(FIELDS[name], engine=engine, gradient=gradient, seed=3, **(TIGHT | settings))
    y0 = torch.tensor(y0, requires_grad=True)
    ys = model(y0, TIMES)
    (ys * torch.linspace(0.5, 1.5, ys.numel(), dtype=ys.dtype).reshape(ys.shape)).square().sum().backward()
    return torch.cat([y0.grad.reshape(-1)] + [p.grad.reshape(-1) for p in model.parameters()])


@every_field
@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "DP5"])
@pytest.mark.parametrize("compiled", [True, False])
def test_trajectories_agree(name, solver, compiled):
    y0 = start_of(name)
    ours, theirs = (
        pn.solve(FIELDS[name], y0, TIMES, seed=3, solver=solver, engine=engine, compiled=compiled, **TIGHT)
        for engine in ("torch", "julia")
    )
    np.testing.assert_allclose(theirs.ys, ours.ys, rtol=0, atol=1e-8)
    assert theirs.engine.startswith("julia") and theirs.solver == solver and theirs.nfev > theirs.accepted > 0


@every_field
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("gradient", gradients_of("julia"))
def test_gradients_agree_with_the_embedded_engine(name, gradient, batch):
    y0 = start_of(name)
    y0 = np.stack([y0, 0.9 * y0, 0.8 * y0]) if batch else y0
    truth = gradients(name, "torch", "Backprop", y0, solver="Vern7", rtol=1e-12, atol=1e-12)
    found = gradients(name, "julia", gradient, y0)
    assert float((found - truth).norm() / truth.norm()) < 1e-6


@every_field
@pytest.mark.parametrize("gradient", gradients_of("torch"))
def test_the_embedded_gradients_agree_with_julia(name, gradient):
    y0 = start_of(name)
    truth = gradients(name, "julia", "InterpolatingAdjoint", y0, solver="Vern9", rtol=1e-12, atol=1e-12)
    found = gradients(name, "torch", gradient, y0)
    assert float((found - truth).norm() / truth.norm()) < 1e-6


@pytest.mark.parametrize("solver", ["Vern7", "DP5"])
@pytest.mark.parametrize("name", ["MLP tanh", "SEIR"])
def test_other_solvers_gradients_agree(name, solver):
    y0 = start_of(name)
    for gradient in gradients_of("julia"):
        ours, theirs = (
            gradients(name, "torch", "Backprop", y0, solver=solver),
            gradients(name, "julia", gradient, y0, solver=solver),
        )
        assert float((theirs - ours).norm() / ours.norm()) < 1e-6


@pytest.mark.parametrize("gradient", ["InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint", "BacksolveAdjoint"])
def test_products_by_automatic_differentiation_agree_with_ours(gradient):
    y0 = start_of("MLP tanh")
    ours, generic = (gradients("MLP tanh", "julia", gradient, y0, compiled=compiled) for compiled in (True, False))
    assert float((ours - generic).norm() / ours.norm()) < 1e-8


def test_both_engines_take_the_same_steps_on_the_compiled_path():
    solutions = [
        pn.solve(FIELDS["MLP tanh"], start_of("MLP tanh"), TIMES, seed=3, engine=e) for e in ("torch", "julia")
    ]
    ours, theirs = solutions
    assert (theirs.nfev, theirs.accepted, theirs.rejected) == (ours.nfev, ours.accepted, ours.rejected)
    np.testing.assert_allclose(theirs.ys, ours.ys, rtol=1e-13, atol=1e-14)
    assert theirs.engine == "julia (fast)"


def test_single_precision_stays_single():
    model = pn.NeuralODE(FIELDS["MLP tanh"], engine="julia", seed=3, dtype=torch.float32)
    for gradient in ("Backprop", "InterpolatingAdjoint"):
        model.gradient = find_gradient(gradient)
        y0 = torch.tensor([0.9, -0.4], requires_grad=True)
        ys = model(y0, TIMES)
        ys.sum().backward()
        assert ys.dtype == y0.grad.dtype == model.weights["weight_1"].grad.dtype == torch.float32


def test_a_tolerance_for_each_component_of_a_batch():
    y0 = np.array([[0.9, -0.4], [0.1, 0.3], [0.5, 0.5]])
    rtol = np.array([[1e-9, 1e-6], [1e-9, 1e-6], [1e-9, 1e-6]])
    ours, theirs = (
        pn.solve(
            FIELDS["MLP tanh"], y0, TIMES, seed=3, rtol=rtol, atol=1e-9, engine=engine, gradient="InterpolatingAdjoint"
        )
        for engine in ("torch", "julia")
    )
    np.testing.assert_allclose(theirs.ys, ours.ys, rtol=0, atol=1e-6)


def test_backwards_in_time_and_dense_output():
    y0, ts = start_of("Linear"), TIMES[::-1].copy()
    ours, theirs = (pn.solve(FIELDS["Linear"], y0, ts, engine=e, dense=True, **TIGHT) for e in ("torch", "julia"))
    np.testing.assert_allclose(theirs.ys, ours.ys, rtol=0, atol=1e-8)
    np.testing.assert_allclose(theirs([0.3, 1.1]), ours([0.3, 1.1]), rtol=0, atol=1e-7)
    np.testing.assert_allclose(theirs(0.3), ours(0.3), rtol=0, atol=1e-7)
    with pytest.raises(pn.ArgumentError, match="outside the solved time span"):
        theirs(2.5)


def test_gradients_with_respect_to_the_times():
    grads = []
    for engine in ("torch", "julia"):
        ts = torch.tensor(TIMES, requires_grad=True)
        pn.solve(
            FIELDS["SEIR"], torch.tensor(start_of("SEIR")), ts, engine=engine, **TIGHT
        ).ys.square().sum().backward()
        grads.append(ts.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("solver", [name for name, s in SOLVERS.items() if "julia" in s.engines])
def test_every_solver_of_the_catalog_runs(solver):
    step = {} if SOLVERS[solver].adaptive else {"step_size": 1e-3}
    truth = pn.solve(
        FIELDS["Linear"], start_of("Linear"), TIMES, engine="torch", solver="DP8", rtol=1e-12, atol=1e-12
    ).ys
    found = pn.solve(
        FIELDS["Linear"], start_of("Linear"), TIMES, engine="julia", solver=solver.upper(), rtol=1e-7, atol=1e-7, **step
    )
    np.testing.assert_allclose(found.ys, truth, rtol=0, atol={"Euler": 2e-2, "Rosenbrock23": 2e-4}.get(solver, 2e-5))
    assert found.solver == solver


# Stiff problems: reference solutions from the Bari test set for IVP solvers.
ROBERTSON = pn.Equations(
    {"y1": "-k1*y1 + k3*y2*y3", "y2": "k1*y1 - k2*y2**2 - k3*y2*y3", "y3": "k2*y2**2"},
    parameters={"k1": 0.04, "k2": 3e7, "k3": 1e4},
)
STIFF = {
    "Robertson": (
        ROBERTSON,
        [1.0, 0.0, 0.0],
        1e11,
        [2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050],
    ),
    "Van der Pol": (
        pn.Equations({"x": "v", "v": "((1 - x**2)*v - x)/eps"}, parameters={"eps": 1e-6}),
        [2.0, 0.0],
        2.0,
        [1.706167732170483, -0.8928097010247975],
    ),
    "OREGO": (
        pn.Equations(
            {"a": "s*(b + a*(1 - q*a - b))", "b": "(c - (1 + a)*b)/s", "c": "w*(a - c)"},
            parameters={"s": 77.27, "q": 8.375e-6, "w": 0.161},
        ),
        [1.0, 2.0, 3.0],
        360.0,
        [0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3],
    ),
}


@pytest.mark.parametrize("problem", STIFF)
@pytest.mark.parametrize("solver", ["Rodas5P", "KenCarp4", "FBDF"])
def test_stiff_problems_meet_their_references(problem, solver):
    field, y0, end, truth = STIFF[problem]
    found = pn.solve(
        field, np.array(y0), [0.0, end], solver=solver, engine="julia", rtol=1e-8, atol=1e-14, max_steps=10**6
    )
    np.testing.assert_allclose(found.ys[-1], truth, rtol=1e-5)


@pytest.mark.parametrize("gradient", ["InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint", "ForwardMode"])
def test_the_gradient_of_robertson(gradient):
    model = pn.NeuralODE(ROBERTSON, solver="Rodas5P", gradient=gradient, engine="julia", rtol=1e-9, atol=1e-13)
    model(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), [0.0, 40.0])[-1, 0].backward()
    found = [float(model.weights[name].grad) for name in ("k1", "k2", "k3")]
    np.testing.assert_allclose(found, [-4.24755877, -2.28835509e-9, 1.37308080e-5], rtol=1e-5)
