"""Compiled formulas against the generic path, published values and finite differences; special cases."""

import logging
import re
import threading

import numpy as np
import pytest
import torch
from paths import RALSTON, both
from paths import check as check_all

import pyneuralode as pn
from pyneuralode.engines.registry import Settings
from pyneuralode.engines.torch_engine.compiled import available
from pyneuralode.engines.torch_engine.compiled.formulas import function, path
from pyneuralode.engines.torch_engine.compiled.formulas.each import FormulasOfEach
from pyneuralode.engines.torch_engine.compiled.formulas.plan import method_plans
from pyneuralode.engines.torch_engine.compiled.formulas.program import OPERATIONS, program_of
from pyneuralode.engines.torch_engine.stiff import find_tableau
from pyneuralode.errors import SolverError
from pyneuralode.fields.formulas import BINARY, FUNCTIONS
from pyneuralode.gradients import Backprop, Checkpointed
from pyneuralode.models import solve
from pyneuralode.solvers import find_solver
from pyneuralode.tableaus import TABLEAUS

pytest.importorskip("numba")

STIFF = ("Rosenbrock23", "Rodas5P", "Kvaerno5", "KenCarp4")
SWITCHING = ("AutoTsit5(Rosenbrock23)", "AutoVern7(Rodas5P)")
ROBERTSON = pn.Equations(
    {"a": "-k1*a + k3*b*c", "b": "k1*a - k2*b**2 - k3*b*c", "c": "k2*b**2"}, {"k1": 0.04, "k2": 3e7, "k3": 1e4}
)
VAN_DER_POL = pn.Equations({"x": "v", "v": "mu*((1 - x**2)*v) - x"}, {"mu": 5.0})
FORCED = pn.Equations(
    {"x": "-a*x + sin(w*t)*z", "z": "cos(x) - b*z**3 + exp(-t)", "sum": "x*z/(1 + t**2)"},
    {"a": 1.3, "b": 0.4, "w": 3.0},
)
INSIDE = {"acos": "sin({})/2", "asin": "sin({})/2", "log": "1.5 + cos({})", "log10": "1.5 + cos({})"}
INSIDE |= {"sqrt": "1.5 + cos({})", "log1p": "sin({})/2", "tan": "sin({})"}


def check(results, tolerance):
    # The generic path includes the evaluations for its Jacobians.
    check_all(results, tolerance, counts=("accepted", "rejected"))


def random_formulas(rng, names):
    """Return terms that cover every operation, each applied to random previous terms, and two sums of the terms."""
    terms = {}

    def some():
        return str(rng.choice([*names, *terms]))

    for number, operation in enumerate(rng.permutation([*FUNCTIONS, "+", "-", "*", "/", "**", "neg", "power"])):
        if operation in BINARY:
            formula = f"{operation}({some()}, {some()})"
        elif operation in FUNCTIONS:
            formula = f"{operation}({INSIDE.get(operation, 'sin({})').format(some())})"
        else:
            x, y = f"sin({some()})", f"cos({some()})"
            formula = {
                "/": f"{x} / (2 + {y})", "**": f"(2 + {x})**{y}", "neg": f"-{x}", "power": f"(2 + {x})**1.7 + {y}**3",
            }.get(operation, f"{x} {operation} {y}")  # fmt: skip
        terms[f"u{number}"] = formula
    weights = rng.normal(size=(2, len(terms))).round(3)
    return terms, [" + ".join(f"{w}*{name}" for w, name in zip(row, terms)) for row in weights]


def random_field(seed):
    rng = np.random.default_rng(seed)
    terms, (x, y) = random_formulas(rng, ["x", "y", "p", "q", "t"])
    return pn.Equations({"x": x, "y": y}, {"p": 0.7, "q": -0.4}, terms)


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_take_the_same_steps_to_rounding(seed):
    field, y0 = random_field(seed), [[0.4, -0.2], [1.1, 0.3]]
    assert {step.split()[0] for step in field.steps} >= set(FUNCTIONS)
    check(both(field, y0, [0.0, 0.03, 0.07, 0.1], solver="RK4", step_size=0.04), 1e-11)
    check(both(field, y0, [0.0, 0.03, 0.07, 0.1], solver="Rodas5P", step_size=0.04), 1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_its_first_and_second_derivative(name):
    # A Rosenbrock step contains the Jacobian, so its gradient contains second derivatives.
    arguments = "{0}, p - y" if name in BINARY else "{0}"
    formula = INSIDE.get(name, "{}").format("p*x + 0.3*y") if name not in ("abs", "max", "min") else "p*x + 0.3*y"
    field = pn.Equations({"x": f"{name}({arguments.format(formula)})", "y": "x - 2*y"}, {"p": 0.9})
    check(both(field, [0.45, 0.2], [0.0, 0.1, 0.25], solver="Rosenbrock23", step_size=0.125), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("solver", [*TABLEAUS, RALSTON, *STIFF], ids=str)
def test_the_same_steps_agree_to_rounding(solver, dtype):
    # No output time coincides with a step, so every method's interpolant and its lazily computed stages are tested.
    ts, y0 = [0.0, 0.11, 0.12, 0.5, 0.74, 1.0], np.random.default_rng(1).normal(size=(2, 3))
    newton = 1e-6 if solver in ("Kvaerno5", "KenCarp4") else 0
    results = both(FORCED, y0, ts, dtype=dtype, solver=solver, step_size=0.09, rtol=1e-6, atol=1e-6)
    check(results, 300 * torch.finfo(dtype).eps + newton)


@pytest.mark.parametrize("solver", ["BS3", "DP5", "Tsit5", "Vern7", "DP8", "Rodas5P"])
def test_running_free_agrees_within_ten_tolerances(solver):
    y0 = np.random.default_rng(1).normal(size=(2, 3))
    (ours, our_grads), (theirs, their_grads) = both(
        FORCED, y0, np.linspace(0.5, 3, 20), solver=solver, rtol=1e-7, atol=1e-7
    )
    for a, b in zip((ours.ys, *our_grads), (theirs.ys, *their_grads)):
        assert (a - b).abs().max() <= 1e-6 * (1 + b.abs().max())


@pytest.mark.parametrize("solver", ["Tsit5", "Vern7", "RK4", "Rodas5P", "Kvaerno5", "AutoTsit5(Rosenbrock23)"])
def test_checkpointed_takes_the_steps_again(solver, monkeypatch):
    settings = {"step_size": 0.03} if solver == "RK4" else {"rtol": 1e-7, "atol": 1e-9}
    found = []
    rows = max(len(plan.rows) for plan in method_plans(find_tableau(find_solver(solver)))[:2])
    accepted = 0
    for gradient in ("Backprop", Checkpointed(1), Checkpointed(3), "too short a tape"):
        if gradient == "too short a tape":
            monkeypatch.setattr(function, "TAPE_BYTES", 8 * 4 * rows * (accepted - 1))
            gradient = "Backprop"
        mu = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
        y0 = torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
        given = dict(settings, solver=solver, gradient=gradient)
        solution = solve(VAN_DER_POL, y0, np.linspace(0, 4, 9), parameters={"mu": mu}, **given)
        ys, accepted = solution.ys, solution.accepted
        found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad((ys**2).sum(), [mu, y0])]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", SWITCHING)
def test_switching_takes_the_steps_of_the_generic_path(solver):
    field = pn.Equations({"x": "v", "v": "mu*((1 - x**2)*v) - x"}, {"mu": 100.0})
    results = both(field, [2.0, 0.0], np.linspace(0, 90, 7), solver=solver, rtol=1e-6, atol=1e-6)
    explicit = solve(field, np.array([2.0, 0.0]), [0.0, 90.0], rtol=1e-6, atol=1e-6, solver=solver[4:9])
    assert results[0][0].accepted < explicit.accepted / 3  # the solver switched to the stiff method
    check(results, 1e-6)


@pytest.mark.parametrize("solver", ["Tsit5", *STIFF])
def test_gradient_against_central_differences(solver):
    ts, y0, found = np.linspace(0, 1.5, 5), np.array([0.7, -0.4, 0.1]), FORCED.initial()
    settings = {"solver": solver, "step_size": 0.1, "rtol": 1e-13, "atol": 1e-13}

    def loss(**moved):
        return float((solve(FORCED, y0, ts, parameters={**found, **moved}, **settings).ys ** 2).sum())

    parameters = {k: torch.tensor(v, requires_grad=True) for k, v in found.items()}
    solution = solve(FORCED, torch.tensor(y0), ts, parameters=parameters, **settings)
    (solution.ys**2).sum().backward()
    for name, value in found.items():
        slope = (loss(**{name: value + 1e-5}) - loss(**{name: value - 1e-5})) / 2e-5
        assert float(parameters[name].grad) == pytest.approx(slope, rel=1e-7)


def test_described_fields_are_programs_too():
    spiral = pn.Linear(((-0.1, 2.0), (-2.0, -0.1)), input_map="cube")
    for field, y0, ts in (
        (spiral, [2.0, 0.0], np.linspace(0, 5, 30)),
        (pn.Linear(((-1.0, 0.3), (0.2, -500.0))), [[1.0, 1.0], [0.5, 2.0]], np.linspace(0, 3, 7)),
        (pn.SEIR(), [[0.99, 0.01, 0.0, 0.0], [0.9, 0.05, 0.05, 0.0]], np.linspace(0, 60, 30)),
    ):
        check(both(field, y0, ts, solver="Rodas5P"), 1e-8)


@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5", "KenCarp4"])
def test_robertson_has_the_published_gradient(solver):
    k = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in ROBERTSON.initial().items()
    }
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    solution = solve(ROBERTSON, y0, [0.0, 40.0], parameters=k, solver=solver, rtol=1e-8, atol=1e-12)
    assert solution.engine == "torch (compiled)"
    np.testing.assert_allclose(solution.ys[-1].detach(), [0.7158270688, 9.185534765e-6, 0.2841637457], rtol=1e-7)
    found = torch.autograd.grad(solution.ys[-1, 0], list(k.values()))
    np.testing.assert_allclose(torch.stack(found), [-4.24755877, -2.28835509e-9, 1.37308080e-5], rtol=1e-6)


@pytest.mark.parametrize("solver", ["Rodas5P", "Kvaerno5", "KenCarp4"])
def test_stiff_problems_reach_their_published_ends(solver):
    tolerances = {"solver": solver, "rtol": 1e-8, "atol": 1e-14}
    end = solve(ROBERTSON, np.array([1.0, 0.0, 0.0]), [0.0, 1e11], **tolerances).ys[-1]
    np.testing.assert_allclose(end, [2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050], rtol=1e-5)
    sharp = pn.Equations({"x": "v", "v": "((1 - x**2)*v - x)/eps"}, {"eps": 1e-6})
    end = solve(sharp, np.array([2.0, 0.0]), [0.0, 2.0], **tolerances).ys[-1]
    np.testing.assert_allclose(end, [1.706167732170483, -0.8928097010247975], rtol=1e-5)


def test_small_systems_of_equations_are_solved_with_pivoting():
    numba = pytest.importorskip("numba")
    from pyneuralode.engines.torch_engine.compiled.formulas import dense_lu

    @numba.njit
    def both_ways(matrix, pivots, x, y):
        dense_lu.factorize(matrix, pivots)
        dense_lu.solve(matrix, pivots, x)
        dense_lu.solve_transposed(matrix, pivots, y)

    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 7, 20):
        matrix = rng.normal(size=(n, n)) - (n > 1) * np.diag(rng.normal(size=n))
        np.fill_diagonal(matrix, 0 if n > 1 else 2)
        b = rng.normal(size=n)
        x, y = b.copy(), b.copy()
        both_ways(matrix.copy(), np.empty(n, np.int64), x, y)
        np.testing.assert_allclose(matrix @ x, b, atol=1e-10)
        np.testing.assert_allclose(matrix.T @ y, b, atol=1e-10)


def test_a_stiff_linear_system_of_twenty_against_its_exponential():
    rng = np.random.default_rng(4)
    basis, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    rows = basis @ np.diag(-np.logspace(-2, 5, 20)) @ basis.T
    y0, ts = torch.tensor(rng.normal(size=20)), [0.0, 0.3, 2.0]
    grads = []
    for ours in (True, False):
        A = torch.tensor(rows, requires_grad=True)
        if ours:
            end = solve(pn.Linear(rows), y0, ts, parameters={"A": A}, solver="Rodas5P", rtol=1e-8, atol=1e-10).ys[-1]
        else:
            end = torch.matrix_exp(2 * A) @ y0
        grads.append((end, torch.autograd.grad((end * torch.arange(20)).sum(), A)[0]))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_times_have_gradients():
    grads = []
    for compiled in (True, False):
        ts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64, requires_grad=True)
        ys = solve(
            VAN_DER_POL, torch.tensor([1.0, 0.0], dtype=torch.float64), ts, compiled=compiled, rtol=1e-9, atol=1e-9
        ).ys
        grads.append(torch.autograd.grad(ys.pow(2).sum(), ts)[0])
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


def test_lotka_volterra_has_the_published_loss_and_gradient():
    field = pn.Equations({"x": "a*x - b*x*y", "y": "-c*y + d*x*y"}, {"a": 1.5, "b": 1.0, "c": 3.0, "d": 1.0})
    p = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in field.initial().items()}
    u0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    loss = solve(field, u0, np.linspace(0, 10, 101), parameters=p, solver="DP8", rtol=1e-11, atol=1e-11).ys.sum()
    loss.backward()
    np.testing.assert_allclose(loss.item(), 450.7640640395, rtol=1e-10)
    np.testing.assert_allclose(u0.grad, [-39.12754122, -8.78778022], rtol=1e-8)
    found = [p[name].grad.item() for name in "abcd"]
    np.testing.assert_allclose(found, [8.30536266, -159.48429272, 75.20350821, -339.19509277], rtol=1e-8)


def each(y0, times, mu, **settings):
    """Solve samples of Van der Pol's oscillator, each with its own steps."""
    gradient, solver = settings.pop("gradient", Backprop()), settings.pop("solver", "Tsit5")
    control = pn.Control(**settings)
    asked = Settings(VAN_DER_POL, find_solver(solver), gradient, control, batch="independent")
    values = {"mu": mu}, y0, [torch.tensor(row, dtype=torch.float64) for row in times]
    problem = asked.problem(*values)
    assert FormulasOfEach().unsupported(problem) is None
    solution = FormulasOfEach().prepare(problem).run(*values)
    counts = np.stack([solution.nfev, solution.accepted, solution.rejected], axis=1)
    return torch.cat(solution.ys), counts


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P", "KenCarp4"])
def test_independent_samples_equal_solving_each_alone(solver, threads):
    rng = np.random.default_rng(0)
    mu = torch.tensor(rng.uniform(1, 8, 9), requires_grad=True)
    y0 = torch.tensor(rng.normal(size=(9, 2)), requires_grad=True)
    times = [sorted(rng.uniform(0, 5, size=2 + i % 4), reverse=bool(i % 5 == 4)) for i in range(9)]
    settings = {"solver": solver, "rtol": 1e-7, "atol": 1e-8}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        states, counts = each(y0, times, mu, **settings)
        ours = torch.autograd.grad((states**2).sum(), [y0, mu])
        again, _ = each(y0, times, mu, **settings, gradient=Checkpointed(2))
        checkpointed = torch.autograd.grad((again**2).sum(), [y0, mu])
    finally:
        torch.set_num_threads(before)
    ends = np.cumsum([0, *map(len, times)])
    for i, row in enumerate(times):
        y, p = y0[i].detach().requires_grad_(), mu[i].detach().requires_grad_()
        alone = solve(VAN_DER_POL, y, row, parameters={"mu": p}, **settings)
        torch.testing.assert_close(states[ends[i] : ends[i + 1]], alone.ys, rtol=0, atol=0)
        assert counts[i].tolist() == [alone.nfev, alone.accepted, alone.rejected]
        theirs = torch.autograd.grad((alone.ys**2).sum(), [y, p])
        torch.testing.assert_close(ours[0][i], theirs[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours[1][i], theirs[1], rtol=1e-12, atol=1e-12)
    for a, b in zip(ours, checkpointed):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_independent_samples_may_share_parameters_and_have_tolerances_of_their_own():
    mu = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.5], [0.1, 0.1]], dtype=torch.float64)
    rtol = np.array([[1e-4, 1e-4], [1e-6, 1e-5], [1e-8, 1e-8]])
    states, counts = each(y0, [[0.0, 3.0]] * 3, mu, rtol=rtol, atol=1e-8)
    total = torch.autograd.grad(states.sum(), mu)[0]
    parts = []
    for i in range(3):
        alone = solve(VAN_DER_POL, y0[i], [0.0, 3.0], parameters={"mu": mu}, rtol=rtol[i], atol=1e-8)
        assert counts[i, 1] == alone.accepted
        parts.append(torch.autograd.grad(alone.ys.sum(), mu)[0])
    torch.testing.assert_close(total, sum(parts))


def test_a_sample_that_fails_is_named():
    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    with pytest.raises(SolverError, match="sample 1: the solve took max_steps = 40"):
        each(y0, [[0.0, 1.0], [0.0, 500.0], [0.0, 1.0]], torch.tensor([1.0, 9.0, 1.0]).double(), max_steps=40)


@pytest.mark.parametrize(
    "formula, y0, ts, control",
    [
        ("1/(x - 1)", [1.0], [0.0, 1.0], {}),
        ("x", [1.0], [0.0, 50.0], {"max_steps": 7}),
        ("x**2", [1.0], [0.0, 2.0], {}),
        ("-50*x", [1.0], [0.0, 1.0], {"min_step": 0.05, "first_step": 0.06}),
    ],
)
def test_failures_speak_as_the_generic_path_does(formula, y0, ts, control):
    said = []
    for compiled in (True, False):
        with pytest.raises(SolverError) as caught:
            solve(pn.Equations({"x": formula}), np.array(y0), ts, compiled=compiled, **control)
        said.append(re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "#", str(caught.value)))
    assert said[0] == said[1]


def test_where_it_does_not_apply():
    y0, ts = np.array([1.0, 0.0]), [0.0, 1.0]
    assert solve(VAN_DER_POL, y0, ts, dense=True).engine == "torch"
    assert (
        solve(VAN_DER_POL, torch.tensor(y0, requires_grad=True), ts, gradient="InterpolatingAdjoint").engine == "torch"
    )
    assert (
        solve(VAN_DER_POL, y0, ts, gradient="InterpolatingAdjoint").engine == "torch (compiled)"
    )  # no input requires a gradient
    assert solve(VAN_DER_POL, np.tile(y0, (path.LARGE, 1)), ts, step_size=1.0).engine == "torch"


def test_whole_powers_are_products_and_others_numbers():
    program = program_of(pn.Equations({"x": "x**2 + x**3 + x**4 + x**0.5 + x**-1.5 + x**y", "y": "(-y)**3"}))
    codes = [OPERATIONS[code] for code in program.steps[:, 0]]
    assert codes.count("**") == codes.count("power") == codes.count("sqrt") == 1
    assert program_of(pn.MLP((2, 4, 2))) is None


def test_threads_solve_at_once():
    mus = torch.linspace(1, 4, 6, dtype=torch.float64)
    y0, found = torch.tensor([2.0, 0.0], dtype=torch.float64), [None] * 6

    def work(i):
        found[i] = solve(VAN_DER_POL, y0, [0.0, 9.0], parameters={"mu": mus[i]}, solver="Rodas5P").ys

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, mu in enumerate(mus):
        assert torch.equal(found[i], solve(VAN_DER_POL, y0, [0.0, 9.0], parameters={"mu": mu}, solver="Rodas5P").ys)


def test_without_numba_the_generic_path_runs_and_says_so_once(monkeypatch, caplog):
    def refuse(name):
        raise ImportError("Numba needs another NumPy")

    monkeypatch.setattr(available, "import_module", refuse)
    available.compiled.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="pyneuralode"):
            for _ in range(2):
                assert solve(VAN_DER_POL, np.array([1.0, 0.0]), [0.0, 1.0]).engine == "torch"
        assert [r.getMessage().count("Numba needs another NumPy") for r in caplog.records].count(1) == 1
    finally:
        available.compiled.cache_clear()


@pytest.mark.parametrize("solver", ["KenCarp4", "Kvaerno5"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_a_step_whose_newton_iterations_fail_is_not_taken(solver, tolerance):
    field = pn.Equations({"x": "v", "v": "mu*(1 - x**2)*v - x"}, {"mu": 1000.0})
    ts = np.linspace(0, 3000, 31)
    ours, theirs = (
        solve(field, [2.0, 0.0], ts, solver=solver, rtol=tolerance, atol=tolerance, compiled=compiled)
        for compiled in (True, False)
    )
    assert np.isfinite(ours.ys).all()
    # Only x is compared: between two jumps it is slow and accurate, except for the times of the jumps.
    assert np.median(np.abs(ours.ys[:, 0] - theirs.ys[:, 0])) < 100 * tolerance
