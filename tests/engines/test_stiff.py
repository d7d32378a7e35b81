"""The torch engine's stiff solvers: order, published values, gradients, Jacobians, switching and failures."""

import itertools
import math

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.torch_engine.march import Task, march
from pyneuralode.engines.torch_engine.slopes import counted_slope as _counted_slope
from pyneuralode.engines.torch_engine.stiff import STIFF, LinearizableSlope, as_method, linearizations
from pyneuralode.engines.torch_engine.stiff.coefficients import SDIRK, Rosenbrock
from pyneuralode.errors import ArgumentError, SolverError
from pyneuralode.problem import Control, Statistics
from pyneuralode.problem.values import flatten
from pyneuralode.solvers import SOLVERS

torch.set_num_threads(1)

SWITCHING = [name for name in STIFF if name.startswith("Auto")]
PURE = [name for name in STIFF if name not in SWITCHING]
every_method = pytest.mark.parametrize("solver", STIFF)
every_pure_method = pytest.mark.parametrize("solver", PURE)
CPU = torch.device("cpu")


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def solve(f, y0, ts, **settings):
    return pn.solve(f, y0, ts, engine="torch", compiled=False, **settings)


# The spiral in test_solvers.py: r' = RATE r (1 - r^2) and angle' = SPIN + RATE r^2 + WOBBLE cos t.
RATE, SPIN, WOBBLE, START = 0.1, 2.0, 0.2, 0.6


def spiral(t, y):
    a, b = y.unbind(-1)
    square = a * a + b * b
    growth, turning = RATE * (1 - square), SPIN + RATE * square + WOBBLE * torch.cos(t)
    return torch.stack([growth * a - turning * b, growth * b + turning * a], dim=-1)


def spiral_exact(t):
    t = np.asarray(t, dtype=float)
    c, e = START**-2 - 1, np.exp(2 * RATE * t)
    radius, angle = (1 + c / e) ** -0.5, SPIN * t + np.log((e + c) / (1 + c)) / 2 + WOBBLE * np.sin(t)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def robertson(k=(0.04, 3e7, 1e4)):
    def slope(t, u):
        a, b, c = u.unbind(-1)
        decay, meet, back = k[0] * a, k[1] * b * b, k[2] * b * c
        return torch.stack([back - decay, decay - back - meet, meet], dim=-1)

    return slope


def van_der_pol(t, y):
    a, b = y.unbind(-1)
    return torch.stack([b, ((1 - a * a) * b - a) * 1e6], dim=-1)


ROBERTSON_40 = np.array([0.7158270688, 9.185534765e-6, 0.2841637457])
ROBERTSON_END = np.array([2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050])
ROBERTSON_GRADIENT = f64(-4.24755877, -2.28835509e-9, 1.37308080e-5)
VAN_DER_POL_2 = np.array([1.706167732170483, -0.8928097010247975])

# Order and stability.

STEPS = {2: [64, 128, 256], 4: [48, 64, 96], 5: [64, 96, 128, 192], 7: [32, 40, 48]}


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@every_method
def test_the_order_is_the_claimed_one_and_so_is_that_of_the_dense_output(solver, backwards):
    counts = STEPS[SOLVERS[solver].order]
    between, at_grid = [], []
    for n in counts:
        ts = np.linspace(0, 4, n + 1)[:: -1 if backwards else 1]
        with torch.no_grad():
            solution = solve(spiral, spiral_exact(ts[0]), ts, solver=solver, step_size=4 / n, dense=True)
        at_grid.append(np.sqrt(np.mean((solution.ys - spiral_exact(ts)) ** 2)))
        times = np.linspace(0.013, 3.987, 23)
        between.append(np.sqrt(np.mean((solution(times) - spiral_exact(times)) ** 2)))
    orders = [-np.polyfit(np.log(counts), np.log(errors), 1)[0] for errors in (at_grid, between)]
    assert orders[0] == pytest.approx(SOLVERS[solver].order, abs=0.2)
    assert orders[1] > SOLVERS[solver].order - 0.2  # the error of the interpolant between steps


@every_pure_method
def test_one_step_damps_what_is_infinitely_stiff(solver):
    with torch.no_grad():
        ys = solve(lambda t, y: -1e12 * y, np.ones(1), [0.0, 1.0], solver=solver, step_size=1.0).ys
    assert abs(ys[-1, 0]) < 1e-9


@pytest.mark.parametrize(
    "tableau", [t for t in STIFF.values() if isinstance(t, (SDIRK, Rosenbrock))], ids=lambda t: t.name
)
def test_the_coefficients_fit_together(tableau):
    gap = np.abs(tableau.interpolant.sum(1) - tableau.b).max()
    assert gap < 1e-12 * np.abs(tableau.b).max()
    if isinstance(tableau, SDIRK):
        A, c, b = tableau.A, tableau.c, tableau.b
        np.testing.assert_allclose((A @ c)[2:], c[2:] ** 2 / 2, atol=1e-14)  # stage order 2
        np.testing.assert_allclose([b.sum(), b @ c, b @ c**2, b @ c**3], 1 / np.arange(1, 5), atol=1e-14)
        np.testing.assert_allclose(tableau.error @ np.stack([c**0, c, c**2], axis=1), 0, atol=1e-14)


# Published values.


@every_method
def test_robertson_at_40(solver):
    rtol, bound = (1e-4, 2e-3) if "23" in solver else (1e-6, 3e-5)
    with torch.no_grad():
        solution = solve(robertson(), f64(1, 0, 0).numpy(), [0.0, 40.0], solver=solver, rtol=rtol, atol=1e-10)
    np.testing.assert_allclose(solution.ys[-1], ROBERTSON_40, rtol=bound)
    assert solution.accepted < 400  # an explicit method needs 40,000 steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "f, y0, end, truth",
    [(robertson(), [1.0, 0, 0], 1e11, ROBERTSON_END), (van_der_pol, [2.0, 0], 2.0, VAN_DER_POL_2)],
    ids=["robertson", "van_der_pol"],
)
@every_method
def test_the_bari_test_set(solver, f, y0, end, truth):
    rtol, bound = (1e-5, 1e-3) if "23" in solver else (1e-8, 1e-5)
    with torch.no_grad():
        solution = solve(f, np.array(y0), [0.0, end], solver=solver, rtol=rtol, atol=1e-14)
    print(solver, np.abs(solution.ys[-1] / truth - 1), solution.nfev, solution.accepted, solution.rejected)
    np.testing.assert_allclose(solution.ys[-1], truth, rtol=bound)


# Gradients.


def driven(k):
    def slope(t, y):
        return torch.stack([-5 * k * (y[0] - torch.cos(t)) + 0.1 * y[1], torch.sin(y[0]) - t * k * y[1]])

    return slope


VALUES = [f64(2.0)[0], f64(0.5, 1.0), f64(0.1, 0.101, 0.4, 1.0)]


def weighted(k, y0, ts, **settings):
    ys = solve(driven(k), y0, ts, parameters={"k": k}, **settings).ys
    return (ys * torch.arange(1.0, ys.numel() + 1).reshape(ys.shape)).sum()


def by_autograd(**settings):
    leaves = [value.clone().requires_grad_() for value in VALUES]
    weighted(*leaves, **settings).backward()
    return torch.cat([leaf.grad.reshape(-1) for leaf in leaves])


def by_differences(which, **settings):
    found = []
    for i in which:
        for j in range(VALUES[i].numel()):
            shifted = []
            for sign in (1, -1):
                moved = [value.clone() for value in VALUES]
                moved[i].view(-1)[j] += sign * 1e-5
                with torch.no_grad():
                    shifted.append(weighted(*moved, **settings).item())
            found.append((shifted[0] - shifted[1]) / 2e-5)
    return f64(*found)


@pytest.mark.parametrize("gradient", ["Backprop", pn.Checkpointed(every=3)], ids=str)
@every_method
def test_the_steps_taken_are_differentiated_exactly(solver, gradient):
    """With fixed steps, finite differences use the same steps; derivatives by times are those of the exact solution."""
    found = by_autograd(solver=solver, gradient=gradient, step_size=0.1)
    torch.testing.assert_close(found[:3], by_differences([0, 1], solver=solver, step_size=0.1), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "gradient", ["Backprop", "Checkpointed", "InterpolatingAdjoint", "ForwardMode", "BacksolveAdjoint"]
)
@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5", "KenCarp4", "AutoVern7(Rodas5P)"])
def test_times_state_and_parameters_against_finite_differences(solver, gradient):
    found = by_autograd(solver=solver, gradient=gradient, rtol=1e-8, atol=1e-8)
    truth = by_differences([0, 1, 2], solver="Vern7", rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("gradient", ["Checkpointed", pn.InterpolatingAdjoint(atol=1e-16)], ids=str)
@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5", "KenCarp4"])
def test_robertson_gradient(solver, gradient):
    k = f64(0.04, 3e7, 1e4).requires_grad_()
    settings = {"solver": solver, "gradient": gradient, "rtol": 1e-8, "atol": 1e-12}
    ys = solve(robertson(k), f64(1, 0, 0), [0.0, 40.0], parameters={"k": k}, **settings).ys
    (found,) = torch.autograd.grad(ys[-1, 0], k)
    torch.testing.assert_close(found, ROBERTSON_GRADIENT, rtol=1e-5, atol=0)


@every_pure_method
def test_a_second_derivative_is_refused(solver):
    k = f64(0.5)[0].requires_grad_()
    y = solve(lambda t, y: -k * y, f64(1.0), [0.0, 1.0], parameters={"k": k}, solver=solver).ys[-1]
    with pytest.raises(ArgumentError, match="explicit solver"):
        torch.autograd.grad(y.sum(), k, create_graph=True)


# Jacobians.


class Kinetics(torch.nn.Module):
    """Two components that depend on the time, with one parameter, a rate."""

    def __init__(self):
        super().__init__()
        self.k = torch.nn.Parameter(f64(3.0)[0])

    def forward(self, t, y):
        x, z = y.unbind(-1)
        return torch.stack([-100 * (x - torch.cos(t)) + z, -self.k * z * x - t * x], dim=-1)


class BySample(Kinetics):
    samplewise = True


class Given(BySample):
    def jacobian(self, t, y):
        x, z = y.unbind(-1)
        one = torch.ones_like(x)
        rows = [torch.stack([-100 * one, one], -1), torch.stack([-self.k * z - t, -self.k * x], -1)]
        return torch.stack(rows, dim=-2)


class MatrixFree(Kinetics):
    matrix_free = True


class ReadsTheClock(Kinetics):
    """A field that detaches the time, so autograd cannot differentiate with respect to it."""

    def forward(self, t, y):
        return super().forward(t.detach(), y)


class InNumPy(Kinetics):
    def forward(self, t, y):
        return torch.from_numpy(super().forward(t, torch.from_numpy(y.numpy())).detach().numpy())


SAMPLES = f64([1.0, 0.5], [-0.3, 0.8], [0.2, 0.1])


def linearize(dynamics, y0, t=0.7):
    flat, layout = flatten(y0)
    parameters = (
        {name: torch.as_tensor(value) for name, value in dynamics.initial(1).items()}
        if isinstance(dynamics, pn.MLP | pn.HyperMLP | pn.Equations)
        else dict(dynamics.named_parameters())
    )
    statistics = Statistics()
    f = _counted_slope(dynamics, parameters, layout, flat.dtype, statistics)
    with torch.no_grad():
        return LinearizableSlope(f, dynamics, parameters, layout, statistics).linearize(t, flat, 0.1), statistics.nfev


@pytest.mark.parametrize("kind", [BySample, Given, MatrixFree, ReadsTheClock, InNumPy])
def test_all_ways_to_the_jacobian_agree(kind):
    whole, calls = linearize(Kinetics(), SAMPLES)
    assert whole.jacobian.shape == (6, 6) and calls == 2  # the first call evaluates the slope only
    other, calls = linearize(kind(), SAMPLES)
    close = {"rtol": 1e-6, "atol": 1e-5} if kind in (ReadsTheClock, InNumPy) else {}
    torch.testing.assert_close(other.slope, whole.slope)
    torch.testing.assert_close(other.time_derivative, whole.time_derivative, **close)
    x = torch.arange(6.0, dtype=torch.float64).cos()
    torch.testing.assert_close(other.jvp(x), whole.jacobian @ x, **close)
    matrix = torch.eye(6, dtype=torch.float64) - 0.3 * whole.jacobian
    solver = other.shifted_solver(0.3)
    torch.testing.assert_close(solver.solve(x), torch.linalg.solve(matrix, x), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(solver.solve_transposed(x), torch.linalg.solve(matrix.mT, x), rtol=1e-6, atol=1e-8)
    if kind in (BySample, Given):
        assert other.jacobian.shape == (3, 2, 2)


@pytest.mark.parametrize("kind", [BySample, Given, MatrixFree, ReadsTheClock])
@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5"])
def test_all_ways_to_the_jacobian_solve_and_differentiate_alike(solver, kind):
    def gradients(module):
        settings = {"solver": solver, "rtol": 1e-7, "atol": 1e-7}
        for gradient in ("Checkpointed", "InterpolatingAdjoint"):
            ys = solve(module, SAMPLES, [0.0, 0.3], gradient=gradient, **settings).ys
            yield from torch.autograd.grad(ys[-1].square().sum(), module.k)

    for found, expected in zip(gradients(kind()), gradients(Kinetics())):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "field",
    [pn.MLP((2, 8, 2)), pn.HyperMLP(2), pn.Equations({"x": "-9*(x - cos(t)) + y", "y": "-k*y*x - t*x"}, {"k": 3.0})],
    ids=lambda field: type(field).__name__,
)
def test_described_fields_have_a_jacobian_for_each_sample(field):
    several, _ = linearize(field, SAMPLES)
    assert several.jacobian.shape == (3, 2, 2)
    alone, _ = linearize(field, SAMPLES[1])
    torch.testing.assert_close(several.jacobian[1], alone.jacobian)
    with torch.no_grad():
        ys, truth = (solve(field, SAMPLES, [0.0, 1.0], solver=s, rtol=1e-9, atol=1e-9).ys for s in ("Rodas5P", "Vern7"))
    torch.testing.assert_close(ys, truth, rtol=0, atol=1e-7)


def test_newton_krylov_on_a_diffusion():
    """A diffusion with 200 unknowns and eigenvalues down to -1.6e5, compared with the exact decay of a sine."""
    n = 200
    x = torch.linspace(0, 1, n + 2, dtype=torch.float64)[1:-1]

    class Diffusion(torch.nn.Module):
        matrix_free = True

        def forward(self, t, y):
            return (n + 1) ** 2 * torch.nn.functional.conv1d(y[None, None], f64(1, -2, 1)[None, None], padding=1)[0, 0]

    with torch.no_grad():
        solution = solve(Diffusion(), torch.sin(math.pi * x), [0.0, 0.1], solver="KenCarp4", rtol=1e-5, atol=1e-7)
    rate = 2 * (n + 1) ** 2 * (math.cos(math.pi / (n + 1)) - 1)
    truth = math.exp(0.1 * rate) * torch.sin(math.pi * x)
    torch.testing.assert_close(solution.ys[-1], truth, rtol=1e-3, atol=1e-5)
    assert solution.accepted < 100


# Cost.


def count(monkeypatch, owner, name):
    calls, original = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    return calls


@every_method
def test_evaluations_are_the_real_calls(solver):
    calls = []

    def counted(t, y):
        calls.append(float(t.detach()))
        return spiral(t, y)

    with torch.no_grad():
        solution = solve(counted, spiral_exact(0), np.linspace(0, 4, 9), solver=solver)
    assert solution.nfev == len(calls)
    assert (solution.solver, solution.engine) == (solver, "torch")
    last = 1.24 if solver == "Kvaerno5" else 1.0  # one of Kvaerno5's stages lies after the end of the step
    assert min(calls) >= 0 and max(calls) <= 4 * last


@pytest.mark.parametrize("solver, per_step", [("Rosenbrock23", 3), ("Rodas5P", 8)])
def test_a_rejected_step_keeps_its_jacobian(solver, per_step, monkeypatch):
    system = count(monkeypatch, LinearizableSlope, "linearize")
    with torch.no_grad():
        solution = solve(
            robertson(), np.array([1.0, 0, 0]), [0.0, 1.0], solver=solver, first_step=0.1, rtol=1e-4, atol=1e-8
        )
    assert solution.rejected > 0 and len(system) == solution.accepted
    later = per_step - 1
    start = 2  # the first slope, and a test whether the field depends on the time
    assert solution.nfev == start + 1 + per_step * solution.accepted + later * solution.rejected


def test_factors_outlive_steps(monkeypatch):
    factored = count(monkeypatch, torch.linalg, "lu_factor_ex")
    with torch.no_grad():
        solution = solve(
            robertson(), np.array([1.0, 0, 0]), [0.0, 40.0], solver="Kvaerno5", rtol=1e-6, atol=1e-10, max_step=0.5
        )
    assert len(factored) < 0.7 * solution.accepted


@every_method
def test_single_precision_and_tuples(solver):
    def slope(t, state):
        x, z = state
        return -50 * (x - torch.cos(t)), -z * x.sum()

    y0 = (torch.tensor([1.0, 0.5]), torch.tensor(2.0))
    with torch.no_grad():
        x, z = solve(slope, y0, torch.tensor([0.0, 0.5, 2.0]), solver=solver, rtol=1e-4, atol=1e-5).ys
        double = tuple(part.double() for part in y0)
        exact = solve(slope, double, f64(0, 0.5, 2.0), solver="Vern7", rtol=1e-10, atol=1e-10).ys
    assert x.dtype == z.dtype == torch.float32
    torch.testing.assert_close(x.double(), exact[0], rtol=0, atol=2e-3)
    torch.testing.assert_close(z.double(), exact[1], rtol=0, atol=2e-3)


@every_method
def test_dense_output_agrees_with_saved_states(solver):
    ts = np.array([0.0, 0.11, 0.5, 2.3, 3.99, 4.0])
    with torch.no_grad():
        solution = solve(spiral, spiral_exact(0), ts, solver=solver, rtol=1e-4, atol=1e-4, dense=True)
    np.testing.assert_allclose(solution(ts), solution.ys, rtol=0, atol=1e-12)


# Switching.


def methods_taken(solver, f, y0, end, **control):
    method = as_method(STIFF[solver], torch.float64, CPU)
    flat, layout = flatten(y0)
    statistics = Statistics()
    system = LinearizableSlope(_counted_slope(f, {}, layout, torch.float64, statistics), f, {}, layout, statistics)
    with torch.no_grad():
        task = Task(system, [0.0, end], method, Control(**control), statistics)
        return [(stop.step.t, stop.step.method is method.stiff) for stop in march(task, flat)]


@pytest.mark.parametrize("solver", SWITCHING)
def test_switching_goes_to_the_stiff_method_and_back(solver):
    """The solver uses the stiff method only while the problem is stiff, from t = 1 to t = 3."""

    def slope(t, y):
        rate = 1e4 if 1 < float(t.detach()) < 3 else 1.0
        return -rate * (y - torch.cos(t)) - torch.sin(t)

    taken = methods_taken(solver, slope, f64(1.5), 6.0, rtol=1e-5, atol=1e-5, max_step=0.2)
    changes = sum(a[1] != b[1] for a, b in itertools.pairwise(taken))
    assert changes == 2 and not taken[0][1] and not taken[-1][1]
    assert all(stiff for t, stiff in taken if 1.3 < t < 3)


@pytest.mark.parametrize("solver, explicit", [("AutoTsit5(Rosenbrock23)", "Tsit5"), ("AutoVern7(Rodas5P)", "Vern7")])
def test_where_nothing_is_stiff_the_explicit_method_steps(solver, explicit):
    with torch.no_grad():
        switching, plain = (solve(spiral, spiral_exact(0), [0.0, 4.0], solver=s) for s in (solver, explicit))
    np.testing.assert_array_equal(switching.ys, plain.ys)
    assert switching.nfev == plain.nfev


# Errors in the user's code.


def test_a_jacobian_of_the_wrong_shape_is_answered():
    class Wrong(Given):
        def jacobian(self, t, y):
            return super().jacobian(t, y)[0]

    with pytest.raises(ArgumentError, match=r"jacobian returned \(2, 2\).*\(3, 2, 2\)"):
        solve(Wrong(), SAMPLES, [0.0, 1.0], solver="Rodas5P")


def test_samplewise_wants_vectors():
    with pytest.raises(ArgumentError, match="samplewise is True"):
        solve(BySample(), (SAMPLES, SAMPLES), [0.0, 1.0], solver="Rodas5P")


@pytest.mark.parametrize("solver", ["Kvaerno5", "KenCarp4"])
def test_a_failed_iteration_is_named(solver):
    """The slope is discontinuous in the state, so that the equations of a step have no solution there."""

    def slope(t, y):
        return 1e3 * (torch.where(y > 1, -2.0, 1.0) + 1e-3 * y)

    with pytest.raises(SolverError, match="Newton's iteration did not converge"):
        solve(slope, np.zeros(1), [0.0, 1.0], solver=solver, step_size=0.25)


@every_method
def test_a_singularity_is_named(solver):
    with pytest.raises(SolverError, match=r"fell to .* at t = (1|0\.99)") as raised:
        solve(lambda t, y: y * y, np.ones(1), [0.0, 2.0], solver=solver, rtol=1e-4, atol=1e-4)
    assert raised.value.t == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("solver", ["Rodas5P", "KenCarp4"])
def test_a_failed_linear_solve_is_named(solver, monkeypatch):
    monkeypatch.setattr(linearizations, "MAX_VECTORS", 1)
    monkeypatch.setattr(linearizations, "MAX_RESTARTS", 1)
    with pytest.raises(SolverError, match="GMRES did not converge"):
        solve(MatrixFree(), SAMPLES, [0.0, 1.0], solver=solver, step_size=0.1)
