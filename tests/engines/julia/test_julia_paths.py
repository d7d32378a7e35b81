"""The choice, made in Python, of Julia's code path for every solver and gradient method of the Julia engine."""

import pytest
import torch

import pyneuralode as pn
from pyneuralode.engines.julia_engine import paths
from pyneuralode.engines.julia_engine.paths import BATCHED_SENSITIVITY, DISCRETE, NO_GRADIENT, SENSITIVITY
from pyneuralode.engines.registry import Settings
from pyneuralode.gradients import OF_STEPS, find_gradient, gradients_of
from pyneuralode.solvers import find_solver, solvers_of

NET = pn.MLP((2, 6, 2))
SOLVERS = solvers_of("julia")
GRADIENTS = gradients_of("julia")


def problem(solver="Tsit5", gradient="Backprop", compiled=True, differentiated=True, field=NET, dense=False):
    y0 = torch.zeros(field.dim, requires_grad=differentiated)
    settings = Settings(field, find_solver(solver), find_gradient(gradient), pn.Control(), dense, compiled)
    return settings.problem(field.initial(), y0, [0.0, 1.0])


def path(*arguments, device="cpu", **settings):
    return paths.find_path(problem(*arguments, **settings), device)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_solve_without_a_gradient_takes_the_steps_that_its_gradient_would_differentiate(solver, gradient):
    with_gradient, without = path(solver, gradient), path(solver, gradient, differentiated=False)
    assert without[0] == (DISCRETE if with_gradient[0] == DISCRETE else NO_GRADIENT)
    assert path(solver, gradient, differentiated=False, dense=True) == (NO_GRADIENT, "")


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_of_steps_need_compiled_steps_and_all_others_do_not(solver):
    for gradient in GRADIENTS:
        found, reason = path(solver, gradient)
        if not isinstance(find_gradient(gradient), OF_STEPS):
            assert found == SENSITIVITY
        elif paths.has_compiled_steps(find_solver(solver)):
            assert found == DISCRETE
        else:
            assert found is None and f"gradient is '{gradient}'" in reason and "InterpolatingAdjoint" in reason


def test_without_compiled_code_only_sciml_solves():
    assert path(compiled=False)[0] is None
    assert path(compiled=False, differentiated=False)[0] == NO_GRADIENT
    assert path(gradient="GaussAdjoint", compiled=False)[0] == SENSITIVITY


def test_a_gpu_has_adjoints_by_explicit_solvers_for_three_fields():
    assert path(gradient="InterpolatingAdjoint", device="cuda")[0] == BATCHED_SENSITIVITY
    assert path(differentiated=False, device="cuda")[0] == NO_GRADIENT
    for settings, words in (
        ({}, "write gradient='InterpolatingAdjoint'"),
        ({"gradient": "ForwardMode"}, "only on the CPU"),
        ({"solver": "Rodas5P", "differentiated": False}, "explicit solver"),
        ({"field": pn.Equations({"x": "-x"})}, "the field is an Equations"),
    ):
        found, reason = path(device="cuda", **settings)
        assert found is None and words in reason
        with pytest.raises(pn.ArgumentError, match=words):
            paths.require_path(problem(**settings), "cuda")


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_flows_take_steps_or_batched_adjoints(gradient):
    found, reason = paths.find_flow_path(find_solver("Tsit5"), find_gradient(gradient))
    if gradient == "ForwardMode":
        assert found is None and "flows in Julia do not support" in reason
    else:
        assert found == (DISCRETE if isinstance(find_gradient(gradient), OF_STEPS) else BATCHED_SENSITIVITY)


@pytest.mark.parametrize("solver, words", [("Vern9", "InterpolatingAdjoint"), ("Rodas5P", "explicit solver")])
def test_flows_say_which_part_does_not_fit(solver, words):
    found, reason = paths.find_flow_path(find_solver(solver), find_gradient("Backprop"))
    assert found is None and solver in reason and words in reason
