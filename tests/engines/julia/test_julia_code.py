"""Fields, solvers and gradient methods that are given as Julia source: solved, differentiated, fitted, saved and refused."""

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.gradients import JuliaAdjoint, find_gradient
from pyneuralode.solvers import find_solver

needs_julia = pytest.mark.usefixtures("julia")

CHAIN = "Chain(x -> x .^ 3, Dense(2 => 6, tanh), Dense(6 => 2))"
OTHER = "Chain(x -> x .^ 3, Dense(2 => 6, tanh), SkipConnection(NoOpLayer(), (x, y) -> x), Dense(6 => 2))"
NET = pn.MLP((2, 6, 2), "tanh", input_map="cube")
SPRING = "(du, u, p, t) -> (du[1] = u[2]; du[2] = -p.stiffness * u[1])"
TIMES = np.linspace(0, 1.5, 7)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def spring(**settings) -> pn.JuliaFunction:
    return pn.JuliaFunction(SPRING, dim=2, parameters={"stiffness": 4.0}, **settings)


def gradients(field, arrays, y0, **settings) -> tuple[np.ndarray, torch.Tensor]:
    """Return the states, and the gradient of a loss over them as one vector, in the order of the field's parameters."""
    model = pn.NeuralODE(field, **({"engine": "julia"} | TIGHT | settings))
    model.set_arrays(arrays)
    y0 = torch.tensor(y0, dtype=torch.float64, requires_grad=True)
    ys = model(y0, TIMES)
    (ys * torch.linspace(0.5, 1.5, ys.numel(), dtype=ys.dtype).reshape(ys.shape)).square().sum().backward()
    flat = torch.cat([y0.grad.reshape(-1), *(value.grad.reshape(-1) for value in model.parameters())])
    return ys.detach().numpy(), flat


@needs_julia
@pytest.mark.parametrize("source", [CHAIN, OTHER])
@pytest.mark.parametrize("y0", [[1.0, 0.3], [[1.0, 0.3], [0.2, -0.5], [0.4, 0.9]]])
@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient": "GaussAdjoint"}, {"gradient": "ForwardMode"}, {"solver": "Rodas5P", "gradient": "GaussAdjoint"}],
)
def test_a_lux_model_is_solved_and_differentiated_like_the_same_network_in_torch(source, y0, settings):
    weights = NET.initial(1)
    field = pn.LuxModel(source)
    states, gradient = gradients(field, dict(zip(field.shapes(), weights.values())), y0, **settings)
    expected, truth = gradients(NET, weights, y0, engine="torch")
    np.testing.assert_allclose(states, expected, atol=1e-7)
    torch.testing.assert_close(gradient, truth, rtol=1e-6, atol=1e-6)


@needs_julia
def test_a_julia_function_is_solved_and_differentiated_like_the_same_equations():
    formulas = pn.Equations({"x": "v", "v": "-stiffness*x"}, parameters={"stiffness": 4.0})
    truth = gradients(formulas, formulas.initial(), [1.0, 0.5], engine="torch")
    outside = pn.JuliaFunction("(u, p, t) -> [u[2], -p.stiffness * u[1]]", 2, {"stiffness": 4.0})
    for field in (spring(), outside):
        for settings in (
            {},
            {"gradient": "GaussAdjoint", "solver": "KenCarp47(smooth_est=false)"},
            {"gradient": "InterpolatingAdjoint"},
        ):
            states, gradient = gradients(field, field.initial(), [1.0, 0.5], **settings)
            np.testing.assert_allclose(states, truth[0], atol=1e-6)
            torch.testing.assert_close(gradient, truth[1], rtol=1e-5, atol=1e-5)


@needs_julia
def test_a_julia_function_is_fitted():
    ts = np.linspace(0, 2, 21)
    data = np.stack([np.cos(2 * ts), -2 * np.sin(2 * ts)], axis=1)
    model = pn.NeuralODE(pn.JuliaFunction(SPRING, 2, {"stiffness": 3.0}), engine="julia", rtol=1e-8, atol=1e-8)
    result = pn.fit(model, ts, data, y0=data[0], plan=[pn.Stage(pn.LBFGS(), 30)])
    assert result.loss < 1e-8 and float(model.arrays()["stiffness"]) == pytest.approx(4.0, abs=1e-4)


@needs_julia
def test_initial_parameters_are_drawn_with_the_seed_and_parameters_may_be_arrays():
    field = pn.LuxModel(CHAIN)
    assert field.shapes() == {
        "layer_2_weight": (6, 2), "layer_2_bias": (6,), "layer_3_weight": (2, 6), "layer_3_bias": (2,),
    }  # fmt: skip
    first, again, other = field.initial(1), field.initial(1), field.initial(2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["layer_2_weight"], other["layer_2_weight"])
    rates = pn.JuliaFunction("(du, u, p, t) -> (du .= p.rates * u)", 2, {"rates": [[-1.0, 2.0], [0.0, -3.0]]})
    ys = pn.solve(rates, [0.0, 1.0], [0.0, 1.0], engine="julia", **TIGHT).ys
    np.testing.assert_allclose(ys[-1], [np.exp(-1) - np.exp(-3), np.exp(-3)], atol=1e-7)


@needs_julia
def test_slopes_are_computed_by_julia():
    model = pn.NeuralODE(spring())
    np.testing.assert_allclose(model.slope(0.0, np.array([1.0, 0.5])), [0.5, -4.0])
    np.testing.assert_allclose(model.slope(0.0, np.array([[1.0, 0.5], [2.0, 1.0]])), [[0.5, -4.0], [1.0, -8.0]])


@needs_julia
def test_a_saved_model_contains_no_source_and_asks_for_it(tmp_path):
    path = tmp_path / "model.safetensors"
    solver, gradient = "KenCarp47()", "GaussAdjoint(autojacvec = ZygoteVJP())"
    model = pn.NeuralODE(pn.LuxModel(CHAIN, name="net"), solver=solver, gradient=gradient, seed=2, engine="julia")
    model.save(path)
    assert not any(part in path.read_bytes() for part in (b"Chain", b"KenCarp47()", b"Zygote"))
    sources = {"net": CHAIN, "KenCarp47": solver, "GaussAdjoint": gradient}
    loaded = pn.load(path, julia=sources)
    loaded.engine = "julia"
    assert loaded.field == model.field and loaded.solver == solver and loaded.gradient == JuliaAdjoint(gradient)
    np.testing.assert_array_equal(loaded.solve([1.0, 0.2], TIMES).ys, model.solve([1.0, 0.2], TIMES).ys)
    for julia, words in (
        (None, "julia is missing 'net'"),
        (sources | {"net": CHAIN + " "}, r"julia\['net'\] is not the source with which the model"),
        ({"net": CHAIN}, "julia is missing 'KenCarp47'"),
    ):
        with pytest.raises(pn.ArgumentError, match=words):
            pn.load(path, julia=julia)


def test_source_is_not_accepted_for_a_model_without_it(tmp_path):
    path = tmp_path / "model.safetensors"
    pn.NeuralODE(NET).save(path)
    with pytest.raises(pn.ArgumentError, match="contains no Julia source: leave julia out"):
        pn.load(path, julia={"net": CHAIN})


@needs_julia
def test_source_can_be_a_file(tmp_path):
    file = tmp_path / "net.jl"
    file.write_text(f"width = 6\n{CHAIN.replace('6', 'width')}")
    assert pn.LuxModel(file).shapes() == pn.LuxModel(str(file)).shapes() == pn.LuxModel(CHAIN).shapes()


@needs_julia
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pn.LuxModel("Chain(Dense(2 => 3)"), "does not parse at line 1, column"),
        (lambda: pn.LuxModel("a = 2\nDnse(a => a)"), "throws an error at line 2: UndefVarError: `Dnse`"),
        (lambda: pn.LuxModel("Dense(2 => 3)", name="net"), r"net returns an array of size \(3,\) .* for a state of size \(2,\)"),
        (lambda: pn.LuxModel("sin"), "give a Lux model"),
        (lambda: pn.LuxModel("Scale(2)"), "dim is missing"),
        (lambda: pn.LuxModel("Nowhere:net"), "run `pkg> add Nowhere`"),
        (lambda: pn.JuliaFunction("(du, u, p, t) -> (du .= p.b)", 2, {"a": 1.0}), "fails for a state of ones, at line 1"),
        (lambda: pn.JuliaFunction("(du, u, p, t) -> (du[1] = 0)", 2), r"does not set du\[2\]"),
        (lambda: pn.JuliaFunction("(u, p, t) -> u[1]", 2), "returns a value of type Float64"),
        (lambda: pn.JuliaFunction("3", 2), r"give a function \(du, u, p, t\)"),
    ],
)  # fmt: skip
def test_wrong_source_is_refused_when_the_field_is_made(make, words):
    with pytest.raises(pn.ArgumentError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pn.LuxModel(3), "source is an int, not Julia source"),
        (lambda: pn.LuxModel(" "), "source is empty"),
        (lambda: pn.LuxModel("missing.jl"), "cannot be read"),
        (lambda: pn.JuliaFunction(SPRING, 0), "dim is 0: give a positive integer"),
        (lambda: pn.JuliaFunction(SPRING, 2, {"a b": 1.0}), "not an identifier"),
        (lambda: pn.JuliaFunction(SPRING, 2, 3), "give a mapping"),
        (lambda: pn.JuliaFunction(SPRING, 2, {"a": "x"}), "a has dtype"),
        (lambda: pn.Julia(path="quick"), "path"),
    ],
)
def test_wrong_arguments_are_refused_without_julia(make, words):
    with pytest.raises(pn.ArgumentError, match=words):
        make()


@needs_julia
def test_a_function_that_refuses_dual_numbers_says_so_when_it_is_differentiated():
    typed = pn.JuliaFunction("f(du::Vector{Float64}, u, p, t) = du .= p.k .* u", 2, {"k": 1.0})
    np.testing.assert_allclose(
        pn.solve(typed, [1.0, 2.0], [0.0, 1.0], engine="julia", **TIGHT).ys[-1], [np.e, 2 * np.e]
    )
    with pytest.raises(pn.ArgumentError, match="does not accept the dual numbers by which it is differentiated"):
        gradients(typed, {"k": 1.0}, [1.0, 2.0])


@needs_julia
def test_an_error_inside_a_solve_names_the_line():
    late = pn.JuliaFunction('(du, u, p, t) -> begin\n t > 0.3 && error("too late")\n du .= u\nend', 2, name="late")
    with pytest.raises(pn.ArgumentError, match=r"line 2 of late .* throws an error: too late"):
        pn.solve(late, [1.0, 1.0], [0.0, 1.0], engine="julia")


@needs_julia
def test_only_julia_solves_julia_source():
    with pytest.raises(
        pn.ArgumentError, match="a JuliaFunction, which the torch engine does not support.*engine='julia'"
    ):
        pn.solve(spring(), [1.0, 0.0], TIMES, engine="torch")
    with pytest.raises(pn.ArgumentError, match="ts requires gradients"):
        pn.solve(spring(), torch.tensor([1.0, 0.0]), torch.tensor(TIMES, requires_grad=True), engine="julia")
    with pytest.raises(
        pn.ArgumentError, match="gradient is Julia source, but a JuliaFunction.*gradient='GaussAdjoint'"
    ):
        gradients(spring(), {"stiffness": 4.0}, [1.0, 0.0], gradient="GaussAdjoint(autojacvec=ZygoteVJP())")
    with pytest.raises(pn.ArgumentError, match="leave compiled out"):
        gradients(spring(), {"stiffness": 4.0}, [1.0, 0.0], compiled=False, gradient="GaussAdjoint")


@needs_julia
def test_any_solver_and_adjoint_of_sciml_is_reached_by_its_source():
    weights, y0 = NET.initial(1), [1.0, 0.3]
    expected, truth = gradients(NET, weights, y0, engine="torch")
    for settings in (
        {"solver": "QNDF(autodiff = false)", "gradient": "GaussAdjoint", "rtol": 1e-7, "atol": 1e-7},
        {"gradient": "GaussAdjoint(autojacvec = ReverseDiffVJP(true))"},
        {"gradient": pn.gradients.JuliaAdjoint("GaussKronrodAdjoint(autojacvec = ZygoteVJP())"), "solver": "Vern9()"},
    ):
        states, gradient = gradients(NET, weights, y0, **settings)
        np.testing.assert_allclose(states, expected, atol=1e-4)
        torch.testing.assert_close(gradient, truth, rtol=1e-3, atol=1e-3)
    for settings, words in (
        ({"solver": "CVODE_BDF()"}, "run `pkg> add Sundials`"),
        ({"solver": "Dense(2 => 2)"}, "not a solver of ordinary differential equations"),
        ({"gradient": "ForwardDiffSensitivity()"}, "give one of SciMLSensitivity's adjoints"),
        ({"solver": "QNDF()", "gradient": "Backprop"}, "write gradient='InterpolatingAdjoint'"),
    ):
        with pytest.raises(pn.ArgumentError, match=words):
            gradients(NET, weights, y0, **({"gradient": "GaussAdjoint"} | settings))


def test_source_of_a_solver_is_told_from_names_of_the_catalog():
    assert find_solver("autotsit5(rosenbrock23)").kind == "switching"
    assert find_solver("QNDF()") is find_solver("QNDF()") and find_solver("QNDF()").engines == ("julia",)
    assert find_gradient("GaussAdjoint()") is find_gradient("GaussAdjoint()")
    with pytest.raises(pn.ArgumentError, match="which the torch engine does not support"):
        pn.solve(NET, [1.0, 0.0], TIMES, solver="QNDF()", engine="torch")


@needs_julia
@pytest.mark.parametrize("name", ["MLP", "SEIR", "Equations", "HyperMLP"])
def test_both_paths_agree_and_the_solution_names_the_one_that_ran(name):
    field = {
        "MLP": NET, "SEIR": pn.SEIR(0.2, 3.0, 0.4), "HyperMLP": pn.HyperMLP(2, 8, 4),
        "Equations": pn.Equations({"x": "a*x - x*v", "v": "x*v - v"}, parameters={"a": 1.5}),
    }[name]  # fmt: skip
    y0 = [0.5, 0.3, 0.1, 0.1][: field.dim]
    fast = gradients(field, field.initial(3), y0, engine=pn.Julia(path="fast"))
    sciml = gradients(field, field.initial(3), y0, engine=pn.Julia(path="sciml"), gradient="GaussAdjoint")
    np.testing.assert_allclose(fast[0], sciml[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(fast[1], sciml[1], rtol=1e-5, atol=1e-6)
    for path in ("fast", "sciml"):
        assert pn.solve(field, y0, TIMES, engine=pn.Julia(path=path)).engine == f"julia ({path})"


@needs_julia
def test_a_path_that_does_not_support_the_problem_says_what_to_change():
    for path, settings, words in (
        ("fast", {"solver": "Rodas5P"}, "use an explicit solver, such as 'Tsit5'"),
        ("fast", {"gradient": "GaussAdjoint"}, "write gradient='Backprop'"),
        ("sciml", {}, "write gradient='InterpolatingAdjoint'"),
    ):
        with pytest.raises(pn.ArgumentError, match=f"path is '{path}'.*{words}"):
            gradients(NET, NET.initial(), [1.0, 0.3], engine=pn.Julia(path=path), **settings)
