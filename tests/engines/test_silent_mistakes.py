"""Mistakes that could silently give wrong numbers raise an error or are impossible."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import pyneuralode as pn
from pyneuralode.dropin.runge_kutta import combination_weights
from pyneuralode.engines.torch_engine.batched.step import batched_method
from pyneuralode.engines.torch_engine.stiff import as_method
from pyneuralode.gradients import gradients_of

GRADIENTS = gradients_of("torch")

ROTATION = pn.Linear(((0.0, 1.0), (-1.0, 0.0)))
Y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("method", GRADIENTS)
def test_second_derivatives_are_right_or_refused(method):
    matrix = torch.tensor(ROTATION.matrix, dtype=torch.float64)

    def loss(a):
        return (
            pn.solve(ROTATION, Y0, [0.0, 1.0], parameters={"A": a}, gradient=method, compiled=method != "Backprop")
            .ys[-1]
            .sum()
        )

    if method == "Backprop":
        hessian = torch.autograd.functional.hessian(loss, matrix)
        exact = torch.autograd.functional.hessian(lambda a: (torch.matrix_exp(a) @ Y0).sum(), matrix)
        torch.testing.assert_close(hessian, exact, rtol=1e-4, atol=1e-4)
    else:
        with pytest.raises(pn.ArgumentError, match="compiled=False"):
            torch.autograd.functional.hessian(loss, matrix)


def test_second_derivatives_of_the_compiled_path_are_refused():
    matrix = torch.tensor(ROTATION.matrix, dtype=torch.float64, requires_grad=True)
    ys = pn.solve(ROTATION, Y0, [0.0, 1.0], parameters={"A": matrix}).ys
    with pytest.raises(pn.ArgumentError, match="compiled=False"):
        torch.autograd.grad(ys.sum(), matrix, create_graph=True)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def forward(self, t, y):
        return -(self.a + self.b) * y


@pytest.mark.parametrize("method", GRADIENTS)
def test_parameters_of_a_module_that_are_not_named_get_their_gradient(method):
    module = Two()
    pn.solve(module, Y0, [0.0, 1.0], parameters={"a": module.a}, gradient=method).ys[-1].sum().backward()
    assert module.a.grad.item() == pytest.approx(-1.5 * np.exp(-0.5), rel=1e-4)
    assert module.b.grad.item() == pytest.approx(module.a.grad.item(), rel=1e-12)
    with pytest.raises(pn.ArgumentError, match="'zz'"):
        pn.solve(module, Y0, [0.0, 1.0], parameters={"zz": module.a})


@pytest.mark.parametrize("method", [name for name in GRADIENTS if name != "Backprop"])
def test_a_tensor_of_a_closure_that_is_not_named_is_refused(method):
    k, hidden = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.5, 0.2))
    with pytest.raises(pn.ArgumentError, match="pass them by name"):
        pn.solve(lambda t, y: -(k + hidden) * y, Y0, [0.0, 1.0], parameters={"k": k}, gradient=method)
    # Tensors from which a named parameter was computed need not be named.
    rate = torch.exp(hidden)
    pn.solve(lambda t, y: -rate * y, Y0, [0.0, 1.0], parameters={"rate": rate}, gradient=method).ys.sum().backward()
    assert hidden.grad is not None


@pytest.mark.parametrize("method", GRADIENTS)
def test_an_unused_parameter_gets_zeros(method):
    unused = torch.ones(3, dtype=torch.float64, requires_grad=True)
    pn.solve(
        lambda t, y: torch.ones_like(y), Y0, [0.0, 1.0], parameters={"p": unused}, gradient=method
    ).ys.sum().backward()
    assert bool((unused.grad == 0).all())


def test_frozen_parameters_do_not_move():
    module = Two()
    module.b.requires_grad_(False)
    result = pn.fit(pn.NeuralODE(module), [0.0, 1.0], [[1.0], [0.2]], y0=[1.0], plan=pn.Stage(pn.LBFGS(), 10))
    assert float(result.parameters["b"]) == 0.2 and module.b.item() == 0.2
    assert float(result.parameters["a"]) == pytest.approx(-np.log(0.2) - 0.2, rel=1e-3)


def test_numpy_states_record_no_graph():
    model = pn.NeuralODE(pn.MLP((2, 8, 2), init_bias=0.2), compiled=False)
    seen = []
    model.weights["weight_1"].register_hook(seen.append)
    assert isinstance(model([1.0, 0.5], [0.0, 1.0]), np.ndarray)
    solution = model.solve(np.ones(2), np.array([0.0, 1.0]), dense=True)
    assert isinstance(solution(0.5), np.ndarray) and not seen


def test_times_in_double_beside_a_single_state_keep_its_dtype():
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    ys = pn.solve(ROTATION, Y0.float(), ts, rtol=1e-5, atol=1e-5).ys
    assert ys.dtype == torch.float32
    ys[-1].sum().backward()
    assert bool((ts.grad != 0).all())


FIT = {"y0": [1.0, 0.0], "plan": [pn.Stage(pn.Adam(), 20)]}
TS, DATA = np.linspace(0, 2, 6), np.ones((6, 2))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"data": 3 * DATA}, "data differs"),
        ({"bounds": {"A": (-9.0, None)}}, "bounds differs"),
        ({"weights": np.arange(6.0)}, "data differs"),
        ({"plan": [pn.Stage(pn.Adam(), 21)]}, "plan differs"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, change, named):
    file = tmp_path / "fit.checkpoint"
    settings = {"ts": TS, "data": DATA, **FIT, "checkpoint": file, "checkpoint_every": 5}
    pn.fit(pn.NeuralODE(ROTATION), **settings)
    with pytest.raises(pn.ArgumentError, match=named):
        pn.fit(pn.NeuralODE(ROTATION), **(settings | change), resume=True)


def test_shapes_of_masks_and_weights_mean_what_they_say():
    wrong = DATA.copy()
    wrong[2] = 50.0
    rows = np.arange(6) != 2

    def loss(**settings):
        return pn.fit(pn.NeuralODE(ROTATION), TS, wrong, y0=[1.0, 0.0], plan=pn.Stage(pn.Adam(), 1), **settings).loss

    expected = loss(mask=np.stack([rows, rows], axis=1))
    assert (
        loss(mask=rows)
        == loss(weights=rows.astype(float))
        == loss(weights=np.stack([rows, rows], 1).astype(float))
        == expected
    )
    with pytest.raises(pn.ArgumentError, match=r"mask has shape \(2, 6\)"):
        loss(mask=np.stack([rows, rows]))
    for shape in ((2,), (2, 6, 2)):
        with pytest.raises(pn.ArgumentError, match="weights has shape"):
            loss(weights=np.ones(shape))


REFUSED = {
    "a step that is not finite": (lambda: pn.solve(ROTATION, Y0, [0.0, 1.0], step_size=np.inf), "step_size is inf"),
    "atol 0 at a zero state": (lambda: pn.solve(ROTATION, [0.0, 1.0], [0.0, 1.0], atol=0.0), "atol is 0 where y0 is 0"),
    "atol below the dtype": (
        lambda: pn.solve(ROTATION, Y0.float(), [0.0, 1.0], rtol=0.0, atol=1e-12),
        "tighter than float32 can resolve",
    ),
    "a module without time": (
        lambda: pn.NeuralODE(nn.Sequential(nn.Linear(2, 2)))(Y0, [0.0, 1.0]),
        r"must accept \(t, y\)",
    ),
    "a net of another width": (
        lambda: pn.solve(lambda t, y: nn.Linear(3, 3).double()(y), Y0, [0.0, 1.0]),
        "cannot be evaluated at y0",
    ),
    "a complex state": (lambda: pn.solve(ROTATION, Y0.to(torch.complex128), [0.0, 1.0]), "real and imaginary"),
    "nothing to fit": (lambda: pn.fit(pn.NeuralODE(lambda t, y: -y), TS, np.ones(6), y0=[1.0]), "no parameters to fit"),
    "bounds of one number": (lambda: pn.fit(pn.NeuralODE(ROTATION), TS, DATA, bounds={"A": 3.0}, **FIT), "a pair"),
    "one row at the start": (
        lambda: pn.fit(pn.NeuralODE(ROTATION), [0.0], [[1.0, 1.0]], **FIT),
        "does not depend on any free parameter",
    ),
    "a checkpoint in no folder": (
        lambda: pn.fit(pn.NeuralODE(ROTATION), TS, DATA, **FIT, checkpoint="absent/folder/fit"),
        "folder does not exist",
    ),
    "falling data": (lambda: pn.fit(pn.NeuralODE(ROTATION), TS[::-1], DATA[::-1], **FIT), "sort the data by time"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_used_to_crash_or_run_on_is_one_sentence(case):
    call, words = REFUSED[case]
    with pytest.raises(pn.ArgumentError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_best_so_far_is_kept_where_the_next_stage_fails_at_once():
    calls = []

    def penalty(ts, ys, parameters):
        calls.append(1)
        return ys.sum() * (float("nan") if len(calls) > 5 else 0.0)

    plan = [pn.Stage(pn.Adam(), 5), pn.Stage(pn.Adam(), 5)]
    result = pn.fit(pn.NeuralODE(ROTATION), TS, DATA, y0=[1.0, 0.0], plan=plan, penalty=penalty)
    assert not result.finished and np.isfinite(result.loss) and result.loss == result.stages[0].best_loss


def test_numbers_of_numpy_and_torch_are_saved(tmp_path):
    model = pn.NeuralODE(ROTATION, rtol=np.float32(1e-4), atol=torch.tensor(1e-5), max_steps=np.int64(900))
    model.save(tmp_path / "m")
    assert pn.load(tmp_path / "m").control.max_steps == 900
    with pytest.raises(pn.ArgumentError, match="folder does not exist"):
        model.save(tmp_path / "absent" / "m")


def test_an_earlier_start_is_left_out_of_the_states():
    model = pn.NeuralODE(ROTATION, rtol=1e-9, atol=1e-9)
    whole = model.solve([1.0, 0.0], [0.0, 0.5, 1.0])
    later = model.solve([1.0, 0.0], np.array([0.5, 1.0]), t0=0.0)
    np.testing.assert_array_equal(later.ys, whole.ys[1:])
    np.testing.assert_array_equal(later.ts, [0.5, 1.0])


FORMULA = pn.Equations({"a": "-k*a"}, parameters={"k": 0.5})


@pytest.mark.parametrize("solver", ["Tsit5", "Rodas5P", "KenCarp4", "AutoTsit5(Rosenbrock23)"])
@pytest.mark.parametrize("batch", ["joint", "independent"])
def test_a_solve_in_inference_mode_leaves_later_ones_their_gradients(solver, batch):
    y0, ts = torch.ones(2, 1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    for cache in (as_method, batched_method, combination_weights):
        cache.cache_clear()
    with torch.inference_mode():
        pn.solve(FORMULA, y0.clone(), ts, solver=solver, batch=batch, compiled=False, engine="torch")
        pn.odeint(lambda t, y: -y, y0.clone(), ts)
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    ys = pn.solve(FORMULA, y0, ts, parameters={"k": k}, solver=solver, batch=batch, compiled=False, engine="torch").ys
    (ys[-1].sum() + pn.odeint(lambda t, y: -k * y, y0, ts)[-1].sum()).backward()
    assert abs(k.grad + 4 * np.exp(-0.5)) < 1e-3


@pytest.mark.parametrize("field", [pn.MLP((2, 5, 2), "tanh"), FORMULA], ids=["network", "formula"])
def test_forward_mode_differentiation_is_not_lost_in_compiled_code(field):
    parameters = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in field.initial(0).items()}
    y0 = torch.full((field.dim,), 0.8, dtype=torch.float64)

    def end(moved):
        return pn.solve(field, y0, [0.0, 1.0], parameters=moved, rtol=1e-9, atol=1e-9, engine="torch").ys[-1]

    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(value, torch.ones_like(value)) for name, value in parameters.items()}
        tangent = forward_ad.unpack_dual(end(dual)).tangent
    step = 1e-5
    ahead, behind = (end({name: value + h for name, value in parameters.items()}) for h in (step, -step))
    assert torch.allclose(tangent, (ahead - behind) / (2 * step), rtol=1e-5)


def test_a_state_that_numpy_has_no_type_for_is_solved():
    ys = pn.solve(FORMULA, torch.ones(1, dtype=torch.bfloat16), [0.0, 1.0], rtol=0.1, atol=0.1, engine="torch").ys
    assert ys.dtype == torch.bfloat16 and abs(float(ys[-1, 0]) - np.exp(-0.5)) < 0.02
