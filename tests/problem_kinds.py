"""Generators of random problems, grouped by kind.

In many problems, the right-hand side is defined at a point where its derivative is not: roots and powers at zero, |x|
at zero, sqrt(t) at t = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from problem_forms import Formulas, RandomProblem

Draw = np.random.Generator

KINDS: dict[str, list[Callable[[Draw], RandomProblem]]] = {}


def _kind(name: str) -> Callable:
    def register(make: Callable) -> Callable:
        KINDS.setdefault(name, []).append(make)
        return make

    return register


def _between(rng: Draw, low: float, high: float) -> float:
    """Return a log-uniform random number, rounded to four digits."""
    return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}")


def _signed(rng: Draw, low: float, high: float) -> float:
    return _between(rng, low, high) * float(rng.choice([-1, 1]))


def _made(
    rng: Draw, equations: Formulas, y0, end: float, *, parameters=None, let=None, stiffness=30.0, exact=None, smooth=True,
    bends=False, refusable=False, ends=None, single=True, smallest=1.0, stops=(),
) -> RandomProblem:  # fmt: skip
    """Return a problem on [0, `end`] with irregular output times."""
    return RandomProblem(
        "",
        dict(equations),
        np.array(y0, dtype=float),
        _odd_times(rng, end),
        dict(parameters or {}),
        dict(let or {}),
        stiffness,
        exact,
        smooth and not bends,
        bends,
        refusable,
        ends,
        single,
        smallest,
        stops,
    )


def _odd_times(rng: Draw, end: float) -> np.ndarray:
    """Return irregular times from 0 to `end`: some close to the start, the end or each other, or only the two ends."""
    parts = [rng.uniform(0, 1, int(rng.integers(0, 5)))]
    if rng.random() < 0.3:
        parts.append([10.0 ** -rng.integers(3, 10)])
    if rng.random() < 0.2:
        parts.append([1 - 10.0 ** -rng.integers(3, 10)])
    if rng.random() < 0.3:
        parts.append(rng.uniform(0.1, 0.9) + np.arange(3) * 10.0 ** -rng.integers(3, 9))
    if rng.random() < 0.2:
        parts.append(np.linspace(0, 1, 12)[1:-1])
    inside = np.concatenate(parts) * end
    return np.unique([0.0, *inside[(inside > 0) & (inside < end)], end])


def _named(count: int) -> list[str]:
    return ["x", "y", "z", "v", "w"][:count]


def _terms(rng: Draw, words: list[str], count: int) -> str:
    """Return a formula: the sum of `count` randomly chosen words, with random coefficients."""
    chosen = rng.choice(words, size=min(count, len(words)), replace=False)
    return " + ".join(f"{_signed(rng, 0.2, 1.5)}*{word}" for word in chosen)


# Linear, with known solutions.


def _linear(rng: Draw, matrix: np.ndarray, force: np.ndarray, y0: np.ndarray, end: float) -> RandomProblem:
    from scipy.linalg import expm

    names, d = _named(len(matrix)), len(matrix)
    whole = np.zeros((d + 1, d + 1))
    whole[:d, :d], whole[:d, d] = matrix, force
    equations = {
        name: " + ".join([f"{a!r}*{other}" for a, other in zip(row.tolist(), names)] + [repr(b)])
        for name, row, b in zip(names, matrix, force.tolist())
    }
    rate = float(np.abs(np.linalg.eigvals(matrix)).max())
    return _made(
        rng, equations, y0, end, stiffness=rate * end, exact=lambda t: (expm(whole * t) @ np.append(y0, 1.0))[:d]
    )


@_kind("linear")
def system_with_known_eigenvalues(rng):
    d = int(rng.integers(1, 5))
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0] @ np.diag(rng.uniform(0.5, 2, d))
    blocks = np.diag(-np.array([_between(rng, 0.1, 3) for _ in range(d)]))
    for i in range(0, d - 1, 2):
        if rng.random() < 0.5:  # a rotating pair
            speed = _between(rng, 0.3, 5)
            blocks[i + 1, i + 1] = blocks[i, i]
            blocks[i, i + 1], blocks[i + 1, i] = speed, -speed
    if rng.random() < 0.3:
        blocks[-1, -1] = -_between(rng, 30, 1e5)
    if rng.random() < 0.2:
        blocks[0, 0] = _between(rng, 0.05, 0.5)
    matrix = np.round(basis @ blocks @ np.linalg.inv(basis), 6)
    force = np.round(rng.normal(size=d), 3) * (rng.random() < 0.5)
    return _linear(rng, matrix, force, np.round(rng.normal(size=d), 3), _between(rng, 0.5, 8))


@_kind("linear")
def chain_with_one_eigenvalue(rng):
    d = int(rng.integers(2, 5))
    matrix = np.eye(d) * -_between(rng, 0.1, 2) * rng.integers(0, 2) + np.diag(np.full(d - 1, _signed(rng, 0.5, 2)), 1)
    return _linear(rng, matrix, np.zeros(d), np.round(rng.normal(size=d), 3), _between(rng, 0.5, 4))


@_kind("linear")
def rate_that_varies_in_time(rng):
    a, w, y0, end = _signed(rng, 0.3, 2), _between(rng, 0.5, 4), _signed(rng, 0.2, 3), _between(rng, 1, 8)
    return _made(
        rng, {"x": "a*cos(w*t)*x"}, [y0], end, parameters={"a": a, "w": w},
        exact=lambda t: np.array([y0 * math.exp(a * math.sin(w * t) / w)]),
    )  # fmt: skip


@_kind("linear")
def driven_relaxation(rng):
    k, w, y0, end = _between(rng, 0.2, 30), _between(rng, 0.3, 6), _signed(rng, 0.2, 3), _between(rng, 1, 6)
    a, b = k * k / (k * k + w * w), k * w / (k * k + w * w)
    return _made(
        rng, {"x": "k*(cos(w*t) - x)"}, [y0], end, parameters={"k": k, "w": w}, stiffness=k * end,
        exact=lambda t: np.array([a * math.cos(w * t) + b * math.sin(w * t) + (y0 - a) * math.exp(-k * t)]),
    )  # fmt: skip


# Polynomial.


@_kind("polynomial")
def logistic(rng):
    r, K, y0, end = _between(rng, 0.3, 3), _between(rng, 0.5, 5), _between(rng, 0.01, 8), _between(rng, 1, 6)
    return _made(
        rng, {"x": "r*x*(1 - x/K)"}, [y0], end, parameters={"r": r, "K": K},
        exact=lambda t: np.array([K / (1 + (K / y0 - 1) * math.exp(-r * t))]),
    )  # fmt: skip


@_kind("polynomial")
def cubic_decay(rng):
    c, y0, end = _between(rng, 0.2, 3), _signed(rng, 0.2, 3), _between(rng, 1, 6)
    return _made(rng, {"x": "-c*x**3"}, [y0], end, parameters={"c": c},
                 exact=lambda t: np.array([y0 / math.sqrt(1 + 2 * c * y0 * y0 * t)]))  # fmt: skip


@_kind("polynomial")
def predators_and_prey(rng):
    values = {name: _between(rng, 0.5, 2) for name in "abcd"}
    return _made(
        rng, {"x": "a*x - b*x*y", "y": "-c*y + d*x*y"}, [_between(rng, 0.3, 2), _between(rng, 0.3, 2)],
        _between(rng, 1, 8), parameters=values,
    )  # fmt: skip


@_kind("polynomial")
def oscillator_of_van_der_pol(rng):
    mu = _between(rng, 0.1, 8)
    return _made(
        rng, {"x": "v", "v": "mu*(1 - x**2)*v - x"}, [_signed(rng, 0.5, 2), _signed(rng, 0.1, 2)], _between(rng, 1, 8),
        parameters={"mu": mu}, stiffness=30 * mu,
    )  # fmt: skip


@_kind("polynomial")
def brusselator(rng):
    return _made(
        rng, {"x": "a + x**2*y - (b + 1)*x", "y": "b*x - x**2*y"}, [_between(rng, 0.3, 2), _between(rng, 0.3, 3)],
        _between(rng, 1, 8), parameters={"a": _between(rng, 0.5, 1.5), "b": _between(rng, 1, 3)}, stiffness=100,
    )  # fmt: skip


@_kind("polynomial")
def random_quadratic_with_cubic_damping(rng):
    d = int(rng.integers(1, 5))
    names = _named(d)
    words = [*names, *(f"{a}*{b}" for i, a in enumerate(names) for b in names[i:]), "cos(t)", "1.0"]
    equations = {name: f"{_terms(rng, words, 3)} - {_between(rng, 0.5, 2)}*{name}**3" for name in names}
    return _made(rng, equations, np.round(rng.uniform(-1.2, 1.2, d), 3), _between(rng, 0.5, 5), stiffness=60)


@_kind("polynomial")
def bernoulli_of_a_parameter_power(rng):
    n, a, b, y0, end = (
        float(rng.integers(2, 5)),
        _between(rng, 0.3, 2),
        _between(rng, 0.2, 2),
        _between(rng, 0.2, 2),
        3.0,
    )
    return _made(
        rng, {"x": "a*x - b*x**n"}, [y0], end, parameters={"a": a, "b": b, "n": n},
        exact=lambda t: np.array([(b / a + (y0 ** (1 - n) - b / a) * math.exp((1 - n) * a * t)) ** (1 / (1 - n))]),
    )  # fmt: skip


# Rational.


@_kind("rational")
def michaelis_and_menten(rng):
    start, end, k, vmax, km = (_between(rng, *range_) for range_ in ((0.5, 3), (2, 10), (0.2, 3), (0.3, 2), (0.02, 1)))
    # An error of size km moves b across the pole; at rtol = atol = 1e-3 this happens to SciPy's RK45 and DOP853 in 1 of
    # 100 problems.
    return _made(
        rng, {"a": "-k*a", "b": "k*a - loss", "c": "loss"}, [start, 0, 0], end, parameters={"k": k, "vmax": vmax, "km": km},
        let={"loss": "vmax*b/(km + b)"}, stiffness=100, smallest=km,
    )  # fmt: skip


@_kind("rational")
def hill_switch(rng):
    n = float(rng.choice([1.0, 2.0, 4.0, 2.5]))
    return _made(
        rng, {"x": "a/(1 + y**n) - x", "y": "a/(1 + x**n) - b*y"}, [_between(rng, 0.1, 3), _between(rng, 0.1, 3)],
        _between(rng, 1, 6), parameters={"a": _between(rng, 1, 5), "b": _between(rng, 0.5, 2), "n": n},
    )  # fmt: skip


@_kind("rational")
def growth_over_time(rng):
    p, y0, end = _signed(rng, 0.3, 3), _signed(rng, 0.3, 3), _between(rng, 1, 20)
    return _made(rng, {"x": "p*x/(1 + t)"}, [y0], end, parameters={"p": p},
                 exact=lambda t: np.array([y0 * (1 + t) ** p]))  # fmt: skip


@_kind("rational")
def planet(rng):
    e = float(np.round(rng.uniform(0, 0.7), 3))
    let = {"cube": "(x*x + y*y)**1.5"}
    return _made(
        rng, {"x": "v", "y": "w", "v": "-x/cube", "w": "-y/cube"}, [1 - e, 0, 0, math.sqrt((1 + e) / (1 - e))],
        _between(rng, 1, 7), let=let, stiffness=40,
    )  # fmt: skip


@_kind("rational")
def random_quotients(rng):
    d = int(rng.integers(1, 4))
    names = _named(d)
    equations = {}
    for name in names:
        above, below = (_terms(rng, [*names, "sin(t)", "1.0"], 2) for _ in range(2))
        equations[name] = f"({above})/(1 + ({below})**2) - {_between(rng, 0.1, 1)}*{name}"
    return _made(rng, equations, np.round(rng.uniform(-1.5, 1.5, d), 3), _between(rng, 1, 5))


# Trigonometric and exponential functions, and networks of them.


@_kind("trigonometric")
def driven_pendulum(rng):
    return _made(
        rng, {"x": "v", "v": "-w*w*sin(x) - c*v + a*cos(2*t)"}, [_signed(rng, 0.1, 2.5), _signed(rng, 0.1, 1)],
        _between(rng, 1, 8), parameters={"w": _between(rng, 0.5, 3), "c": _between(rng, 0.05, 1), "a": _between(rng, 0.1, 1)},
    )  # fmt: skip


@_kind("trigonometric")
def coupled_phases(rng):
    names, d = _named(3), 3
    speeds = [_signed(rng, 0.2, 2) for _ in range(d)]
    equations = {
        a: f"{w} + k*(" + " + ".join(f"sin({b} - {a})" for b in names if b != a) + ")" for a, w in zip(names, speeds)
    }
    return _made(
        rng, equations, np.round(rng.uniform(0, 6, d), 3), _between(rng, 1, 8), parameters={"k": _between(rng, 0.1, 2)}
    )


@_kind("trigonometric")
def small_network(rng):
    d, width = int(rng.integers(1, 4)), 4
    names, squash = _named(d), str(rng.choice(["tanh", "sin", "sigmoid", "atan"]))
    let = {f"h{i}": f"{squash}({_terms(rng, [*names, 't', '1.0'], 3)})" for i in range(width)}
    equations = {name: f"{_terms(rng, list(let), 3)} - 0.5*{name}" for name in names}
    return _made(rng, equations, np.round(rng.uniform(-1, 1, d), 3), _between(rng, 1, 5), let=let)


@_kind("trigonometric")
def every_function_once(rng):
    inside = ["sin(x)", "cos(y)", "sin(t + y)", "tanh(x - y)"]

    def some():
        return str(rng.choice(inside))

    calls = [f"exp({some()})", f"log(1.5 + {some()})", f"sqrt(1.5 + {some()})", f"asin({some()}/2)", f"acos({some()}/2)",
             f"log1p({some()}/2)", f"cosh({some()})", f"sinh({some()})", f"tan({some()})", f"expm1({some()})",
             f"atan(3*{some()})", f"(2 + {some()})**{some()}"]  # fmt: skip
    equations = {name: f"{_terms(rng, calls, 4)} - {_between(rng, 1, 3)}*{name}" for name in ("x", "y")}
    return _made(rng, equations, np.round(rng.uniform(-1, 1, 2), 3), _between(rng, 0.5, 4))


# Roots and powers at the edge of their domain, or without a derivative. The solutions are unique, because the slope
# there is positive or decreases with the state.


@_kind("edge")
def tank_that_fills(rng):
    a, k = _between(rng, 0.3, 3), _between(rng, 0.1, 1.5)
    return _made(rng, {"h": "a - k*sqrt(h)"}, [0.0], _between(rng, 0.5, 6), parameters={"a": a, "k": k}, smooth=False)


@_kind("edge")
def power_from_zero(rng):
    p, a, k = (
        float(rng.choice([0.2, 1 / 3, 0.5, 2 / 3, 0.75, 0.9, 1.5, 1.2])),
        _between(rng, 0.2, 2),
        _signed(rng, 0.1, 1),
    )
    power = "x**p" if rng.random() < 0.5 else f"x**{p!r}"
    return _made(
        rng, {"x": f"a + k*{power}"}, [0.0], _between(rng, 0.3, 2), parameters={"a": a, "k": k, "p": p}, smooth=False
    )


@_kind("edge")
def two_tanks(rng):
    """Two tanks; the slope of the second is zero at first, so stages below zero are not a solver's fault."""
    guarded = bool(rng.random() < 0.7)
    second = "sqrt(max(y, 0))" if guarded else "sqrt(y)"
    return _made(
        rng, {"x": "a - k*sqrt(x)", "y": f"k*sqrt(x) - m*{second}"}, [0.0, 0.0], _between(rng, 0.5, 5),
        parameters={"a": _between(rng, 0.5, 2), "k": _between(rng, 0.2, 1.2), "m": _between(rng, 0.2, 1.2)}, smooth=False,
        refusable=not guarded,
    )  # fmt: skip


@_kind("edge")
def tank_beside_an_oscillator(rng):
    return _made(
        rng, {"x": "a - k*sqrt(x)", "y": "v + 0.1*x", "v": "-w*y"}, [0.0, 1.0, 0.0], _between(rng, 0.5, 4),
        parameters={"a": _between(rng, 0.5, 2), "k": _between(rng, 0.2, 1.2), "w": _between(rng, 0.5, 8)}, smooth=False,
    )  # fmt: skip


@_kind("edge")
def growth_of_von_bertalanffy(rng):
    a, b, m0, end = _between(rng, 0.3, 2), _between(rng, 0.1, 1), _between(rng, 1e-3, 1), _between(rng, 1, 8)
    return _made(
        rng, {"m": f"a*m**{2 / 3!r} - b*m"}, [m0], end, parameters={"a": a, "b": b},
        exact=lambda t: np.array([(a / b - (a / b - m0 ** (1 / 3)) * math.exp(-b * t / 3)) ** 3]),
    )  # fmt: skip


@_kind("edge")
def growth_with_an_inflow_from_nothing(rng):
    return _made(
        rng, {"m": "c + a*m**p - b*m"}, [0.0], _between(rng, 1, 6), smooth=False,
        parameters={"a": _between(rng, 0.3, 2), "b": _between(rng, 0.3, 1), "c": _between(rng, 0.05, 1), "p": 2 / 3},
    )  # fmt: skip


@_kind("edge")
def power_of_a_whole_parameter_at_zero(rng):
    n = float(rng.integers(0, 4))
    word = "x**n" if rng.random() < 0.6 else f"x**{int(n)}"
    equations = {"x": f"a*{word} + {float(n > 0)} - b*x"}
    return _made(
        rng,
        equations,
        [0.0],
        _between(rng, 0.3, 1.2),
        parameters={"a": _between(rng, 0.2, 1), "b": _between(rng, 0.3, 2), "n": n},
    )


@_kind("edge")
def hill_from_nothing(rng):
    n = float(rng.choice([0.5, 1.0, 2.0, 0.0, 3.0]))
    return _made(
        rng, {"x": "a - x", "y": "x**n/(k**n + x**n) - b*y"}, [0.0, 0.0], _between(rng, 0.5, 5), smooth=n == round(n),
        parameters={"a": _between(rng, 0.3, 2), "b": _between(rng, 0.3, 2), "k": _between(rng, 0.2, 1), "n": n},
    )  # fmt: skip


@_kind("edge")
def gompertz(rng):
    k, K, y0, end = _between(rng, 0.3, 2), _between(rng, 0.5, 3), 10.0 ** -rng.integers(1, 9), _between(rng, 1, 6)
    return _made(
        rng, {"x": "-k*x*log(x/K)"}, [y0], end, parameters={"k": k, "K": K}, single=y0 > 1e-4,
        exact=lambda t: np.array([K * math.exp(math.log(y0 / K) * math.exp(-k * t))]),
    )  # fmt: skip


@_kind("edge")
def root_of_the_time(rng):
    p = float(rng.choice([0.5, 0.25, 0.75, 1.5]))
    word = {0.5: "sqrt(t)"}.get(p, f"t**{p}")
    return _made(rng, {"x": f"a*{word} - k*x", "y": "x - y"}, [_between(rng, 0.2, 1), 0.0], _between(rng, 0.5, 4),
                 parameters={"a": _between(rng, 0.3, 2), "k": _between(rng, 0.2, 3)}, smooth=False)  # fmt: skip


@_kind("edge")
def root_of_the_time_that_is_left(rng):
    end = _between(rng, 0.5, 3)
    return _made(rng, {"x": "a*sqrt(T - t) - k*x"}, [_between(rng, 0.2, 1)], end, smooth=False, refusable=True,
                 parameters={"a": _between(rng, 0.3, 2), "k": _between(rng, 0.2, 3), "T": end})  # fmt: skip


@_kind("edge")
def arc_from_its_end(rng):
    formula = str(rng.choice(["-k*asin(x)", "-a - k*acos(x)", "-a - k*sqrt(1 - x*x)", "-a - k*sqrt(1 - x)"]))
    return _made(
        rng,
        {"x": formula},
        [1.0],
        _between(rng, 0.2, 0.6),
        parameters={"a": 0.4, "k": _between(rng, 0.2, 1)},
        smooth=False,
    )


@_kind("edge")
def distance_at_the_origin(rng):
    a, end = _between(rng, 0.3, 2), _between(rng, 0.5, 3)
    root = math.sqrt(a)
    return _made(
        rng, {"x": "a - x*sqrt(x*x + y*y)", "y": "-y*sqrt(x*x + y*y)"}, [0.0, 0.0], end, parameters={"a": a},
        exact=lambda t: np.array([root * math.tanh(root * t), 0.0]),
    )  # fmt: skip


@_kind("edge")
def tank_that_empties(rng):
    k, h0 = _between(rng, 0.3, 2), _between(rng, 0.2, 2)
    empty = 2 * math.sqrt(h0) / k
    return _made(
        rng, {"h": "-k*sqrt(max(h, 0))"}, [h0], empty * float(rng.choice([0.5, 1.0, 1.5, 3.0])), parameters={"k": k},
        exact=lambda t: np.array([max(0.0, math.sqrt(h0) - k * t / 2) ** 2]), bends=True,
    )  # fmt: skip


# Kinks: |x|, max, min.


@_kind("kink")
def drag_at_rest(rng):
    a, end = _between(rng, 0.3, 2), _between(rng, 0.5, 3)
    root = math.sqrt(a)
    return _made(rng, {"v": "a - abs(v)*v"}, [0.0], end, parameters={"a": a},
                 exact=lambda t: np.array([root * math.tanh(root * t)]))  # fmt: skip


@_kind("kink")
def flow_at_rest(rng):
    p = float(rng.choice([0.5, 0.75, 0.3]))
    return _made(rng, {"q": f"a - k*q*abs(q)**{p}"}, [0.0], _between(rng, 0.5, 3), smooth=False,
                 parameters={"a": _between(rng, 0.3, 2), "k": _between(rng, 0.3, 2)})  # fmt: skip


@_kind("kink")
def root_of_a_distance(rng):
    return _made(rng, {"x": "a - k*sqrt(abs(x))"}, [0.0], _between(rng, 0.5, 3), smooth=False,
                 parameters={"a": _between(rng, 0.5, 2), "k": _between(rng, 0.2, 1)})  # fmt: skip


@_kind("kink")
def swing_between_springs(rng):
    return _made(
        rng, {"x": "v", "v": "-k*x - m*max(x - 0.5, 0) + m*max(-x - 0.3, 0) - c*v"}, [_signed(rng, 0.6, 1.5), 0.0],
        _between(rng, 1, 6), bends=True,
        parameters={"k": _between(rng, 0.5, 3), "m": _between(rng, 1, 20), "c": _between(rng, 0.05, 0.5)},
    )  # fmt: skip


@_kind("kink")
def limited_growth(rng):
    return _made(rng, {"x": "min(a*x, b) - c*x", "y": "max(x, y) - 1.5*y"}, [_between(rng, 0.05, 0.5), 0.0], _between(rng, 1, 6),
                 parameters={"a": _between(rng, 1, 3), "b": _between(rng, 0.3, 1), "c": _between(rng, 0.1, 0.5)}, bends=True)  # fmt: skip


@_kind("kink")
def bend_at_the_start(rng):
    y0 = [0.0, _between(rng, 0.2, 1)]
    return _made(rng, {"x": "y - abs(x)", "y": "-max(x, y) + 0.3*min(x, 0.2)"}, y0, _between(rng, 0.5, 4), bends=True)


@_kind("kink")
def bend_in_time(rng):
    bend, k, y0, end = _between(rng, 0.3, 2), _between(rng, 0.3, 3), _between(rng, 0.2, 2), _between(rng, 2, 5)

    def exact(t):
        ramp = lambda s: s - (1 - math.exp(-k * s)) / k
        return np.array([y0 * math.exp(-k * t) + (ramp(t - bend) / k if t > bend else 0.0)])

    return _made(rng, {"x": "max(t - T, 0) - k*x"}, [y0], end, parameters={"T": bend, "k": k}, exact=exact, bends=True)


# Stiff.


@_kind("stiff")
def fast_return_to_a_curve(rng):
    rate, w, end = _between(rng, 1e2, 1e6), _between(rng, 0.5, 3), _between(rng, 0.5, 6)
    ahead = float(rng.choice([0.0, _signed(rng, 0.1, 2)]))
    return _made(
        rng, {"x": "-rate*(x - sin(w*t)) + w*cos(w*t)"}, [ahead], end, parameters={"rate": rate, "w": w},
        stiffness=rate * end, exact=lambda t: np.array([math.sin(w * t) + ahead * math.exp(-rate * t)]),
        single=rate < 1e4,
    )  # fmt: skip


@_kind("stiff")
def reaction_of_robertson(rng):
    end = _between(rng, 1, 1e4)
    return _made(
        rng, {"x": "-k*x + m*y*z", "y": "k*x - m*y*z - n*y**2", "z": "n*y**2"}, [1.0, 0.0, 0.0], end,
        parameters={"k": 0.04 * _between(rng, 0.5, 2), "m": 1e4 * _between(rng, 0.5, 2), "n": 3e7 * _between(rng, 0.5, 2)},
        stiffness=3e3 * end, single=False, smallest=1e-6,
    )  # fmt: skip


@_kind("stiff")
def relaxation_of_van_der_pol(rng):
    mu = _between(rng, 20, 1e4)
    return _made(
        rng, {"x": "y", "y": "mu*((1 - x**2)*y - x)"}, [2.0, 0.0], _between(rng, 0.1, 0.7), parameters={"mu": mu},
        stiffness=3 * mu, single=mu < 1e3,
    )  # fmt: skip


@_kind("stiff")
def fast_binding(rng):
    on = _between(rng, 1e2, 1e5)
    return _made(
        rng, {"x": "-on*x*y + off*z", "y": "-on*x*y + off*z - 0.3*y", "z": "on*x*y - off*z"}, [1.0, _between(rng, 0.3, 2), 0.0],
        _between(rng, 0.5, 5), parameters={"on": on, "off": on * _between(rng, 0.1, 1)}, stiffness=3 * on, single=on < 3e3,
    )  # fmt: skip


@_kind("stiff")
def fast_damped_swing(rng):
    d = 2
    rate, speed = _between(rng, 1e2, 1e5), _between(rng, 1, 100)
    turn = np.array([[-rate, speed], [-speed, -rate]])
    matrix = np.block([[turn, np.full((2, 1), rate / 2)], [np.zeros((1, d)), np.array([[-_between(rng, 0.2, 2)]])]])
    return _linear(rng, matrix, np.zeros(3), np.round(rng.normal(size=3), 3), _between(rng, 0.3, 3))


@_kind("stiff")
def diffusion_between_cells(rng):
    names, k = _named(5), _between(rng, 50, 1e4)
    equations = {}
    for i, name in enumerate(names):
        left, right = names[max(i - 1, 0)], names[min(i + 1, 4)]
        equations[name] = f"k*({left} - 2*{name} + {right}) + {name}*(1 - {name})"
    return _made(
        rng, equations, np.round(rng.uniform(0, 1, 5), 3), _between(rng, 0.5, 4), parameters={"k": k}, stiffness=12 * k
    )


# Stiff problems at the edge of a domain.


@_kind("stiff edge")
def level_that_a_fast_sensor_follows(rng):
    rate = _between(rng, 1e2, 1e5)
    return _made(
        rng, {"x": "a - k*sqrt(x)", "s": "rate*(x - s)"}, [0.0, float(rng.choice([0.0, 0.5]))], _between(rng, 0.5, 5),
        parameters={"a": _between(rng, 0.5, 2), "k": _between(rng, 0.2, 1.2), "rate": rate}, stiffness=5 * rate, smooth=False,
        single=rate < 3e3,
    )  # fmt: skip


@_kind("stiff edge")
def fast_tank(rng):
    rate = _between(rng, 1e2, 1e5)
    return _made(
        rng, {"s": "rate*(u - k*sqrt(s))", "u": "-0.5*u + 0.1"}, [0.0, _between(rng, 0.5, 2)], _between(rng, 0.5, 4),
        parameters={"k": _between(rng, 0.5, 2), "rate": rate}, stiffness=5 * rate, smooth=False, single=rate < 3e3,
    )  # fmt: skip


@_kind("stiff edge")
def fast_power(rng):
    rate, p = _between(rng, 1e2, 1e4), float(rng.choice([1 / 3, 2 / 3, 0.75, 1.5, 1.0, 2.0]))
    return _made(
        rng, {"x": "rate*(a - x**p)", "y": "x - y"}, [0.0, 0.0], _between(rng, 0.3, 3),
        parameters={"a": _between(rng, 0.3, 1.5), "p": p, "rate": rate}, stiffness=5 * rate, smooth=False, single=rate < 3e3,
    )  # fmt: skip


@_kind("stiff edge")
def fast_uptake_from_nothing(rng):
    rate, n = _between(rng, 1e2, 1e4), float(rng.choice([0.0, 0.5, 1.0, 2.0]))
    return _made(
        rng, {"x": "a - rate*x", "y": "rate*x - y**n/(1 + y**n) - 0.2*y"}, [0.0, 0.0], _between(rng, 0.5, 4),
        parameters={"a": _between(rng, 1.2, 2), "rate": rate, "n": n}, stiffness=5 * rate, smooth=False, single=rate < 3e3,
    )  # fmt: skip


@_kind("stiff edge")
def drag_of_a_light_body(rng):
    rate, p = _between(rng, 1e2, 1e4), float(rng.choice([0.5, 0.75, 1.0]))
    return _made(
        rng, {"v": f"rate*(cos(t) - v*abs(v)**{p})", "x": "v"}, [0.0, 0.0], _between(rng, 0.3, 1.3),
        parameters={"rate": rate}, stiffness=5 * rate, smooth=False, single=rate < 3e3,
    )  # fmt: skip


@_kind("stiff edge")
def fast_sensor_of_root_of_time(rng):
    rate = _between(rng, 1e2, 1e5)
    return _made(rng, {"x": "rate*(sqrt(t) - x)", "y": "x - y*abs(y)"}, [0.0, 0.0], _between(rng, 0.3, 3),
                 parameters={"rate": rate}, stiffness=3 * rate, smooth=False, single=rate < 3e3)  # fmt: skip


@_kind("stiff edge")
def clipped_fast_return(rng):
    rate = _between(rng, 1e2, 1e4)
    return _made(rng, {"x": "rate*(max(sin(t), 0) - x)", "y": "min(x, 0.4) - abs(y)"}, [0.0, 0.0], _between(rng, 1, 6),
                 parameters={"rate": rate}, stiffness=5 * rate, bends=True, single=rate < 3e3)  # fmt: skip


# Trivial slopes and unusual sizes.


@_kind("trivial")
def constant_slope(rng):
    c, y0, end = _signed(rng, 1e-3, 1e3), float(rng.choice([0.0, _signed(rng, 1e-3, 1e3)])), _between(rng, 0.1, 10)
    formula = str(rng.choice(["0*x + c", "c", "c + x - x"]))
    return _made(rng, {"x": formula}, [y0], end, parameters={"c": c}, exact=lambda t: np.array([y0 + c * t]))


@_kind("trivial")
def nothing_moves(rng):
    y0 = [0.0, _signed(rng, 1e-2, 1e2)]
    formulas = {"x": str(rng.choice(["0*x", "-x", "x*x", "sin(x)", "sqrt(abs(x)*0)"])), "y": "0*t"}
    return _made(
        rng, formulas, y0, _between(rng, 0.1, 10), exact=lambda t: np.array(y0), refusable="sqrt" in formulas["x"]
    )


@_kind("trivial")
def rest_beside_motion(rng):
    k, y0, end = _between(rng, 0.3, 3), _signed(rng, 0.3, 3), _between(rng, 0.5, 4)
    return _made(rng, {"x": "0*x", "y": "-k*y", "z": "1.0"}, [1.5, y0, 0.0], end, parameters={"k": k},
                 exact=lambda t: np.array([1.5, y0 * math.exp(-k * t), t]))  # fmt: skip


@_kind("trivial")
def polynomial_of_the_time(rng):
    n, end = int(rng.integers(0, 8)), _between(rng, 0.5, 2)
    return _made(rng, {"x": f"t**{n}"}, [0.0], end, exact=lambda t: np.array([t ** (n + 1) / (n + 1)]))


@_kind("trivial")
def slope_that_starts_at_zero(rng):
    k, n = _between(rng, 0.3, 2), int(rng.integers(1, 7))
    y0, end = float(rng.choice([0.0, 1.0])), _between(rng, 0.5, 2)
    return _made(
        rng,
        {"x": f"k*t**{n}"},
        [y0],
        end,
        parameters={"k": k},
        exact=lambda t: np.array([y0 + k * t ** (n + 1) / (n + 1)]),
    )


@_kind("trivial")
def late_turn(rng):
    """A solution that is almost constant for a long time and then increases slowly enough to be detected."""
    middle, width, end = _between(rng, 2, 6), _between(rng, 0.5, 1), 10.0
    return _made(
        rng, {"x": "exp(-((t - T)/W)**2)/W - 0.1*x"}, [_between(rng, 0.1, 1)], end, parameters={"T": middle, "W": width},
        stops=(middle - width, middle),
    )  # fmt: skip


@_kind("trivial")
def decay_in_large_times(rng):
    """Exponential decay at times so large that the span contains only a few thousand float64 numbers."""
    start = 10.0 ** int(rng.integers(9, 14))
    span = 2.0 ** int(rng.integers(12, 16)) * math.ulp(start)
    k, y0 = _between(rng, 0.3, 3) / span, _signed(rng, 0.3, 3)
    made = _made(rng, {"x": "-k*x"}, [y0], 1.0, parameters={"k": k}, single=False)
    ts = np.unique(start + np.round(made.ts * span / math.ulp(start)) * math.ulp(start))
    return replace(made, ts=ts, exact=lambda t: np.array([y0 * math.exp(-k * (t - start))]))


# No solution exists up to the last time, so only an error is correct.


@_kind("singular")
def explosion(rng):
    c, y0, n = _between(rng, 0.3, 3), _between(rng, 0.3, 2), int(rng.integers(2, 4))
    ends = y0 ** (1 - n) / ((n - 1) * c)
    return _made(rng, {"x": f"c*x**{n}"}, [y0], ends * _between(rng, 1.1, 4), parameters={"c": c}, ends=ends)


@_kind("singular")
def tangent(rng):
    w = _between(rng, 0.5, 2)
    ends = math.pi / 2 / w
    return _made(rng, {"x": "w*(1 + x*x)"}, [0.0], ends * _between(rng, 1.05, 3), parameters={"w": w}, ends=ends)


@_kind("singular")
def fall_faster_than_any(rng):
    k, y0 = _between(rng, 0.3, 2), _between(rng, 0.3, 2)
    ends = y0**1.5 / (1.5 * k)
    return _made(rng, {"x": "-k/sqrt(x)"}, [y0], ends * _between(rng, 1.1, 3), parameters={"k": k}, ends=ends)


@_kind("singular")
def root_below_zero(rng):
    a, k, y0 = _between(rng, 0.3, 2), _between(rng, 0.1, 1), _between(rng, 0.2, 2)
    r = math.sqrt(y0)
    # The time in which h' = -a - k sqrt(h) decreases from y0 to 0.
    ends = 2 * (r / k - a / k**2 * math.log1p(k * r / a))
    return _made(
        rng, {"h": "-a - k*sqrt(h)"}, [y0], ends * _between(rng, 1.2, 3), parameters={"a": a, "k": k}, ends=ends
    )


@_kind("singular")
def logarithm_below_zero(rng):
    y0 = _between(rng, 0.2, 2)
    return _made(rng, {"x": "-1 + 0*log(x)"}, [y0], y0 * _between(rng, 1.1, 3), ends=y0)


@_kind("singular")
def clock_that_runs_out(rng):
    ends = _between(rng, 0.5, 2)
    formula = str(rng.choice(["sqrt(T - t) - x", "-x*log(T - t)", "1/sqrt(T - t)", "(T - t)**1.5"]))
    return _made(rng, {"x": formula}, [1.0], ends * _between(rng, 1.1, 2), parameters={"T": ends}, ends=ends)
