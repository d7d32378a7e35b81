"""The torch engine's explicit solvers, through `pyneuralode.solve`: exact solutions, published values, and SciPy."""

import math

import detest
import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.errors import ArgumentError, SolverError
from pyneuralode.solvers import SOLVERS, solvers_of
from pyneuralode.tableaus import TABLEAUS, Tableau

torch.set_num_threads(1)

EXPLICIT = [name for name in solvers_of("torch") if SOLVERS[name].kind == "explicit"]
ADAPTIVE = [name for name in EXPLICIT if SOLVERS[name].adaptive]
PEERS = {"BS3": "RK23", "DP5": "RK45", "DP8": "DOP853"}

every_method = pytest.mark.parametrize("solver", EXPLICIT)
every_adaptive_method = pytest.mark.parametrize("solver", ADAPTIVE)
both_ways = pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])


def solve(f, y0, ts, **settings):
    return pn.solve(f, y0, ts, compiled=False, **settings)


# A nonlinear, non-autonomous, coupled system with a closed form: a spiral to the unit circle. In polar form
# r' = RATE r (1 - r^2) and angle' = SPIN + RATE r^2 + WOBBLE cos t, from r = 0.6 and angle 0.
RATE, SPIN, WOBBLE, START = 0.1, 2.0, 0.2, 0.6
SPAN = (0.0, 4.0)


def spiral(t, y):
    a, b = y.tolist()  # Python floats are several times faster than ten operations on tensors of one element
    growth = RATE * (1 - a * a - b * b)
    turning = SPIN + RATE * (a * a + b * b) + WOBBLE * math.cos(t)
    return torch.tensor([growth * a - turning * b, growth * b + turning * a], dtype=y.dtype)


def spiral_exact(t):
    t = np.asarray(t, dtype=float)
    c, e = START**-2 - 1, np.exp(2 * RATE * t)
    radius = (1 + c / e) ** -0.5
    angle = SPIN * t + np.log((e + c) / (1 + c)) / 2 + WOBBLE * np.sin(t)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


class Counted:
    """A field that records the times at which it is called."""

    def __init__(self, f):
        self.f, self.times = f, []

    def __call__(self, t, y):
        self.times.append(float(t))
        return self.f(t, y)


def slope_of(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


# Order of convergence: numbers of steps for which the leading error term dominates and rounding is negligible.

STEPS = {
    1: [256, 512, 1024], 2: [64, 128, 256], 3: [64, 128, 256], 4: [64, 128, 256], 5: [64, 96, 128, 192],
    7: [24, 32, 40, 48], 8: [12, 16, 24, 32],
}  # fmt: skip


def observed_order(solver, counts, span=SPAN):
    errors = []
    for n in counts:
        ts = np.linspace(*span, n + 1)
        ys = solve(spiral, spiral_exact(span[0]), ts, solver=solver, step_size=(SPAN[1] - SPAN[0]) / n).ys
        errors.append(rms(ys - spiral_exact(ts)))
    return -slope_of(counts, errors)


@both_ways
@every_method
def test_the_order_is_the_claimed_one(solver, backwards):
    order, span = SOLVERS[solver].order, SPAN[::-1] if backwards else SPAN
    assert observed_order(solver, STEPS[order], span) == pytest.approx(order, abs=0.2)


def test_the_order_test_sees_propagated_embedded_weights():
    """Wrong weights, as in torchdiffeq's tsit5, which propagate the embedded solution, are measured as order 4."""
    good = TABLEAUS["Tsit5"]
    wrong = Tableau("wrong", 5, A=good.A, b=good.b - good.error[0], c=good.c)
    assert observed_order(wrong, STEPS[4]) == pytest.approx(4, abs=0.2)


# Tolerances.

DECADES = 10.0 ** -np.arange(3, 11)


def assert_falls(errors):
    errors = np.array(errors)
    assert (errors[1:] < errors[:-1]).all(), errors
    decades = len(errors) - 1
    assert errors[-1] < errors[0] * 10 ** (-0.6 * decades), errors


@both_ways
@every_adaptive_method
def test_the_error_falls_with_each_decade_of_tolerance(solver, backwards):
    ts = np.linspace(0, 2, 21)[:: -1 if backwards else 1]
    truth, errors = spiral_exact(ts), []
    for tol in DECADES:
        ys = solve(spiral, truth[0], ts, solver=solver, rtol=tol, atol=tol).ys
        errors.append(np.abs(ys - truth).max())
    assert_falls(errors)
    assert errors[-1] < 1e-8


def solve_detest(name, solver, tol):
    problem = detest.PROBLEMS[name]
    return solve(problem.torch_field, problem.y0, detest.SAMPLES, solver=solver, rtol=tol, atol=tol)


def errors_on_detest(solver, name):
    decades = DECADES[:5] if solver == "BS3" else DECADES[:7]
    return [np.abs(solve_detest(name, solver, tol).ys - detest.reference(name)).max() for tol in decades]


@pytest.mark.parametrize("name", ["A4", "B5", "C3", "D2", "E1"])
@every_adaptive_method
def test_the_error_falls_on_detest(solver, name):
    pytest.importorskip("scipy")
    assert_falls(errors_on_detest(solver, name))


@pytest.mark.slow
@every_adaptive_method
def test_the_error_falls_on_all_of_detest(solver):
    """On three problems, the error of DP8 decreases irregularly; on two of them, so does that of SciPy's DOP853."""
    pytest.importorskip("scipy")
    errors = {name: errors_on_detest(solver, name) for name in detest.PROBLEMS}
    assert_falls(np.exp(np.log(list(errors.values())).mean(axis=0)))
    for name in set(errors) - ({"A3", "E4", "E5"} if solver == "DP8" else set()):
        assert_falls(errors[name])


# DETEST compared with SciPy. First, the reference solutions are compared with closed forms.


def kepler_exact(e, t):
    """Return positions and velocities (T, 4) on a Kepler orbit of eccentricity e, computed by Newton's method."""
    anomaly = t + e * np.sin(t)
    for _ in range(50):
        anomaly = anomaly - (anomaly - e * np.sin(anomaly) - t) / (1 - e * np.cos(anomaly))
    root, rate = math.sqrt(1 - e * e), 1 / (1 - e * np.cos(anomaly))
    cosine, sine = np.cos(anomaly), np.sin(anomaly)
    return np.stack([cosine - e, root * sine, -sine * rate, root * cosine * rate], axis=-1)


def detest_exact(name, t):
    from scipy.linalg import expm
    from scipy.special import ellipj, jv

    problem = detest.PROBLEMS[name]
    if name[0] == "D":
        return kepler_exact(detest.ECCENTRICITIES[name], t)
    if name in ("B2", "C1", "C2", "C3", "C4"):  # linear: the slopes at unit vectors are the matrix's columns
        matrix = np.stack([problem.numpy_field(0.0, unit) for unit in np.eye(len(problem.y0))], axis=1)
        return np.stack([expm(matrix * time) @ problem.y0 for time in t])
    limit = math.sqrt(0.08)
    forms = {
        "A1": lambda: [np.exp(-t)],
        "A2": lambda: [(1 + t) ** -0.5],
        "A3": lambda: [np.exp(np.sin(t))],
        "A4": lambda: [20 / (1 + 19 * np.exp(-t / 4))],
        "B5": lambda: ellipj(t, 0.51)[:3],
        "E1": lambda: [jv(0.5, t + 1), jv(-0.5, t + 1) - 0.5 * jv(0.5, t + 1) / (t + 1)],
        "E4": lambda: [30 + np.log(np.cosh(0.4 * limit * t)) / 0.4, limit * np.tanh(0.4 * limit * t)],
    }
    return np.stack(forms[name](), axis=-1)


CLOSED = ["A1", "A2", "A3", "A4", "B2", "B5", "C1", "C2", "C3", "C4", "D1", "D2", "D3", "D4", "D5", "E1", "E4"]


@pytest.mark.parametrize("name", CLOSED)
def test_the_reference_is_exact_where_a_closed_form_exists(name):
    pytest.importorskip("scipy")
    atol = 1e-9 if name == "D5" else 1e-11  # only rounding, amplified where the motion along D5's orbit is fastest
    truth = detest_exact(name, detest.SAMPLES)
    np.testing.assert_allclose(detest.reference(name), truth, rtol=1e-10, atol=atol)


def test_the_set_is_complete():
    assert sorted(detest.PROBLEMS) == [letter + digit for letter in "ABCDE" for digit in "12345"]


def compare_with_scipy(solver, tolerances):
    """Return the geometric mean ratios, ours / SciPy's, of errors at the end and inside, and that of evaluations."""
    from scipy.integrate import solve_ivp

    def errors(ys, truth):
        error = (np.abs(ys - truth) / (1 + np.abs(truth))).max(axis=1)
        return error[-1], error[1:-1].max()

    ratios, ours, theirs = [], 0, 0
    for problem in detest.PROBLEMS.values():
        truth = detest.reference(problem.name)
        for tol in tolerances:
            control = {"method": PEERS[solver], "rtol": tol, "atol": tol, "dense_output": True}
            a = solve_detest(problem.name, solver, tol)
            b = solve_ivp(problem.numpy_field, (0, detest.END), problem.y0, **control)
            ratios.append(np.divide(errors(a.ys, truth), errors(b.sol(detest.SAMPLES).T, truth)))
            ours, theirs = ours + a.nfev, theirs + b.nfev
    at_end, inside = np.exp(np.log(ratios).mean(axis=0))
    return at_end, inside, ours / theirs


def assert_as_good_as_scipy(solver, tolerances):
    pytest.importorskip("scipy")
    at_end, inside, evaluations = compare_with_scipy(solver, tolerances)
    print(f"{solver} over SciPy: error {at_end:.2f} at the end, {inside:.2f} inside; calls {evaluations:.2f}")
    assert at_end <= 2 and inside <= 2
    assert evaluations <= 1.5  # the accuracy is not due to much smaller steps


@pytest.mark.parametrize(
    "solver, tolerances", [("BS3", [1e-3, 1e-5]), ("DP5", [1e-4, 1e-7]), ("DP8", [1e-5, 1e-8])], ids=PEERS
)
def test_detest_errors_are_at_most_twice_those_of_scipy(solver, tolerances):
    assert_as_good_as_scipy(solver, tolerances)


@pytest.mark.slow
@pytest.mark.parametrize("solver, last", [("BS3", 7), ("DP5", 9), ("DP8", 10)])
def test_detest_at_every_tolerance(solver, last):
    assert_as_good_as_scipy(solver, 10.0 ** -np.arange(3, last + 1))


# Published values.


@pytest.mark.parametrize("solver", ["DP5", "Tsit5", "Vern7", "DP8"])
def test_lotka_volterra_sum(solver):
    def slope(t, u):
        x, y = u.tolist()
        return torch.tensor([1.5 * x - x * y, -3 * y + x * y], dtype=torch.float64)

    # Lotka-Volterra with rates (1.5, 1, 3, 1): gradient of the sum over 101 states, from SciMLSensitivity.
    ys = solve(slope, np.ones(2), np.linspace(0, 10, 101), solver=solver, rtol=1e-10, atol=1e-10).ys
    assert ys.sum() == pytest.approx(450.7640640395, rel=1e-8)


@both_ways
@every_adaptive_method
def test_van_der_pol_returns_after_one_period(solver, backwards):
    """Amplitude and period are those of the limit cycle at mu = 1."""
    amplitude, period = 2.008619860874843, 6.663286859323130
    field, tol = detest.PROBLEMS["E2"].torch_field, 1e-7 if solver == "BS3" else 1e-9
    ts = [0.0, period][:: -1 if backwards else 1]
    ys = solve(field, np.array([amplitude, 0.0]), ts, solver=solver, rtol=tol, atol=tol).ys
    # Backward in time, the cycle is repelling: errors grow by a factor exp(7.06) per period.
    np.testing.assert_allclose(ys[-1], [amplitude, 0], rtol=0, atol=(3000 if backwards else 30) * tol)


# Dense output.


@every_method
def test_the_interpolant_has_its_order_inside_a_step(solver):
    """Inside one step from an exact state, the error is of order h^(interpolant_order + 1)."""
    order = TABLEAUS[solver].interpolant_order
    sizes = {7: 0.4, 6: 0.2}.get(order, 0.05) / np.array([1, 2, 4])
    errors = []
    for h in sizes:
        inside = []
        for t in np.linspace(*SPAN, 5):
            solution = solve(spiral, spiral_exact(t), [t, t + h], solver=solver, step_size=h, dense=True)
            times = t + h * np.array([0.2, 0.4, 0.6, 0.8])
            inside.append(solution(times) - spiral_exact(times))
        errors.append(rms(inside))
    # Vern7's interpolant violates 12 conditions of order seven by only 3e-7, and behaves as if of order seven.
    top = order + 2 if solver == "Vern7" else order + 1
    assert order + 0.8 <= slope_of(sizes, errors) <= top + 0.2


@both_ways
@every_method
def test_dense_output_agrees_with_saved_states(solver, backwards):
    ts = np.array([0.0, 0.11, 0.5, 0.9, 1.0, 2.3, 3.99, 4.0])[:: -1 if backwards else 1]
    control = {"rtol": 1e-4, "atol": 1e-4} if SOLVERS[solver].adaptive else {"step_size": 0.25}
    solution = solve(spiral, spiral_exact(ts[0]), ts, solver=solver, dense=True, **control)
    np.testing.assert_allclose(solution(ts), solution.ys, rtol=0, atol=1e-12)
    for t, y in zip(ts, solution.ys):
        assert solution(float(t)).shape == (2,)
        np.testing.assert_allclose(solution(float(t)), y, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(solution(torch.tensor(ts.copy())), solution(ts))


@both_ways
@every_method
def test_dense_output_is_continuous_where_steps_meet(solver, backwards):
    span = SPAN[::-1] if backwards else SPAN
    solution = solve(spiral, spiral_exact(span[0]), span, solver=solver, step_size=0.1, dense=True)
    meets = np.linspace(*SPAN, 41)[1:-1]
    ahead, behind = solution(np.nextafter(meets, np.inf)), solution(np.nextafter(meets, -np.inf))
    np.testing.assert_allclose(ahead, behind, rtol=0, atol=1e-11)
    if solver != "Euler":  # the other interpolants also have a continuous derivative
        d = 1e-5
        here = solution(meets)
        left, right = (here - solution(meets - d)) / d, (solution(meets + d) - here) / d
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-3)


@both_ways
def test_dense_output_ends_with_the_span(backwards):
    span = SPAN[::-1] if backwards else SPAN
    solution = solve(spiral, spiral_exact(span[0]), span, dense=True)
    for t in (-1e-9, 4.0 + 1e-9, [1.0, 5.0], torch.tensor(-3.0), math.nan, math.inf):
        with pytest.raises(ArgumentError, match="outside the solved time span"):
            solution(t)
    with pytest.raises(ArgumentError, match="dense=True"):
        solve(spiral, spiral_exact(0), SPAN)(1.0)


@every_method
def test_dense_output_stays_that_of_the_solve(solver):
    """Dense output ignores later changes of the parameters, for instance by an optimizer; evaluations are counted."""
    rate = torch.tensor(1.0, dtype=torch.float64)
    field = Counted(lambda t, y: -rate * y)
    times = np.linspace(0, 1, 31)
    solution = solve(field, np.ones(1), [0.0, 1.0], solver=solver, dense=True, step_size=0.1)
    rate.fill_(5.0)
    np.testing.assert_allclose(solution(times)[:, 0], np.exp(-times), atol=0.03)
    assert solution.nfev == len(field.times)


# Statistics, and return values of a solve.


@both_ways
@every_method
def test_evaluations_are_the_real_calls(solver, backwards):
    field = Counted(spiral)
    ts = np.linspace(*SPAN, 30)[:: -1 if backwards else 1]
    solution = solve(field, spiral_exact(ts[0]), ts, solver=solver)
    assert solution.nfev == len(field.times)
    assert solution.message == "reached the last time"
    assert (solution.solver, solution.engine) == (solver, "torch")
    if not SOLVERS[solver].adaptive:  # one step between consecutive times
        assert (solution.accepted, solution.rejected) == (29, 0)


@pytest.mark.parametrize("solver, per_step", [("BS3", 3), ("DP5", 6), ("Tsit5", 6), ("DP8", 12)])
def test_the_last_stage_is_the_next_first_and_a_rejection_costs_no_more(solver, per_step):
    stiffening = detest.PROBLEMS["E2"]
    solution = solve(stiffening.torch_field, stiffening.y0, [0.0, 10.0], solver=solver, first_step=1.0)
    assert solution.rejected > 0 and solution.accepted > 0
    assert solution.nfev == 1 + per_step * (solution.accepted + solution.rejected)


@every_adaptive_method
def test_a_jump_in_the_field_is_met_by_rejections(solver):
    def slope(t, y):
        return torch.full_like(y, 1.0 if t < 1 else -100.0)

    solution = solve(slope, np.zeros(1), [0.0, 2.0], solver=solver, rtol=1e-6, atol=1e-6)
    assert solution.rejected > 0
    assert solution.ys[-1, 0] == pytest.approx(-99, abs=1e-3)


@every_adaptive_method
def test_more_times_do_not_change_the_steps(solver):
    few = solve(spiral, spiral_exact(0), SPAN, solver=solver)
    many = solve(spiral, spiral_exact(0), np.linspace(*SPAN, 101), solver=solver)
    assert (few.accepted, few.rejected) == (many.accepted, many.rejected)
    np.testing.assert_allclose(many.ys[-1], few.ys[-1], rtol=0, atol=1e-14)


@both_ways
@every_adaptive_method
def test_the_field_is_called_inside_the_span_only(solver, backwards):
    """The field may be undefined outside the span, and a slope this small suggests a large first step."""
    field = Counted(lambda t, y: 1e-6 * y)
    ts = [1.0, 0.0] if backwards else [0.0, 1.0]
    ys = solve(field, np.ones(2), ts, solver=solver).ys
    assert min(field.times) >= 0 and max(field.times) <= 1
    np.testing.assert_allclose(ys[-1], math.exp(1e-6 * (ts[1] - ts[0])), rtol=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@every_method
def test_the_first_state_is_the_initial_one_and_the_kind_is_kept(solver, kind):
    y0 = kind(np.array([0.1, 1 / 3]))
    solution = solve(spiral, y0, [0.3, 0.7, 1.1], solver=solver)
    assert type(solution.ys) is type(y0) and solution.ys.dtype == y0.dtype
    assert solution.ys.shape == (3, 2)
    assert solution.ys[0].tolist() == y0.tolist()


@every_method
def test_tuples_scalars_and_blocks_of_states(solver):
    """A tuple of coupled parts: u' = v, v' = -u; s' = sum of w, w' = -w."""

    def slope(t, state):
        (u, v), s, w = state
        assert s.shape == () and w.shape == (2, 3, 1) and t.shape == ()
        return torch.stack([v, -u]), w.sum(), -w

    w0 = torch.arange(6.0, dtype=torch.float64).reshape(2, 3, 1)
    y0 = (torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64), w0)
    control = {"rtol": 1e-8, "atol": 1e-8} if SOLVERS[solver].adaptive else {"step_size": 1e-2}
    close = {"rtol": 0, "atol": {1: 0.1, 2: 1e-3}.get(SOLVERS[solver].order, 1e-6)}
    ts = torch.tensor([0.0, 0.5, 1.5], dtype=torch.float64)
    turn, s, w = solve(slope, y0, ts, solver=solver, **control).ys
    assert (turn.shape, s.shape, w.shape) == ((3, 2), (3,), (3, 2, 3, 1))
    decay = torch.exp(-ts)
    torch.testing.assert_close(turn, torch.stack([ts.sin(), ts.cos()], dim=1), **close)
    torch.testing.assert_close(s, 2 + 15 * (1 - decay), rtol=0, atol=15 * close["atol"])
    torch.testing.assert_close(w, decay[:, None, None, None] * w0, rtol=0, atol=5 * close["atol"])


@pytest.mark.parametrize("y0", [2.0, np.float64(2.0), np.array(2.0), torch.tensor(2.0, dtype=torch.float64)])
def test_a_state_without_axes(y0):
    solution = solve(lambda t, y: -2 * t * y, y0, [0.0, 0.5, 1.0], rtol=1e-9, atol=1e-9, dense=True)
    assert solution.ys.shape == (3,) and solution(0.5).shape == () and solution([0.1, 0.2]).shape == (2,)
    np.testing.assert_allclose(solution.ys, 2 * np.exp(-np.square([0, 0.5, 1])), rtol=1e-8)


def test_a_linear_system_of_matrices():
    """Y' = A Y has the solution exp(tA) Y0, for a batch of matrices too."""
    a = torch.tensor([[0.0, 1.0, 0.2], [-1.0, -0.1, 0.0], [0.3, 0.0, -0.5]], dtype=torch.float64)
    y0 = torch.arange(24.0, dtype=torch.float64).reshape(4, 3, 2).sin()
    ts = torch.tensor([2.0, 1.0, -1.5], dtype=torch.float64)
    ys = solve(lambda t, y: a @ y, y0, ts, solver="DP8", rtol=1e-11, atol=1e-11).ys
    for t, y in zip(ts, ys):
        torch.testing.assert_close(y, torch.matrix_exp((t - ts[0]) * a) @ y0, rtol=0, atol=1e-9)


@every_adaptive_method
def test_single_precision(solver):
    ts = np.linspace(*SPAN, 9)
    solution = solve(spiral, spiral_exact(0).astype(np.float32), ts, solver=solver, rtol=1e-5, atol=1e-5)
    assert solution.ys.dtype == np.float32
    np.testing.assert_allclose(solution.ys, spiral_exact(ts), rtol=0, atol=1e-4)


# Step size control. BS3's stages are at 1/2, 3/4 and 1 of a step, so the calls show the size of each trial step.


def sizes_tried(times):
    _, *stages = times  # with first_step given, one call precedes the steps
    return [2 * abs(end - middle) for middle, end in zip(stages[::3], stages[2::3])]


@both_ways
def test_first_step_and_max_step_are_kept(backwards):
    field = Counted(lambda t, y: torch.cos(t).reshape(1))
    ts = [20.0, 0.0] if backwards else [0.0, 20.0]
    loose = {"solver": "BS3", "rtol": 1e-2, "atol": 1e-2}
    solution = solve(field, np.sin(ts[:1]), ts, first_step=0.01, max_step=0.4, **loose)
    sizes = sizes_tried(field.times)
    assert len(sizes) == solution.accepted + solution.rejected
    assert sizes[0] == pytest.approx(0.01)
    assert max(sizes) == pytest.approx(0.4)
    free = solve(field.f, np.sin(ts[:1]), ts, **loose)
    assert free.accepted < solution.accepted
    assert solution.ys[-1, 0] == pytest.approx(math.sin(ts[1]), abs=0.01)


def test_max_step_bounds_the_first_step_too():
    field = Counted(lambda t, y: -y)
    solve(field, np.ones(1), [0.0, 3.0], solver="BS3", rtol=1e-2, atol=1e-2, first_step=2.0, max_step=0.1)
    assert max(sizes_tried(field.times)) == pytest.approx(0.1)


@every_adaptive_method
def test_a_singularity_is_reported_where_it_is(solver):
    """The solution of y' = y^2, y(0) = 1 has a pole at t = 1."""
    with pytest.raises(SolverError, match="the step fell to") as caught:
        solve(lambda t, y: y * y, np.ones(1), [0.0, 2.0], solver=solver)
    assert caught.value.t == pytest.approx(1, abs=1e-3)
    assert 0 < caught.value.step < 1e-6
    with pytest.raises(SolverError, match="below the minimum of 0.01") as caught:
        solve(lambda t, y: y * y, np.ones(1), [0.0, 2.0], solver=solver, min_step=0.01)
    assert 0.5 < caught.value.t < 1
    assert 0 < caught.value.step < 0.01


@every_adaptive_method
def test_min_step_stops_no_solve_that_does_with_larger_steps(solver):
    """The automatic first step is below min_step here, but larger steps satisfy the tolerance."""
    ys = solve(lambda t, y: -y, np.ones(1), [0.0, 5.0], solver=solver, rtol=1e-2, atol=1e-2, min_step=0.4).ys
    assert ys[-1, 0] == pytest.approx(math.exp(-5), abs=0.02)


@pytest.mark.parametrize("limit", [1, 10])
@every_adaptive_method
def test_max_steps_stops_a_solve(solver, limit):
    field = Counted(spiral)
    with pytest.raises(SolverError, match=f"max_steps = {limit} steps") as caught:
        solve(field, spiral_exact(0), [0.0, 4000.0], solver=solver, rtol=1e-8, atol=1e-8, max_steps=limit)
    error = caught.value
    assert 0 < error.t < 4000 and error.step > 0
    assert len(field.times) <= 2 + 13 * limit
    free = solve(spiral, spiral_exact(0), [0.0, 1.0], solver=solver)
    needed = free.accepted + free.rejected
    enough = solve(spiral, spiral_exact(0), [0.0, 1.0], solver=solver, max_steps=needed)
    assert enough.accepted == free.accepted


def test_as_many_fixed_steps_as_max_steps_are_taken():
    assert solve(spiral, spiral_exact(0), [0.0, 1.0], solver="RK4", step_size=0.1, max_steps=10).accepted == 10
    with pytest.raises(ArgumentError, match="needs 10 steps of this size, more than max_steps = 9"):
        solve(spiral, spiral_exact(0), [0.0, 1.0], solver="RK4", step_size=0.1, max_steps=9)


def test_errors_at_the_start_and_on_the_way():
    with pytest.raises(SolverError, match="non-finite value at the start") as caught:
        solve(lambda t, y: y / 0.0, np.ones(1), [0.5, 1.0])
    assert caught.value.t == 0.5
    with pytest.raises(SolverError, match="becomes non-finite") as caught:
        solve(lambda t, y: torch.full_like(y, 1.0 if t < 0.7 else math.nan), np.ones(1), [0.0, 1.0])
    assert caught.value.t == pytest.approx(0.7, abs=1e-9)
    with pytest.raises(SolverError, match="non-finite at t = "):
        solve(lambda t, y: y * y, np.full(1, 10.0), np.linspace(0, 5, 51), solver="RK4")


@every_adaptive_method
def test_tolerances_per_component(solver):
    """Of two rotations, the second is faster and a million times smaller, and needs a separate, smaller tolerance."""
    small = 1e-6
    y0 = np.array([[1.0, 0.0], [small, 0.0]])
    speed = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    ts = np.linspace(0, 5, 11)
    angles = np.outer(ts, [1, 4])
    truth = np.stack([np.cos(angles), -np.sin(angles)], axis=2) * [[1], [small]]

    def slope(t, y):
        return speed * torch.stack([y[:, 1], -y[:, 0]], dim=1)

    def errors(atol):
        ys = solve(slope, y0, ts, solver=solver, rtol=0.0, atol=atol).ys
        return np.abs(ys - truth).max(axis=(0, 2))

    coarse, fine = errors(1e-5), errors(np.array([[1e-5], [1e-5 * small]]))  # (2, 1) is broadcast to (2, 2)
    assert (fine < [3e-4, 3e-4 * small]).all()
    assert coarse[0] < 3e-4 and coarse[1] > 30 * fine[1]
    np.testing.assert_array_equal(errors(np.full((2, 2), 1e-5)), coarse)


@pytest.mark.parametrize("solver", ["Tsit5", "DP8", "Rodas5P"])
def test_no_sample_hides_among_many(solver):
    """With norm="samples", one moving sample among many at rest determines the steps, as in a separate solve."""
    rest, start = torch.zeros(400, 2, dtype=torch.float64), torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    field = pn.Equations({"x": "v", "v": "(1 - x**2)*v - x"})
    settings = {"solver": solver, "rtol": 1e-6, "atol": 1e-6}
    alone = pn.solve(field, start, [0.0, 5.0], **settings)
    among = pn.solve(field, torch.cat([rest, start, rest]), [0.0, 5.0], norm="samples", **settings)
    assert (among.accepted, among.rejected) == (alone.accepted, alone.rejected)
    torch.testing.assert_close(among.ys[:, 400:401], alone.ys, rtol=1e-9, atol=1e-9)
    hidden = pn.solve(field, torch.cat([rest, start, rest]), [0.0, 5.0], **settings)
    assert hidden.accepted < alone.accepted
    parts = pn.solve(lambda t, y: (y[1], -y[0]), (start, 0 * start), [0.0, 5.0], norm="samples", **settings)
    assert float((parts.ys[0][-1, 0, 0] - 2 * np.cos(5.0)).abs()) < 1e-4


def test_relative_tolerances_per_component():
    ts = np.array([0.0, 1.0, 3.0])
    rates = torch.tensor([1.0, -1.0], dtype=torch.float64)
    truth = np.exp(np.outer(ts, [1, -1]))

    def errors(rtol):
        ys = solve(lambda t, y: rates * y, np.ones(2), ts, rtol=np.array(rtol), atol=0.0, solver="DP5").ys
        return np.abs(ys / truth - 1).max(axis=0)

    for rtol in ([1e-3, 1e-9], [1e-9, 1e-3]):
        error = errors(rtol)
        assert error.max() < 1e-7, error  # both components share the step size, so both are accurate
    assert errors([1e-3, 1e-3]).max() > 1e-6


def test_fixed_steps_need_not_divide_the_span():
    field = Counted(lambda t, y: -y)
    solution = solve(field, np.ones(1), [0.0, 0.55, 1.0], solver="RK4", step_size=0.3)
    assert (solution.accepted, max(field.times)) == (4, 1.0)
    np.testing.assert_allclose(solution.ys[:, 0], np.exp([0, -0.55, -1]), atol=1e-3)
