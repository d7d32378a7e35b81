"""The reference derivatives of the report `adjoint`."""

import pytest

from pyneuralode.reports import adjoint


def test_closed_form_of_the_contracting_problem():
    assert adjoint.stiff_truth() == pytest.approx(-1.27e-3, rel=1e-3)
    found = float(adjoint.stiff_gradient("Backprop", solver="DP8", rtol=1e-12, atol=1e-12))
    assert found == pytest.approx(adjoint.stiff_truth(), rel=1e-8)


def test_a_loose_backward_solve_has_the_wrong_sign_and_interpolating_has_not():
    assert adjoint.stiff_gradient_of_torchdiffeq(1e-3) == pytest.approx(8e-4, rel=0.01)
    assert float(adjoint.stiff_gradient("BacksolveAdjoint", solver="DP5", rtol=1e-2, atol=1e-2)) > 0
    assert float(adjoint.stiff_gradient("InterpolatingAdjoint", solver="DP5", rtol=1e-2, atol=1e-2)) < 0


@pytest.mark.parametrize("method", ["Checkpointed", "BacksolveAdjoint", "InterpolatingAdjoint", "ForwardMode"])
def test_all_methods_tend_to_one_gradient(method):
    tight = {"solver": "DP8", "rtol": 1e-11, "atol": 1e-11}
    exact = adjoint.spiral_gradient("Backprop", **tight)
    assert float((adjoint.spiral_gradient(method, **tight) - exact).norm() / exact.norm()) < 1e-7
