"""Random problems, solved by every solver on every path, against SciPy and exact solutions.

A solve fails the test if its error exceeds the tolerances, or if it returns states where no solution exists. A failed
solve is printed as a program that reproduces it. The long run, ``-m slow``, consists of blocks of a hundred seeds:
select blocks with ``-k "block and 17"``, or run ranges of seeds in parallel with
``python tests/random_solves.py 2000:4000``.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problem_kinds import KINDS
from random_problems import problem, truth
from random_solves import FAST, NAMES, SLOW, Run, judge, runs_of, tally

from pyneuralode.engines.torch_engine.generic import slope
from pyneuralode.solvers import SOLVERS

pytest.importorskip("scipy")
pytest.importorskip("numba")

DEFAULT, ALL, BLOCK = 200, 20_000, 100
# Allowed fractions of solves that fail although a solution exists, and of solves without a reliable reference.
REFUSED, UNSURE = 0.01, 0.01


def report(total):
    failed = "\n".join(map(str, total.failures))
    assert not total.failures, f"{len(total.failures)} wrong answers\n{failed}"
    solved = sum(total.counts.values())
    refused = "\n".join(map(str, total.refusals))
    assert len(total.refusals) <= max(1, REFUSED * solved), f"{len(total.refusals)} of {solved} refused\n{refused}"
    assert total.counts["unsure"] <= max(1, UNSURE * solved), total.counts
    assert total.counts["right"] > 0.97 * solved > 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_to_a_random_problem_is_wrong(kind):
    first = list(KINDS).index(kind)
    total = tally(range(first, DEFAULT, len(KINDS)))
    report(total)
    assert {solver for _, solver, path in total.seen if path in FAST} >= {
        name for name in NAMES if kind not in ("singular", "stiff", "stiff edge") or SOLVERS[name].adaptive
    }


@pytest.mark.parametrize("seed", [1204, 5074])
def test_what_was_wrong_once_is_right(seed):
    """Past failures: NaN in a compiled sample, and a Newton matrix reused from a state close to sqrt(0)."""
    report(tally(range(seed, seed + 1)))


@pytest.mark.slow
@pytest.mark.timeout(86400)
@pytest.mark.parametrize("block", range(DEFAULT, ALL, BLOCK))
def test_no_answer_to_a_block_of_random_problems_is_wrong(block):
    report(tally(range(block, block + BLOCK)))


# Tests of the random problems themselves.


def test_problems_are_repeatable_and_cover_every_kind_of_each():
    seeds = range(DEFAULT)
    assert {problem(seed).name for seed in seeds} == {make.__name__ for makers in KINDS.values() for make in makers}
    for seed in (3, 14, 77):
        one, other = problem(seed), problem(seed)
        assert one.equations == other.equations and np.array_equal(one.ts, other.ts)
    units = [problem(seed).units for seed in seeds]
    assert any(u.rate < 0 for u in units) and any(u.shift for u in units) and any(u.scale != 1 for u in units)


def test_every_slow_path_sees_every_solver():
    seen = {(run.path, run.solver) for seed in range(DEFAULT) for run in runs_of(seed)}
    adaptive = {name for name in NAMES if SOLVERS[name].adaptive}
    for path in SLOW:
        assert {solver for p, solver in seen if p == path} >= adaptive


@pytest.mark.parametrize("seed", [3, 5, 8, 14, 16, 22])
def test_the_three_forms_of_a_problem_are_one(seed):
    """Formulas, the torch callable and the function of floats give the same slopes inside the formulas' domain."""
    told = problem(seed)
    y = told.y0 + told.units.scale * 0.1
    t = float(told.ts[1])
    numbers = np.array(told.numbers()(t, y))
    in_torch = told.callable()(torch.tensor(t, dtype=torch.float64), torch.tensor(y)).numpy()
    samples = told.callable()(torch.full((2, 1), t, dtype=torch.float64), torch.tensor(np.stack([y, y]))).numpy()
    formulas = slope(told.described, told.described.initial(), t, torch.tensor(y)).numpy()
    for other in (in_torch, samples[0], samples[1], formulas):
        np.testing.assert_allclose(other, numbers, rtol=1e-12, atol=1e-12 * np.abs(numbers).max())


@pytest.mark.parametrize("path", [*FAST, *SLOW])
def test_a_wrong_answer_is_seen(path, monkeypatch):
    """On every path, an error of a thousand tolerances is detected, and an error of one tolerance is accepted."""
    told = next(p for p in map(problem, range(400)) if p.kind == "polynomial" and p.units.shift == 0 and p.single)
    run = Run(told.in_single() if path.startswith("single") else told, path, "Tsit5", 1e-4, 1e-4 * told.units.scale)
    solve = Run.solve
    for off, kind in ((1e3, "wrong"), (1.0, "right")):

        def answer(self, off=off, **more):
            solution = solve(self, **more)
            ys = solution.ys if isinstance(solution.ys, list) else [solution.ys]
            for part in ys:
                part[-1] += off * 1e-4 * (told.units.scale + abs(part[-1]))
            return solution

        monkeypatch.setattr(Run, "solve", answer)
        assert judge(run).kind == kind


def test_the_truth_is_one():
    """SciPy's solution agrees with the closed form of problems that have one."""
    checked = 0
    for seed in range(60):
        told = problem(seed)
        natural = told.natural or told
        if natural.exact is None or told.end is not None or told.name == "decay_in_large_times":
            continue
        by_scipy = truth(replace(natural, exact=None, solved={}), natural.ts)
        np.testing.assert_allclose(by_scipy, truth(natural, natural.ts), rtol=1e-8, atol=1e-9)
        checked += 1
    assert checked > 15
