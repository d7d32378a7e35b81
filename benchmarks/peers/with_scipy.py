"""The tasks for scipy.integrate."""

from __future__ import annotations

import numpy as np
from interface import ProblemData, Result, Run
from scipy.integrate import solve_ivp
from systems import SYSTEMS


def precision(problem: ProblemData, variant: str) -> Run:
    system, p = SYSTEMS[problem.settings["system"]], problem.arrays["p"].tolist()
    y0, ts = problem.arrays["y0"], problem.arrays["ts"]

    def solve():
        solution = solve_ivp(
            lambda t, y: system(y, p), (ts[0], ts[-1]), y0, method=variant, t_eval=ts, **problem.tolerances
        )
        if not solution.success:
            raise RuntimeError(solution.message)
        return solution

    def result() -> Result:
        solution = solve()
        return Result(solution.y.T, {}, {"dtype": str(np.asarray(y0).dtype), "evaluations": solution.nfev})

    return Run(solve, result)


TASKS = {"work-precision": precision}
