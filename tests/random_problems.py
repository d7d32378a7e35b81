"""Random initial-value problems, generated from a seed, with reference solutions.

`problem(seed)` gives problem number `seed`; its kind is ``KINDS[seed % len(KINDS)]``.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import numpy as np
from problem_forms import UNITS, RandomProblem, Units
from problem_kinds import KINDS


def _moved(problem: RandomProblem, units: Units) -> RandomProblem:
    """Return the problem converted to other units."""
    shift, rate, scale = units.shift, units.rate, units.scale
    if units == UNITS:
        return problem
    renamed = {"t": "s_"} | ({name: f"{name}_" for name in problem.equations} if scale != 1 else {})

    def rename(formula: str) -> str:
        return re.sub(r"[A-Za-z_]\w*", lambda word: renamed.get(word[0], word[0]), formula)

    let = {"s_": f"(t - {shift!r})*{rate!r}"}
    if scale != 1:
        let |= {f"{name}_": f"{name}*{1 / scale!r}" for name in problem.equations}
    let |= {name: rename(formula) for name, formula in problem.let.items()}
    ts = shift + problem.ts / rate
    return replace(
        problem,
        equations={name: f"({rename(formula)})*{scale * rate!r}" for name, formula in problem.equations.items()},
        let=let,
        y0=problem.y0 * scale,
        ts=ts[np.append(True, np.diff(ts) != 0)],
        end=None if problem.end is None else shift + problem.end / rate,
        stops=tuple(shift + stop / rate for stop in problem.stops),
        exact=None,
        units=units,
        natural=problem,
        solved={},
    )


def problem(seed: int) -> RandomProblem:
    """Return random problem number `seed`."""
    rng = np.random.default_rng([16, seed])
    kind = list(KINDS)[seed % len(KINDS)]
    makers, turn = KINDS[kind], seed // len(KINDS)
    make = makers[turn] if turn < len(makers) else makers[rng.integers(len(makers))]  # each at least once
    made = replace(make(rng), name=make.__name__, kind=kind, seed=seed)
    if made.ts[0] != 0:
        return made
    rate, scale = (2.0 ** int(rng.choice([0, 0, 0, 10, -10, 30, -30])) for _ in range(2))
    rate *= -1 if rng.random() < 0.25 else 1
    # Times are only resolved to the rounding of `shift`, which must be small compared with the fastest time scale.
    shift = float(rng.choice([0, 0, 0, 1, -17.25, 1000.5])) / abs(rate) if made.stiffness < 1e3 else 0.0
    return _moved(made, Units(shift, rate, scale))


# Reference solutions.

TIGHT = 1e-12


def truth(problem: RandomProblem, ts: np.ndarray, method: str = "LSODA") -> np.ndarray | None:
    """Return reference states (len(ts), d) from the closed form or by a SciPy method, or None if SciPy fails.

    `ts` begins with the initial time.
    """
    natural, units = problem.natural or problem, problem.units
    times = (ts - units.shift) * units.rate
    if natural.exact is not None:
        return units.scale * np.array([natural.exact(float(t)) for t in times])
    key = (times.tobytes(), method)
    if key not in natural.solved:
        natural.solved[key] = integrated(natural, times, natural.y0, method)
    states = natural.solved[key]
    return None if states is None else units.scale * states


def integrated(
    problem: RandomProblem, ts: np.ndarray, y0: np.ndarray, method: str, rtol: float = TIGHT
) -> np.ndarray | None:
    """Return the states (len(ts), d) by SciPy's "LSODA", "Radau" or "DOP853", or None if SciPy fails.

    Only LSODA interpolates; the other methods restart at each time.
    """
    from scipy.integrate import odeint, solve_ivp

    f, atol = problem.numbers(), rtol * 1e-2
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if method == "LSODA":
            h0 = 1e-7 * (ts[-1] - ts[0])
            ys, told = odeint(f, y0, ts, rtol=rtol, atol=atol, tfirst=True, full_output=True, mxstep=200_000, h0=h0)
            return ys if told["message"] == "Integration successful." and np.isfinite(ys).all() else None
        states = [np.array(y0, dtype=float)]
        for start, end in zip(ts, ts[1:]):
            part = solve_ivp(f, (start, end), states[-1], method, rtol=rtol, atol=atol)
            if not part.success or not np.isfinite(part.y).all():
                return None
            states.append(part.y[:, -1])
        return np.array(states)
