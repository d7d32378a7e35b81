"""Formulas against hand-written functions, published values and finite differences; errors for invalid formulas."""

import ast
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.torch_engine.generic import slope
from pyneuralode.fields import formulas, from_description
from pyneuralode.fields.formulas import BINARY, FUNCTIONS, UNARY

PREY = pn.Equations({"x": "a*x - b*x*y", "y": "-c*y + d*x*y"}, parameters={"a": 1.5, "b": 1.0, "c": 3.0, "d": 1.0})
# Every kind of term: time, constants, a term that uses another term, a right-hand side without a state.
FORCED = pn.Equations(
    {
        "x": "a*x*(1 + sin(w*t)/2) - met",
        "y": "met - c*y**1.5/(1 + y)",
        "clock": "-(1 - cos(2*pi*t))**2 + a",
        "still": "1/3",
        "time": "t",
    },
    parameters={"a": 1.5, "c": 3.0, "w": 2.0},
    let={"both": "x*y", "met": "max(both, 0.5) + sigmoid(-both)"},
)


def forced_by_hand(p):
    def f(t, s):
        x, y = s[..., 0], s[..., 1]
        met = torch.clamp(x * y, min=0.5) + torch.sigmoid(-x * y)
        clock = p["a"] - (1 - math.cos(2 * math.pi * float(t))) ** 2
        rows = [
            p["a"] * x * (1 + torch.sin(p["w"] * t) / 2) - met,
            met - p["c"] * y**1.5 / (1 + y),
            clock.expand_as(x),
            torch.full_like(x, 1 / 3),
            torch.full_like(x, float(t)),
        ]
        return torch.stack(rows, dim=-1)

    return f


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_slope_and_its_derivatives_are_those_by_hand(shape, dtype):
    generator = torch.Generator().manual_seed(1)
    y = (torch.rand(shape, generator=generator, dtype=dtype) + 0.2).requires_grad_()
    p = {name: torch.tensor(float(v), dtype=dtype, requires_grad=True) for name, v in FORCED.initial().items()}
    found, expected = slope(FORCED, p, 0.3, y), forced_by_hand(p)(0.3, y)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn(shape, generator=generator, dtype=dtype)
    inputs = (y, *p.values())
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_the_one_of_its_name(name):
    numbers = {**{n: getattr(math, n, None) for n in UNARY}, "abs": abs, "max": max, "min": min}
    numbers["sigmoid"] = lambda x: 1 / (1 + math.exp(-x))
    arguments = ("x, k, -0.2", (0.3, 0.5, -0.2)) if name in BINARY else ("x", (0.3,))
    folded = ", ".join(map(str, arguments[1]))
    field = pn.Equations({"x": f"{name}({arguments[0]})", "y": f"{name}({folded})"}, {"k": 0.5})
    found = slope(field, field.initial(), 0.0, np.array([0.3, 1.0]))
    np.testing.assert_allclose(found, numbers[name](*arguments[1]), rtol=1e-14)


def test_precedence_is_pythons():
    text = "-x**2**0.5 - 3 - 2*x/4/5 + +x - -x**-2"
    found = slope(pn.Equations({"x": text}), {}, 0.0, np.array([1.7]))
    np.testing.assert_allclose(found, eval(text, {"x": 1.7}), rtol=1e-14)


def test_lotka_volterra_gives_the_published_loss_and_gradient():
    p = {name: torch.tensor(float(v), dtype=torch.float64, requires_grad=True) for name, v in PREY.initial().items()}
    u0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    solution = pn.solve(
        PREY, u0, np.linspace(0, 10, 101), parameters=p, solver="Vern7", rtol=1e-10, atol=1e-10, engine="torch"
    )
    loss = solution.ys.sum()
    loss.backward()
    assert solution.engine == "torch (compiled)"
    np.testing.assert_allclose(loss.item(), 450.7640640395, rtol=1e-10)
    found = [p[name].grad.item() for name in "abcd"]
    np.testing.assert_allclose(found, [8.30536266, -159.48429272, 75.20350821, -339.19509277], rtol=1e-8)
    np.testing.assert_allclose(u0.grad, [-39.12754122, -8.78778022], rtol=1e-8)


def test_every_gradient_method_is_right_where_the_time_enters():
    model = pn.NeuralODE(FORCED, rtol=1e-8, atol=1e-8, engine="torch")
    check = model.check_gradient(np.array([1.0, 0.8, 0.0, 0.0, 0.0]), np.linspace(0, 0.5, 3))
    errors = [row.error for row in check.rows]
    assert len(errors) >= 5 and max(errors) < 1e-5


def test_a_fit_finds_the_parameters():
    ts = np.linspace(0, 3, 16)
    data = pn.solve(PREY, np.ones(2), ts, rtol=1e-9, atol=1e-9, engine="torch").ys
    start = pn.Equations(PREY.equations, {"a": 1.2, "b": 0.8, "c": 2.5, "d": 1.2})
    model = pn.NeuralODE(start, rtol=1e-8, atol=1e-8, engine="torch")
    result = pn.fit(model, ts, data, y0=data[0], plan=[pn.Stage(pn.LBFGS(), 60)], bounds={"a": (0, None)})
    found = [float(result.parameters[name]) for name in "abcd"]
    np.testing.assert_allclose(found, [1.5, 1.0, 3.0, 1.0], rtol=1e-4)


def test_description_is_plain_and_saved_models_come_back(tmp_path):
    for field in (PREY, FORCED):
        description = json.loads(json.dumps(field.describe()))
        again = from_description(description)
        assert again == field and hash(again) == hash(field)
        assert again.steps == field.steps and again.outputs == field.outputs
        model = pn.NeuralODE(field, engine="torch")
        model.save(tmp_path / "model.safetensors")
        loaded = pn.load(tmp_path / "model.safetensors")
        assert loaded.field == field
        y0 = np.full(field.dim, 0.5)
        loaded.engine = "torch"
        np.testing.assert_array_equal(loaded(y0, [0.0, 1.0]), model(y0, [0.0, 1.0]))


def test_the_command_line_names_the_columns_of_a_saved_model(tmp_path):
    from pyneuralode.cli.solving import solve_saved

    pn.NeuralODE(PREY, engine="torch").save(tmp_path / "prey.safetensors")
    table = solve_saved(tmp_path / "prey.safetensors", np.linspace(0, 1, 3), [1.0, 1.0])
    assert table.columns == ("x", "y") and table.states.shape == (3, 2)


def test_steps_of_a_description_are_not_believed():
    description = PREY.describe() | {"steps": ["exp x"], "outputs": ["#1", "#1"]}
    assert from_description(description).steps == PREY.steps
    with pytest.raises(pn.ArgumentError, match='contains "__import__'):
        from_description(description | {"equations": [["x", "__import__('os').getcwd()"]]})


def test_steps_compute_what_is_written_twice_once():
    field = pn.Equations({"x": "k*x + 2*3", "y": "exp(k*x)"}, {"k": 1}, let={"z": "k*x"})
    assert field.steps == ("* k x", "+ #1 6.0", "exp #1") and field.outputs == ("#2", "#3")
    assert field.components == ("x", "y") and field.dim == 2 and field.shapes() == {"k": ()}


def test_names_are_read_as_python_reads_them():
    field = pn.Equations({"µ": "-β*µ + ﬁ"}, {"β": 2.0, "ﬁ": 1.0})  # a micro sign and a ligature
    np.testing.assert_allclose(slope(field, field.initial(), 0.0, np.array([3.0])), [-5.0])
    words = {"stack": 1.0, "compute": 2.0, "y0": 3.0, "v1": 4.0, "as_tensor": 5.0, "inf": 6.0, "function": 7.0}
    field = pn.Equations({"y": " + ".join(words)}, words)
    np.testing.assert_allclose(slope(field, words, 0.0, np.array([0.0])), [28.0])


FORMULAS = {
    "a*z": "a name in the equation of x is 'z', which is unknown",
    "a*vlocity": "did you mean 'velocity'",
    "2velocity": "'2velocity', which cannot be read",
    "a(velocity)": r"contains 'a\(velocity\)': write a\*\(...\) for a product",
    "velocity^2": r"contains 'velocity\^2': write \*\* for a power",
    "sigmod(velocity)": "a function in the equation of x is 'sigmod', which is unknown: did you mean 'sigmoid'",
    "exp(velocity, a)": r"contains 'exp\(velocity, a\)': give exp 1 argument",
    "max(a)": "give max 2 or more arguments",
    "exp": "a name in the equation of x is 'exp'",
    "a/0 + 1/0": "contains '1/0', which is not a finite number",
    "(-8)**(1/3)": "which is not a finite number",
    "10**10**10": "which is not a finite number",
    "9" * 400: "which is not a finite number",
    "log(0)": r"contains 'log\(0\)', which is not a finite number",
    "velocity if a > 0 else 0": "contains 'velocity if a > 0 else 0': use only",
    "velocity == 1": "use only",
    "velocity // 2": "use only",
    "velocity.real": "contains 'velocity.real'",
    "'a'": "use only",
    "1j*a": "contains '1j'",
    "True*a": "contains 'True'",
    "exp(x=a)": "use only",
    "max(*a)": "give max 2 or more arguments",
    "(lambda: a)()": "use only",
    "[a for a in velocity]": "use only",
    "a := 1": "cannot be read",
    "a # times": "cannot be read",
    "a\0": "cannot be read",
    "__import__('os').getcwd()": "use only",
    "-" * 5000 + "a": "nested too deeply",
    "": "give a formula as text",
}


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda text: text[:20])
def test_a_formula_that_cannot_be_used_is_one_sentence(formula):
    with pytest.raises(pn.ArgumentError, match=FORMULAS[formula]) as caught:
        pn.Equations({"x": formula, "velocity": "x"}, {"a": 1.0})
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def terms(count):
    """Return `count` terms that contain every kind of operator."""
    kinds = ("k*x*{0}", "-x**2/{0}", "{0}e-3*-k", "sin(x - {0})/3", "2**-1*x", "(x + {0})*(k - 1/x)")
    return [kinds[i % len(kinds)].format(i + 1) for i in range(count)]


@pytest.mark.parametrize("count", [1000, 10000])
def test_a_formula_of_thousands_of_terms_or_factors(count):
    signs = ["+" if i % 3 else "-" for i in range(count)]
    total = "0" + "".join(f" {sign} {term}" for sign, term in zip(signs, terms(count)))
    product = "1" + "".join(f"{'*' if i % 2 else '/'}(1 + x/{i + 2})" for i in range(count))
    field = pn.Equations({"x": total, "y": product, "z": f"max({', '.join(['x', 'k'] * (count // 2))})"}, {"k": 0.3})
    value = {"x": 0.7, "k": 0.3, "sin": math.sin}
    expected = sum((1 if sign == "+" else -1) * eval(term, value) for sign, term in zip(signs, terms(count)))
    factors = math.prod((1 + 0.7 / (i + 2)) ** (1 if i % 2 else -1) for i in range(count))
    found = slope(field, {"k": 0.3}, 0.0, np.array([0.7, 0.0, 0.0]))
    np.testing.assert_allclose(found, [expected, factors, 0.7], rtol=1e-9)
    assert from_description(json.loads(json.dumps(field.describe()))) == field
    if count == 1000:
        small = pn.Equations({"x": "+".join(f"k*x/{count}*{i}/{i}" for i in range(1, count + 1))}, {"k": 0.3})
        solution = pn.solve(small, np.ones(1), [0.0, 1.0], engine="torch", rtol=1e-8)
        np.testing.assert_allclose(solution.ys[-1], math.exp(0.3), rtol=1e-6)


def test_a_formula_read_in_pieces_is_the_same_formula(monkeypatch):
    """Long formulas, which Python's parser rejects, are parsed in pieces, with the same result and the same errors."""
    total = " - ".join(terms(60)) + " + a*b/c**-d*e - -f*g"
    names = dict.fromkeys("kabcdefg", 0.5)
    whole = pn.Equations({"x": total}, names)
    read = ast.parse

    def limited(text, **mode):
        if len(text) > 25:
            raise RecursionError
        return read(text, **mode)

    monkeypatch.setattr(formulas, "ast", SimpleNamespace(**{**vars(ast), "parse": limited}))
    assert pn.Equations({"x": total}, names).steps == whole.steps
    for wrong, words in (
        ("== 1", "use only"),
        ("// 2", "use only"),
        ("+ 1/0", "'1/0', which is not a finite"),
        ("^ 2", "for a power"),
        ("if x else 0", "use only"),
        ("+ z", "is 'z', which is unknown"),
        ("+", "cannot be read"),
        (")", "cannot be read"),
    ):
        with pytest.raises(pn.ArgumentError, match=words):
            pn.Equations({"x": f"x + k*x + k*x*2 + k*x*3 + k*x*4 + x {wrong}"}, names)
    with pytest.raises(pn.ArgumentError, match="nested too deeply"):
        pn.Equations({"x": f"sin({total})"}, names)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (({},), "equations is empty"),
        (("x",), "equations is 'x': give a dictionary"),
        ((5,), "equations is 5"),
        (({"x": 3},), r"equations\['x'\] is 3: give a formula as text"),
        (({"t": "1"},), "'t', which means the time"),
        (({"x": "1"}, {"pi": 3}), "'pi', which means the constant pi"),
        (({"x": "1"}, {"exp": 3}), "'exp', which means a function"),
        (({"lambda": "1"},), "contains the name 'lambda'"),
        (({"x 1": "1"},), "contains the name 'x 1'"),
        (({3: "1"},), "contains the name 3"),
        (({"x": "1"}, {"x": 1}), "'x' is used twice"),
        (([("x", "1"), ("x", "2")],), "'x' is used twice"),
        (({"x": "1"}, {"k": [1, 2]}), r"parameters\['k'\] is \[1, 2\]: give a finite number"),
        (({"x": "1"}, {"k": math.nan}), "give a finite number"),
        (({"x": "u"}, {}, {"u": "v", "v": "x"}), "a name in the term u is 'v'"),
        (({"x": "u"}, {}, {"u": "u"}), "a name in the term u is 'u'"),
    ],
)
def test_names_and_values_that_cannot_be_used_are_one_sentence(arguments, message):
    with pytest.raises(pn.ArgumentError, match=message):
        pn.Equations(*arguments)


def test_a_parameter_name_that_torch_keeps_is_refused_where_torch_is_used():
    field = pn.Equations({"x": "-half*x"}, {"half": 0.5})
    assert pn.solve(field, np.ones(1), [0.0, 1.0], engine="torch").ys.shape == (2, 1)
    with pytest.raises(pn.ArgumentError, match="'half', which torch reserves: rename it to half_"):
        pn.NeuralODE(field)
