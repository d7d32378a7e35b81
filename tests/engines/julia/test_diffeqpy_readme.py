"""The kinds of equations in diffeqpy's README, with its equations, in the Julia process and environment of pyneuralode.

The example of a differential-algebraic equation is solved by DFBDF instead of Sundials' IDA. Not run: ``from diffeqpy import
de``, which also loads Sundials and ModelingToolkit, `de.jit`, which needs ModelingToolkit, and the examples for GPUs.
"""

import numpy as np
import pytest

import pyneuralode as pn


@pytest.fixture
def ode(package):
    return package("ode")


def lorenz(u, p, t):
    x, y, z = u
    sigma, rho, beta = p
    return [sigma * (y - x), x * (rho - z) - y, x * y - beta * z]


def lorenz_in_place(du, u, p, t):
    du[0], du[1], du[2] = lorenz(u, p, t)


def test_one_ordinary_equation(ode):
    problem = ode.ODEProblem(lambda u, p, t: -u, 0.5, (0.0, 1.0))
    solution = ode.solve(problem)
    assert solution.u[-1] == pytest.approx(0.5 * np.exp(-1), rel=1e-3)
    tight = ode.solve(problem, ode.Vern9(), saveat=0.1, abstol=1e-10, reltol=1e-10)
    assert np.array(tight.t) == pytest.approx(np.linspace(0, 1, 11))
    assert np.array(tight.u) == pytest.approx(0.5 * np.exp(-np.linspace(0, 1, 11)), rel=1e-9)
    assert tight(0.55) == pytest.approx(0.5 * np.exp(-0.55), rel=2e-3)  # linear between the saved states


def test_lorenz_s_equations_as_list_in_place_and_in_julia(ode, main):
    start, span, p = [1.0, 0.0, 0.0], (0.0, 1.0), [10.0, 28.0, 8 / 3]
    in_julia = main.seval("""
        (du, u, p, t) -> begin
            x, y, z = u
            sigma, rho, beta = p
            du[1] = sigma * (y - x)
            du[2] = x * (rho - z) - y
            du[3] = x * y - beta * z
        end""")
    tight = {"abstol": 1e-10, "reltol": 1e-10}
    ends = [
        np.array(ode.solve(ode.ODEProblem(f, start, span, p), ode.Vern9(), **tight).u[-1])
        for f in (lorenz, lorenz_in_place, in_julia)
    ]
    truth = pn.solve(
        pn.Equations({"x": "s*(y - x)", "y": "x*(r - z) - y", "z": "x*y - b*z"}, parameters={"s": 10, "r": 28, "b": 8 / 3}),
        start, [0.0, 1.0], solver="Vern7", rtol=1e-11, atol=1e-11, engine="torch",
    ).ys[-1]  # fmt: skip
    for end in ends:
        assert end == pytest.approx(truth, rel=1e-6)


def test_one_stochastic_equation(package):
    sde = package("sde")
    problem = sde.SDEProblem(lambda u, p, t: 1.01 * u, lambda u, p, t: 0.87 * u, 0.5, (0.0, 1.0))
    solution = sde.solve(problem, sde.SOSRI(), reltol=1e-3, abstol=1e-3, seed=1)
    # The exact solution for the path of the noise that was drawn.
    noise = solution.W.u[-1]
    assert solution.u[-1] == pytest.approx(0.5 * np.exp(1.01 - 0.87**2 / 2 + 0.87 * noise), rel=0.02)


def test_systems_with_diagonal_and_with_shared_noise(package):
    sde = package("sde")

    def diagonal(du, u, p, t):
        du[0], du[1], du[2] = (0.3 * x for x in u)

    def shared(du, u, p, t):
        for i, (a, b) in enumerate(((0.3, 1.2), (0.6, 0.2), (0.2, 0.3))):
            du[i, 0], du[i, 1] = a * u[0], b * u[1]

    start, span, p = [1.0, 0.0, 0.0], (0.0, 1.0), [10.0, 28.0, 2.66]
    problem = sde.SDEProblem(lorenz_in_place, diagonal, start, span, p)
    assert np.isfinite(np.array(sde.solve(problem, sde.SOSRI(), seed=1).u[-1])).all()
    problem = sde.SDEProblem(lorenz_in_place, shared, start, span, p, noise_rate_prototype=np.zeros((3, 2)))
    solution = sde.solve(problem, sde.EM(), dt=1e-3, saveat=0.005, seed=1)
    assert len(solution.u) == 201 and np.isfinite(np.array(solution.u[-1])).all()


def test_a_differential_algebraic_equation(ode, main):
    def f(resid, du, u, p, t):
        resid[0] = -0.04 * u[0] + 1e4 * u[1] * u[2] - du[0]
        resid[1] = +0.04 * u[0] - 3e7 * u[1] ** 2 - 1e4 * u[1] * u[2] - du[1]
        resid[2] = u[0] + u[1] + u[2] - 1.0

    problem = ode.DAEProblem(f, [-0.04, 0.04, 0.0], [1.0, 0.0, 0.0], (0.0, 1e5), differential_vars=[True, True, False])
    method = ode.DFBDF(autodiff=main.PyNeuralODE.AutoFiniteDiff())
    solution = ode.solve(problem, method, reltol=1e-6, abstol=1e-10)
    # Robertson's problem at t = 1e5, solved with a mass matrix at tolerance 1e-10.
    assert np.array(solution.u[-1]) == pytest.approx([0.0178659, 7.27475e-8, 0.982134], rel=1e-3)


def test_a_delay_equation(main, package):
    dde = package("dde")
    f = main.seval("""
        (du, u, h, p, t) -> begin
            du[1] = 1.1 / (1 + sqrt(10) * (h(p, t - 20)[1])^(5 / 4)) - 10 * u[1] / (1 + 40 * u[2])
            du[2] = 100 * u[1] / (1 + 40 * u[2]) - 2.43 * u[2]
        end""")
    h = main.seval("(p, t) -> [1.05767027 / 3, 1.030713491 / 3]")
    start = [1.05767027 / 3, 1.030713491 / 3]
    problem = main.PyNeuralODE.SciMLBase.DDEProblem(
        f, main.seval("collect")(np.array(start)), h, (0.0, 100.0), constant_lags=[20.0]
    )
    solution = main.PyNeuralODE.SciMLBase.solve(
        problem, dde.MethodOfSteps(package("ode").Tsit5()), saveat=0.1, reltol=1e-8, abstol=1e-8
    )

    # The same through pyneuralode, as a function in Python.
    def ours(t, u, past):
        return np.array([
            1.1 / (1 + np.sqrt(10) * past[0] ** 1.25) - 10 * u[0] / (1 + 40 * u[1]),
            100 * u[0] / (1 + 40 * u[1]) - 2.43 * u[1],
        ])  # fmt: skip

    same = pn.solve_dde(ours, start, [0.0, 50.0, 100.0], lags=20.0, rtol=1e-8, atol=1e-8)
    assert np.array(solution.u[-1]) == pytest.approx(same.ys[-1], rel=1e-5)
    assert np.array(solution.u[500]) == pytest.approx(same.ys[1], rel=1e-5)
