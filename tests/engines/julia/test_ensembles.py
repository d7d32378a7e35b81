"""batch="independent" on the Julia engine: the same numbers as on the torch engine, for states and gradients."""

import numpy as np
import pytest
import torch

import pyneuralode as pn

pytestmark = pytest.mark.usefixtures("julia")

FIELDS = {
    "network": pn.MLP((2, 8, 2)),
    "formulas": pn.Equations({"x": "v", "v": "-k*x - c*v**3 + sin(t)"}, parameters={"k": 2.0, "c": 0.1}),
}
STARTS = np.array([[1.0, 0.0], [-2.0, 0.5], [0.3, 3.0]])
SHARED = np.linspace(0.0, 2.0, 6)
ROWS = np.stack([SHARED, 0.5 * SHARED + 0.1, 0.2 * SHARED[::-1]])
RAGGED = [SHARED, SHARED[:3], 2 * SHARED[:4]]
EXACT = {"rtol": 1e-10, "atol": 1e-10, "batch": "independent"}


def gradients(field, ts, engine, own=(), starts=STARTS, **settings):
    """Return the solution and the gradients of a loss of all its states."""
    parameters = {
        name: torch.tensor(np.stack([value * (1 + 0.1 * b) for b in range(len(starts))]) if name in own else value)
        for name, value in field.initial().items()
    }
    values = [torch.tensor(starts).requires_grad_(), *(value.requires_grad_() for value in parameters.values())]
    solution = pn.solve(field, values[0], ts, parameters=parameters, engine=engine, **(EXACT | settings))
    rows = solution.ys if isinstance(solution.ys, list) else [solution.ys]
    loss = sum(((1 + torch.arange(row.numel()).reshape(row.shape)) * row.sin()).sum() for row in rows)
    loss.backward()
    return solution, [value.grad for value in values]


def assert_same(ours, theirs, tolerance):
    """Compare solutions and gradients."""
    for a, b in zip(*(s.ys if isinstance(s.ys, list) else [s.ys] for s in (ours[0], theirs[0]))):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for a, b in zip(ours[1], theirs[1]):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("ts", [SHARED, ROWS, RAGGED], ids=["shared", "rows", "ragged"])
@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_the_fast_path_takes_the_steps_of_the_torch_engine(field, ts):
    ours, theirs = (gradients(field, ts, engine) for engine in ("julia", "torch"))
    assert ours[0].engine == "julia (fast)"
    for name in ("nfev", "accepted", "rejected"):
        assert getattr(ours[0], name).tolist() == getattr(theirs[0], name).tolist()
    assert_same(ours, theirs, 1e-9)


@pytest.mark.parametrize(
    "gradient", ["InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint", "BacksolveAdjoint", "ForwardMode"]
)
def test_sciml_s_adjoints_of_an_ensemble(gradient):
    field = FIELDS["formulas"]
    ours = gradients(field, RAGGED, "julia", gradient=gradient)
    assert ours[0].engine == "julia (sciml)"
    assert_same(ours, gradients(field, RAGGED, "torch"), 1e-6)


def test_a_stiff_solver_of_an_ensemble():
    field = pn.Equations({"x": "v", "v": "mu*((1 - x**2)*v - x)"}, parameters={"mu": 100.0})
    ours = gradients(field, ROWS, "julia", solver="Rodas5P", gradient="GaussAdjoint", rtol=1e-9, atol=1e-9)
    assert_same(ours, gradients(field, ROWS, "torch", solver="Rodas5P", rtol=1e-9, atol=1e-9), 1e-4)


@pytest.mark.parametrize("gradient", ["Backprop", "InterpolatingAdjoint"])
def test_parameters_and_tolerances_of_each_sample(gradient):
    settings = {"own": ("k",), "atol": np.array([[1e-10, 1e-9], [1e-11, 1e-10], [1e-10, 1e-10]])}
    ours = gradients(FIELDS["formulas"], SHARED, "julia", gradient=gradient, **settings)
    assert ours[1][1].shape == (3,)
    assert_same(
        ours, gradients(FIELDS["formulas"], SHARED, "torch", **settings), 1e-9 if gradient == "Backprop" else 1e-6
    )


def test_states_with_several_axes_and_float32():
    starts = np.stack([STARTS, 2 * STARTS])
    ours, theirs = (gradients(FIELDS["network"], SHARED, engine, starts=starts) for engine in ("julia", "torch"))
    assert ours[0].ys.shape == (6, 2, 3, 2)
    assert_same(ours, theirs, 1e-9)
    solution = pn.solve(
        FIELDS["network"], STARTS.astype(np.float32), SHARED, engine="julia", batch="independent", rtol=1e-5, atol=1e-5
    )
    assert solution.ys.dtype == np.float32
    assert np.abs(solution.ys - pn.solve(FIELDS["network"], STARTS, SHARED, engine="torch", **EXACT).ys).max() < 1e-3


def test_without_a_gradient_on_sciml_s_path():
    settings = {"engine": pn.Julia(path="sciml"), "solver": "Vern9"}
    ours = pn.solve(FIELDS["network"], STARTS, RAGGED, **settings, **EXACT)
    theirs = pn.solve(FIELDS["network"], STARTS, RAGGED, engine="torch", **EXACT)
    assert ours.engine == "julia (sciml)" and ours.message == ["reached the last time"] * 3
    for a, b in zip(ours.ys, theirs.ys):
        assert np.abs(a - b).max() < 1e-8


@pytest.mark.parametrize("path", ["fast", "sciml"])
def test_a_failure_names_the_sample(path):
    growth = pn.Equations({"x": "x**2"})
    with pytest.raises(pn.SolverError, match="^sample 1: .*t = 0.5") as error:
        pn.solve(growth, [[0.1], [2.0]], [0.0, 1.0], engine=pn.Julia(path=path), batch="independent")
    assert error.value.t == pytest.approx(0.5, abs=1e-2)


def test_what_an_ensemble_does_not_support():
    for settings, sentence in (
        ({"events": pn.Event(lambda t, y: y[:, 0])}, "events are given"),
        ({"ts": torch.tensor(SHARED, requires_grad=True)}, "ts requires gradients"),
    ):
        with pytest.raises(pn.ArgumentError, match=sentence):
            pn.solve(
                FIELDS["network"],
                torch.tensor(STARTS),
                **({"ts": SHARED, "engine": "julia", "batch": "independent"} | settings),
            )
