"""SciPy's solvers, without gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import EngineError, SolverError
from .options import ScipyOptions, check_number, read_options
from .problem import FlatProblem


def integrate(problem: FlatProblem) -> Tensor:
    """Solve with SciPy and return the states (T, n) at the output times."""
    try:
        from scipy.integrate import solve_ivp
    except ImportError:
        raise EngineError("method is 'scipy_solver', but SciPy is not installed: run pip install scipy.") from None
    options = read_options(ScipyOptions, problem.method, problem.options, ("norm", "grid_points", "eps"))
    y0, slope, ts = problem.y0.detach(), problem.slope, problem.times.tolist()
    if len(ts) == 1:
        return y0[None]
    slope.by_count = True  # SciPy's states are flat

    @torch.no_grad()
    def derivative(t, y):
        value = slope(float(t), torch.as_tensor(y).to(y0))
        return (slope.direction * value).cpu().numpy()

    limits: dict[str, Any] = {"max_step": check_number("max_step", options.max_step, 0, above=True)}
    if options.solver == "LSODA":
        limits["min_step"] = check_number("min_step", options.min_step, 0)
    rtol, atol = (v.cpu().numpy() if isinstance(v, Tensor) else v for v in (problem.rtol, problem.atol))
    found = solve_ivp(derivative, (ts[0], ts[-1]), y0.cpu().numpy(), options.solver, ts, rtol=rtol, atol=atol, **limits)
    if found.status != 0:
        reached = slope.direction * (found.t[-1] if len(found.t) else ts[0])
        message = found.message.strip().rstrip(".")
        raise SolverError(f"SciPy's {options.solver} stopped after t = {reached:g}: {message}.", reached)
    return torch.as_tensor(found.y.T.copy()).to(y0)
