"""Random problems solved on every path of the torch engine, with each result compared with a reference solution.

To run many problems, or to examine one, run the script from the root of the repository::

    python tests/random_solves.py 2000:4000   # seeds 2000 to 3999: counts for each hundred, then the failures
    python tests/random_solves.py 137         # one seed

Ranges are independent of each other: run several at once, or continue after an interruption. Each failure is printed as
a program that reproduces it.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from problem_forms import RandomProblem, source_of
from problem_kinds import KINDS
from random_problems import integrated, problem, truth

import pyneuralode as pn
from pyneuralode.errors import ArgumentError, SolverError
from pyneuralode.solvers import SOLVERS, solvers_of

NAMES = solvers_of("torch")
TOLERANCES, OVER_BENDS = 100, 1000  # allowed errors, in tolerances; the second for slopes with kinks

# Every problem is solved by every solver on the fast path, and by four pairs of a slow path and a solver, in turn.
FAST = ("compiled",)
SLOW = (
    "generic",
    "callable",
    "independent formulas",
    "independent callable",
    "dense",
    "events",
    "single",
    "single callable",
)
PATHS = (*FAST, *SLOW)
OF_FORMULAS = ("compiled", "generic", "independent formulas", "single")
# Limits on the steps that explicit solvers need for stability; on slow paths, a step takes a millisecond.
MOST_STEPS = {path: 10_000 if path in FAST else 250 for path in PATHS}
MOST_FIXED_STEPS = {path: 2_000 if path in FAST else 50 for path in PATHS}


@dataclass(frozen=True)
class Run:
    """One solve: its problem, path, solver and tolerances."""

    problem: RandomProblem
    path: str
    solver: str
    rtol: float
    atol: float
    factor: int = 1  # multiplies the number of fixed steps

    @cached_property
    def tolerances(self) -> int:
        """The allowed error, in tolerances.

        An explicit method's error estimate may by chance miss a kink or the edge of a root's domain; stiff solvers
        start with an explicit step at such an edge (146 tolerances observed). The errors of Rosenbrock23, which
        propagates the solution of lower order, decrease with the tolerance to the power 2/3. DP8's interpolant has
        order 7 (108 tolerances observed, in long steps).
        """
        edge, explicit = "edge" in self.problem.kind, SOLVERS[self.solver].kind in ("explicit", "switching")
        if self.problem.bends or (edge and explicit):
            return OVER_BENDS
        if edge:
            return 3 * TOLERANCES
        if "Rosenbrock23" in self.solver:
            return round(TOLERANCES * max(1, 1e-4 / self.rtol) ** (1 / 3))
        return 2 * TOLERANCES if self.solver == "DP8" else TOLERANCES

    @cached_property
    def single(self) -> bool:
        return self.path.startswith("single")

    @cached_property
    def adaptive(self) -> bool:
        return SOLVERS[self.solver].adaptive

    @cached_property
    def steps(self) -> int:
        """The number of fixed steps: more than enough for the fastest rate."""
        return self.factor * int(min(max(20, 2 * self.problem.stiffness), MOST_FIXED_STEPS[self.path]))

    def settings(self) -> dict:
        """Return the arguments of `pn.solve` except the dynamics, the initial state and the times."""
        settings = {"solver": self.solver, "engine": "torch"}
        if self.adaptive:
            settings |= {"rtol": self.rtol, "atol": self.atol}
        else:
            ts = self.problem.ts
            settings |= {"step_size": abs(ts[-1] - ts[0]) / self.steps}
        stops = self.problem.stops
        # DP8's interpolant is inaccurate on stiff problems (see `pn.solve`).
        if self.solver == "DP8" and self.problem.stiffness >= 50:
            stops = tuple(np.unique([*stops, *self.problem.ts[1:-1]]))
        if self.adaptive and stops:
            settings |= {"tstops": stops}
        if self.path not in FAST:
            settings |= {"max_steps": 4000}
        if self.path in ("generic", "single callable"):
            settings |= {"compiled": False}
        if self.path.startswith("independent"):
            settings |= {"batch": "independent"}
        if self.path == "dense":
            settings |= {"dense": True}
        return settings

    def start(self) -> np.ndarray | torch.Tensor:
        y0 = self.problem.y0.astype(np.float32) if self.single else self.problem.y0
        if self.path.startswith("independent"):
            y0 = np.stack([y0, y0])
        return y0 if self.path in OF_FORMULAS else torch.tensor(y0)

    def times(self) -> np.ndarray | list[np.ndarray]:
        """Return the output times; with two samples, the second one ends early."""
        ts = self.problem.ts
        return [ts, ts[: 1 + len(ts) // 2]] if self.path.startswith("independent") else ts

    def dynamics(self):
        return self.problem.described if self.path in OF_FORMULAS else self.problem.callable()

    def solve(self, **more) -> pn.Solution:
        with torch.no_grad():
            return pn.solve(self.dynamics(), self.start(), self.times(), **self.settings(), **more)

    def program(self) -> str:
        """Return a program that runs this solve and prints its states; the reference is added as a comment."""
        told, start = self.problem, self.start()
        kind = "float32" if self.single else "float64"
        lines = ["import numpy as np", "import torch", "import pyneuralode as pn"]
        if self.path in OF_FORMULAS:
            lines.append(f"f = pn.Equations({told.equations}, parameters={told.parameters}, let={told.let})")
            lines.append(f"y0 = np.array({start.tolist()}, dtype=np.{kind})")
        else:
            lines.append(source_of(told))
            lines.append(f"y0 = torch.tensor({start.tolist()}, dtype=torch.{kind})")
        times = self.times()
        ts = f"np.array({times.tolist()})" if isinstance(times, np.ndarray) else [row.tolist() for row in times]
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        lines.append(f"print(pn.solve(f, y0, {ts}, {settings}).ys)")
        reference = truth(told, told.ts)
        lines.append(f"# truth: {None if reference is None else reference.tolist()}")
        return "\n".join(lines)


@dataclass
class Verdict:
    """The verdict on a run: "right", "wrong", "refused" or "unsure" (no reliable reference), with the reason."""

    run: Run
    kind: str
    why: str = ""

    def __str__(self) -> str:
        told = self.run.problem
        title = f"seed {told.seed} ({told.kind}), {self.run.path}, {self.run.solver}: {self.kind}, {self.why}"
        return f"{title}\n{self.run.program()}\n"


def runs_of(seed: int) -> Iterator[Run]:
    """Yield the solves of random problem number `seed`."""
    told = problem(seed)
    turn, kind = divmod(seed, len(KINDS))
    chosen = [(path, solver) for path in FAST for solver in NAMES]
    for n in range(4 * (turn + 3 * kind), 4 * (turn + 3 * kind) + 4):
        chosen.append((SLOW[(n + n // len(NAMES)) % len(SLOW)], NAMES[n % len(NAMES)]))
    for path, solver in chosen:
        run = _run(told, path, solver)
        if _sensible(run):
            yield run


def _run(told: RandomProblem, path: str, solver: str) -> Run:
    rng = np.random.default_rng([17, told.seed, PATHS.index(path), NAMES.index(solver)])
    loose = SOLVERS[solver].order <= 3 or "23" in solver
    low, high = (
        (3, 4) if path.startswith("single") else (3, 5) if loose or told.bends else (3, 9) if path in FAST else (3, 7)
    )
    rtol = 10.0 ** -int(rng.integers(low, high + 1))
    floor = 1e-6 if path.startswith("single") else 1e-13
    atol = max(rtol * told.smallest * 10.0 ** -int(rng.choice([0, 0, 1, 3])), floor) * told.units.scale
    return Run(told.in_single() if path.startswith("single") else told, path, solver, rtol, atol)


def _sensible(run: Run) -> bool:
    """Return whether the solver suits the problem, and the problem suits the path."""
    told, solver = run.problem, SOLVERS[run.solver]
    most = MOST_STEPS if solver.adaptive else MOST_FIXED_STEPS
    if solver.kind == "explicit" and told.stiffness > most[run.path]:
        return False
    if not solver.adaptive and (told.end is not None or (not told.natural and told.ts[0] != 0) or run.path == "events"):
        return False
    if run.single and (not told.single or told.units.shift != 0):
        return False
    # On stiff problems, explicit methods oscillate around the solution within tolerances: a level may be crossed often.
    swings = solver.kind == "explicit" and told.kind.startswith("stiff")
    return not (run.path == "events" and (told.end is not None or swings))


# Verdicts.


def judge(run: Run) -> Verdict:
    """Solve, compare with the reference, and return the verdict."""
    try:
        if run.problem.end is not None:
            ys = run.solve().ys
            return Verdict(run, "wrong", f"no solution exists beyond {run.problem.end:g}, and the answer is {ys}")
        if run.path == "events":
            return _judge_events(run)
        return _judge_states(run) if run.adaptive else _judge_fixed(run)
    except (SolverError, ArgumentError) as error:
        return Verdict(run, "right" if run.problem.end is not None else "refused", str(error))


def _judge_states(run: Run) -> Verdict:
    solution = run.solve()
    for ts, ys in _answers(run, solution):
        if verdict := compared(run, ts, ys):
            return verdict
    return Verdict(run, "right")


def _answers(run: Run, solution: pn.Solution) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of times (T,) and states (T, d) of a solution; for dense output, also between the output times."""
    if run.path == "compiled":
        assert solution.engine == "torch (compiled)"
    if run.path.startswith("independent"):
        return [(ts, np.asarray(ys)) for ts, ys in zip(solution.ts, solution.ys)]
    answers = [(run.problem.ts, np.asarray(solution.ys))]
    if run.path == "dense":
        ts = run.problem.ts[0] + (run.problem.ts[-1] - run.problem.ts[0]) * np.array([0, 0.001, 0.21, 0.5, 0.77, 0.999])
        answers.append((ts, np.asarray(solution(ts))))
    return answers


def compared(run: Run, ts: np.ndarray, ys: np.ndarray) -> Verdict | None:
    """Return the verdict on states (T, d) at times (T,), the first one the initial time; None if they are correct."""
    reference = truth(run.problem, ts)
    if reference is None:
        return Verdict(run, "unsure", "LSODA failed")
    if ys.shape != reference.shape or not np.isfinite(ys).all():
        return Verdict(run, "wrong", f"the answer is {ys}")
    off = np.abs(ys.astype(float) - reference)
    allowed = _tolerance(run, reference)
    if (off <= run.tolerances * allowed).all():
        return None
    allowed = np.maximum(allowed, propagated(run, ts))
    if (off <= run.tolerances * allowed).all():
        return None
    if not _sure(run, ts, reference, allowed):
        return Verdict(run, "unsure", "SciPy's methods differ")
    if _shared(run, ts, reference, allowed, np.max(off / allowed)):
        return None
    worst = np.unravel_index(np.argmax(off / allowed), off.shape)
    return Verdict(
        run,
        "wrong",
        f"{off[worst] / allowed[worst]:.3g} tolerances at t = {float(ts[worst[0]])!r}: {ys[worst]!r} for {reference[worst]!r}",
    )


def _tolerance(run: Run, states: np.ndarray) -> np.ndarray:
    """Return the tolerance of a step at these states, but at least 50 rounding errors of the largest state."""
    rounding = 50 * np.finfo(np.float32 if run.single else np.float64).eps
    return np.maximum(run.atol + run.rtol * np.abs(states), rounding * np.abs(states).max(0))


def propagated(run: Run, ts: np.ndarray) -> np.ndarray:
    """Return the problem's conditioning: the largest effect (T, d), at times (T,), of earlier errors of one tolerance.

    The reference is perturbed by one tolerance in several directions, at the start, shortly after it and along the
    span.
    """
    told, natural, units = run.problem, run.problem.natural or run.problem, run.problem.units
    times = (ts - units.shift) * units.rate
    first, span = times[0], times[-1] - times[0]
    rng = np.random.default_rng(told.seed)
    places = first + span * np.unique([0, 1e-8, 1e-6, 1e-4, 1e-2, *np.linspace(0.05, 0.95, 10)])
    grid = np.unique(np.concatenate([times, places]))
    states = truth(told, units.shift + grid / units.rate)
    spread = np.zeros((len(ts), len(told.y0)))
    if states is None:
        return spread
    for place in places:
        at = int(np.searchsorted(grid, place))
        later = np.searchsorted(times, grid[at], side="right")
        if later == len(times):
            continue
        move = _tolerance(run, states)[at] / units.scale
        for sign in (1, -1, rng.choice([-1, 1], len(move))):
            start = states[at] / units.scale
            moved = integrated(natural, np.append(grid[at], times[later:]), start + sign * move, "LSODA")
            still = integrated(natural, np.append(grid[at], times[later:]), start, "LSODA")
            if moved is None or still is None:
                continue
            spread[later:] = np.maximum(spread[later:], np.abs(moved - still)[1:] * units.scale)
    return spread


def _sure(run: Run, ts: np.ndarray, reference: np.ndarray, allowed: np.ndarray) -> bool:
    """Return whether a second numerical method confirms the reference solution within a tolerance."""
    told = run.problem
    told = replace(told, exact=None, natural=told.natural and replace(told.natural, exact=None, solved={}), solved={})
    second = truth(told, ts, "DOP853" if told.stiffness < 300 else "Radau")
    return second is not None and bool((np.abs(second - reference) <= allowed).all())


def _shared(run: Run, ts: np.ndarray, reference: np.ndarray, allowed: np.ndarray, worst: float) -> bool:
    """Return whether SciPy's explicit method of similar order has an error at least half as large.

    Error estimates of explicit methods can be wrong at the edge of a formula's domain, and between the ends of long steps.
    """
    from scipy.integrate import solve_ivp

    told, solver = run.problem, SOLVERS[run.solver]
    if solver.kind not in ("explicit", "switching"):
        return False
    method = "RK23" if solver.order <= 3 else "RK45" if solver.order <= 5 else "DOP853"
    settings = {"method": method, "t_eval": ts, "rtol": run.rtol, "atol": run.atol}
    found = solve_ivp(told.numbers(), (ts[0], ts[-1]), told.y0, **settings)
    return found.success and bool(np.max(np.abs(found.y.T - reference) / allowed) >= worst / 2)


def _judge_fixed(run: Run) -> Verdict:
    """Halve fixed steps repeatedly; the error must match the changes and decrease with the method's order."""
    before, order, gains, verdict = None, SOLVERS[run.solver].order, [], None
    for factor in (
        (1, 2, 4, 8, 64, 512) if run.path in FAST else (1, 2, 4, 8)
    ):  # Euler's method may first end in another attractor
        answers = _answers(run, replace(run, factor=factor).solve())
        if before is not None:
            verdict = _consistent(run, before, answers)
            gains.append(_gain(run, before, answers))
            if not verdict and (not (run.problem.smooth and run.path in FAST) or gains[-1] > order - 0.7):
                return Verdict(run, "right")
        before = answers
    return verdict or Verdict(run, "wrong", f"halved steps gain orders {gains}, not {order}")


FLOOR = 1e-9  # below this relative error, rounding and the reference's own error dominate


def _errors(run: Run, answers: list) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the errors (T, d) of each answer, relative to the largest states."""
    errors = []
    for ts, ys in answers:
        reference = truth(run.problem, ts)
        errors.append(np.abs(ys - reference) / (np.abs(reference).max(0) + run.problem.units.scale * 1e-3))
    return errors


def _consistent(run: Run, coarse: list, fine: list) -> Verdict | None:
    """Return a verdict if the finer answer's error is much larger than its difference from the coarser answer."""
    for (_, rough), (ts, ys), errors in zip(coarse, fine, _errors(run, fine)):
        apart = np.abs(ys - rough) / (np.abs(truth(run.problem, ts)).max(0) + run.problem.units.scale * 1e-3)
        # The first step's interpolant may begin with the same line for any step size.
        told = np.abs(ts - ts[0]) >= run.settings()["step_size"]
        if not told.any():
            continue
        errors, apart = errors[told], apart[told]
        floor = 1e-4 if run.single else FLOOR
        if not errors.max() <= floor + 10 * apart.max():
            return Verdict(
                run, "wrong", f"the error is {errors.max():.3g}, where halved steps change {apart.max():.3g}"
            )
    return None


def _gain(run: Run, coarse: list, fine: list) -> float:
    """Return the observed order at the last time, which is always the end of a step."""
    before, after = (_errors(run, answers)[0][-1].max() for answers in (coarse, fine))
    return math.inf if after < FLOOR else math.log2(before / after)


# Events.


def _judge_events(run: Run) -> Verdict:
    """Compare times and states of events at which a component clearly crosses a level."""
    told, rng = run.problem, np.random.default_rng([18, run.problem.seed])
    grid = np.linspace(told.ts[0], told.ts[-1], 401)
    begin = told.ts[0] + (grid[1] - grid[0]) * np.append(0, np.geomspace(1e-8, 1, 60))
    states, early = truth(told, grid), truth(told, begin)
    if states is None or early is None:
        return Verdict(run, "unsure", "LSODA failed")
    direction, terminal = int(rng.choice([-1, 0, 1])), bool(rng.random() < 0.5)
    for _ in range(30):
        which = int(rng.integers(states.shape[1]))
        level = float(states[rng.integers(5, 380, size=2), which].mean())
        expected = _crossings(states[:, which] - level, direction)
        if expected is not None and (np.sign(early[:, which] - level) == np.sign(states[0, which] - level)).all():
            break
    else:
        return Verdict(run, "right", "no level is clearly crossed")
    expected = grid[0] + (grid[-1] - grid[0]) * expected / 400
    event = pn.Event(lambda t, y: y[..., which] - level, terminal=terminal, direction=direction)
    solution = run.solve(events=event)
    found, wanted = np.asarray(solution.events.times), expected[:1] if terminal else expected
    what = f"y[{which}] - {level!r} (direction {direction}, terminal {terminal}) is zero at {wanted}, found {found}"
    if len(found) != len(wanted):
        return Verdict(run, "wrong", what)
    if terminal and len(found) and abs(float(solution.ts[-1]) - told.ts[0]) > abs(found[0] - told.ts[0]):
        return Verdict(run, "wrong", f"{what}, and the solution goes on")
    met = np.concatenate([told.ts[:1], found]), np.concatenate([told.y0[None], np.asarray(solution.events.states)])
    off = np.abs(met[1][1:, which] - level)  # is the state at the event on the level?
    if (
        off > run.tolerances * np.maximum(_tolerance(run, met[1])[1:, which], propagated(run, met[0])[1:, which])
    ).any():
        return Verdict(run, "wrong", f"{what}, where it is off the level by {off}")
    for ts, ys in (met, (np.asarray(solution.ts), np.asarray(solution.ys))):
        if verdict := len(ts) > 1 and compared(run, ts, ys):
            return verdict
    return Verdict(run, "right")


def _crossings(values: np.ndarray, direction: int) -> np.ndarray | None:
    """Return the positions of zero crossings, in grid steps, or None if a crossing is not clear."""
    span = np.ptp(values)
    turns = np.flatnonzero(np.diff(np.sign(np.diff(values))) != 0) + 1
    near = np.abs(values[[0, *turns, -1]]) < 0.05 * span
    where = np.flatnonzero(values[:-1] * values[1:] <= 0)
    slopes = np.diff(values)[where]
    if span == 0 or near.any() or not len(where) or (np.diff(where) < 40).any() or (np.abs(slopes) < span / 4000).any():
        return None
    exact = where - values[where] / slopes
    return exact[np.sign(slopes) != -direction]


# Counts.


@dataclass
class Tally:
    """The verdicts of many runs."""

    counts: Counter = field(default_factory=Counter)
    failures: list[Verdict] = field(default_factory=list)
    refusals: list[Verdict] = field(default_factory=list)
    seen: set = field(default_factory=set)

    def add(self, verdict: Verdict) -> None:
        run = verdict.run
        fair = verdict.kind == "refused" and run.problem.refusable
        self.counts["right" if fair else verdict.kind] += 1
        self.seen.add((run.problem.kind, run.solver, run.path))
        if verdict.kind == "wrong":
            self.failures.append(verdict)
        elif verdict.kind == "refused" and not fair:
            self.refusals.append(verdict)


def tally(seeds: range) -> Tally:
    total = Tally()
    for seed in seeds:
        for run in runs_of(seed):
            total.add(judge(run))
    return total


def main() -> None:
    first, _, last = sys.argv[1].partition(":")
    start, stop = int(first), int(last or int(first) + 1)
    for seed in range(start, stop, 100):
        part = range(seed, min(seed + 100, stop))
        total = tally(part)
        print(f"{part.start}:{part.stop} {dict(total.counts)}", flush=True)
        for verdict in (*total.failures, *total.refusals):
            print(verdict, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
