"""Check the Runge-Kutta coefficients with the rooted-tree order conditions (Butcher 1963) and SciPy's tables."""

from functools import cache

import numpy as np
import pytest

from pyneuralode.errors import ArgumentError
from pyneuralode.tableaus import TABLEAUS, Tableau

# Orders of the solution, of the interpolant, and of the embedded solutions.
ORDERS = {
    "Euler": (1, 1, []),
    "Midpoint": (2, 2, []),
    "Heun": (2, 2, []),
    "RK4": (4, 3, []),
    "RK38": (4, 3, []),
    "BS3": (3, 3, [2]),
    "DP5": (5, 4, [4]),
    "Tsit5": (5, 4, [4]),
    "Vern7": (7, 6, [6]),
    "DP8": (8, 7, [5, 3]),
}
EXACT, BROKEN = 1e-12, 1e-8
DIGITS = dict(rtol=1e-15, atol=1e-15)
THETAS = [0.0, 0.1, 0.35, 0.5, 0.8, 1.0]

every_method = pytest.mark.parametrize("tableau", TABLEAUS.values(), ids=TABLEAUS)


@cache
def trees(n):
    """Return all rooted trees of n vertices; a tree is the tuple of its subtrees."""

    def forests(total, size, index):
        if total == 0:
            yield ()
        for m in range(min(total, size), 0, -1):
            for i, tree in enumerate(trees(m)):
                if m < size or i <= index:
                    yield from ((tree, *rest) for rest in forests(total - m, m, i))

    return list(forests(n - 1, n - 1, float("inf")))


def gamma(tree):
    return repr(tree).count("(") * np.prod([gamma(child) for child in tree])


def phi(tree, A):
    return np.prod([A @ phi(child, A) for child in tree] or [np.ones(len(A))], axis=0)


def defect(weights, A, r, theta=1.0):
    """Return the largest residual of the order conditions for trees of r vertices."""
    return max(abs(weights @ phi(tree, A) - theta**r / gamma(tree)) for tree in trees(r))


def all_stages(tableau):
    """Return A extended by the interpolant's stages, and b extended by a zero for each additional stage."""
    x = len(tableau.interpolant) - tableau.stages
    A = np.pad(tableau.A, ((0, x), (0, x)))
    if x:
        A[-x:] = tableau.extra_A
    return A, np.pad(tableau.b, (0, x))


def test_the_generator_finds_every_tree():
    assert [len(set(trees(n))) for n in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]


def test_the_catalog_is_complete():
    claims = {name: (tableau.order, tableau.interpolant_order) for name, tableau in TABLEAUS.items()}
    assert claims == {name: orders[:2] for name, orders in ORDERS.items()}
    assert [name for name, tableau in TABLEAUS.items() if tableau.fsal] == ["BS3", "DP5", "Tsit5", "DP8"]
    adaptive = {name: tableau.error_order for name, tableau in TABLEAUS.items() if tableau.error is not None}
    assert adaptive == {"BS3": 2, "DP5": 4, "Tsit5": 4, "Vern7": 6, "DP8": 7}


@every_method
def test_the_solution_has_exactly_its_order(tableau):
    assert max(defect(tableau.b, tableau.A, r) for r in range(1, tableau.order + 1)) < EXACT
    assert defect(tableau.b, tableau.A, tableau.order + 1) > BROKEN


@every_method
def test_the_embedded_solutions_have_exactly_their_orders(tableau):
    *_, orders = ORDERS[tableau.name]
    errors = [] if tableau.error is None else tableau.error
    for error, order in zip(errors, orders, strict=True):
        assert max(defect(tableau.b - error, tableau.A, r) for r in range(1, order + 1)) < EXACT
        assert defect(tableau.b - error, tableau.A, order + 1) > BROKEN


@every_method
def test_the_interpolant_has_exactly_its_order(tableau):
    A, _ = all_stages(tableau)
    powers = np.arange(1, tableau.interpolant.shape[1] + 1)
    weights = {theta: tableau.interpolant @ theta**powers for theta in THETAS}
    worst = [
        max(defect(weights[theta], A, r, theta) for theta in THETAS) for r in range(1, tableau.interpolant_order + 2)
    ]
    assert max(worst[:-1]) < EXACT
    assert worst[-1] > BROKEN
    if tableau.name == "Vern7":  # almost order seven: 12 of the 48 conditions are violated by 2.7e-7
        assert worst[-1] < 3e-7


@every_method
def test_the_interpolant_meets_values_and_slopes_at_both_ends(tableau):
    A, b = all_stages(tableau)
    slopes_at_1 = tableau.interpolant @ np.arange(1, tableau.interpolant.shape[1] + 1)
    np.testing.assert_allclose(tableau.interpolant.sum(axis=1), b, rtol=0, atol=EXACT)
    np.testing.assert_allclose(tableau.interpolant[:, 0], np.eye(len(b))[0], rtol=0, atol=EXACT)
    if tableau.name != "Euler":  # its interpolant is piecewise linear
        np.testing.assert_allclose(slopes_at_1, np.eye(len(b))[tableau.end_stage], rtol=0, atol=5 * EXACT)
        np.testing.assert_array_equal(A[tableau.end_stage], b)


@pytest.mark.parametrize("name, peer", [("BS3", "RK23"), ("DP5", "RK45"), ("DP8", "DOP853")])
def test_the_coefficients_are_those_of_scipy(name, peer):
    peer = getattr(pytest.importorskip("scipy.integrate"), peer)
    tableau, s = TABLEAUS[name], peer.n_stages
    A = np.pad(peer.A, ((0, 0), (0, s - peer.A.shape[1])))
    np.testing.assert_allclose(tableau.A[:s, :s], A, **DIGITS)
    np.testing.assert_allclose(tableau.b[:s], peer.B, **DIGITS)
    np.testing.assert_allclose(tableau.c[:s], peer.C, **DIGITS)
    if name == "DP8":
        np.testing.assert_allclose(tableau.error, [peer.E5, peer.E3], **DIGITS)
        np.testing.assert_allclose(tableau.extra_A, peer.A_EXTRA, **DIGITS)
    else:
        np.testing.assert_allclose(tableau.error[0], -peer.E, **DIGITS)
        np.testing.assert_allclose(tableau.interpolant, peer.P, rtol=0, atol=1e-13)


def test_a_users_own_method_gets_its_row_sums_and_the_hermite_interpolant():
    tableau = Tableau("Ralston", 2, A=[[0, 0], [2 / 3, 0]], b=[1 / 4, 3 / 4], error=[-3 / 4, 3 / 4])
    np.testing.assert_array_equal(tableau.c, [0, 2 / 3])
    assert (tableau.stages, tableau.fsal, tableau.end_stage, tableau.error_order) == (2, False, 2, 1)
    np.testing.assert_array_equal(tableau.extra_A, [[1 / 4, 3 / 4, 0]])
    np.testing.assert_allclose(tableau.interpolant, [[1, -5 / 4, 1 / 2], [0, 9 / 4, -3 / 2], [0, -1, 1]])
    with pytest.raises(ValueError, match="read-only"):
        tableau.b[0] = 1.0


HEUN = dict(name="own", order=2, A=[[0, 0], [1, 0]], b=[1 / 2, 1 / 2])
WRONG = [
    ({"order": 0}, "order is 0"),
    ({"A": [[0, 1], [0, 0]]}, r"A\[0, 1\] is 1"),
    ({"A": [[0, 0], [1]]}, "rows of equal length"),
    ({"A": [[0]]}, "A has shape 1 x 1: give 2 x 2"),
    ({"A": [[0, 0], [np.inf, 0]]}, "A contains inf"),
    ({"b": [1 / 2, 1 / 3]}, "b sums to 0.8333"),
    ({"c": [0, 1 / 2]}, r"c\[1\] is 0.5, but the weights in that row sum to 1"),
    ({"error": [1 / 2, 1 / 2]}, "error sums to 1"),
    ({"error": [1, -1, 0]}, "error has shape 1 x 3"),
    ({"error_order": 1}, "error_order is 1, but error is missing"),
    ({"extra_A": [[1 / 2, 1 / 2, 0]]}, "extra_A is given without interpolant"),
    ({"interpolant": [[1 / 2], [1 / 2]]}, "interpolant_order is None"),
    ({"interpolant": [[1], [0]], "interpolant_order": 1}, "interpolant differs from b by 0.5"),
    ({"interpolant": [[1 / 2], [1 / 2]], "interpolant_order": 1, "extra_A": [[1 / 2, 0, 1 / 2]]}, r"extra_A\[0, 2\]"),
]


@pytest.mark.parametrize("change, message", WRONG)
def test_wrong_input_is_answered_with_the_argument_and_its_value(change, message):
    with pytest.raises(ArgumentError, match=message):
        Tableau(**HEUN | change)
