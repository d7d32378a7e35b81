"""Stochastic and differential-algebraic equations defined by a user's Python functions.

Julia solves them through diffeqpy, on NumPy arrays, in this process; gradients are not available. Every evaluation
calls from Julia into Python. `pyneuralode setup-julia --with-diffeqpy` installs the required packages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from .arguments import real_array, whole_number
from .engines.registry import PreparedProblems, Settings
from .errors import ArgumentError, kind_of
from .fields import VectorField
from .gradients import find_gradient
from .problem import Control, Solution, make_control
from .problem.problem import MassMatrix, Noise, Residual
from .solvers import MASS_MATRIX_SOLVERS, RESIDUAL_SOLVERS, SDE_SOLVERS, Solver, find_solver


def solve_sde(
    f: Callable,
    g: Callable,
    y0: Any,
    ts: Any,
    *,
    solver: str = "SOSRI",
    seed: int = 0,
    rtol: Any = 1e-2,
    atol: Any = 1e-2,
    **control: Any,
) -> Solution:
    """Compute one path of the stochastic equation ``dy = f(t, y) dt + g(t, y) dW`` (Ito, diagonal noise).

    This has not yet been run with Julia's StochasticDiffEq: the calls into Julia were tested with a stand-in for it.

    Parameters
    ----------
    f, g : callable
        Drift and diffusion coefficient, as functions of t (float) and y (array) that return an array like y. Each
        component has its own Wiener process.
    y0 : array
        Initial state, of any shape.
    ts : array (T,)
        Increasing times at which the state is returned; the solve starts at ``ts[0]``.
    solver : {"SOSRI", "SOSRA", "SRIW1", "SRA1", "EM"}
        SOSRI and SRIW1 (Roessler 2010; Rackauckas and Nie 2020) support any diagonal noise, SOSRA and SRA1 only
        noise that does not depend on y; all have strong order 1.5 and adaptive steps. EM, the Euler-Maruyama
        method, has strong order 0.5 and fixed steps of size `step_size`.
    seed : int
        Seed of Julia's random numbers, >= 0; the same seed gives the same path.
    rtol, atol : float or array of the state's shape
        Tolerances of each step; the defaults are SciML's for stochastic equations.
    **control
        The other controls of `pyneuralode.solve`.

    Returns
    -------
    Solution
        ``ys`` (T, *y0.shape); ``nfev`` counts evaluations of f.

    Raises
    ------
    ArgumentError, SolverError
        As in `pyneuralode.solve`.
    EngineError
        If Julia or its packages are missing; the message says what to do.
    """
    settings = make_control({"rtol": rtol, "atol": atol, **control})
    if not callable(g):
        raise ArgumentError(f"g is {kind_of(g)}: give a function of (t, y).")
    form = Noise(g, whole_number("seed", seed, 0))
    return _solve(f, form, y0, ts, find_solver(solver, SDE_SOLVERS), settings, dense=False)


def solve_dae(
    f: Callable,
    y0: Any,
    ts: Any,
    *,
    mass_matrix: Any = None,
    dy0: Any = None,
    differential: Any = None,
    solver: str | None = None,
    dense: bool = False,
    **control: Any,
) -> Solution:
    """Solve a differential-algebraic equation, ``M dy/dt = f(t, y)`` or ``f(t, y, dy/dt) = 0``.

    Parameters
    ----------
    f : callable
        With `mass_matrix`: the right-hand side, a function of t (float) and y (array). With `dy0`: the residual,
        a function of t, y and dy/dt. It returns an array like y.
    y0 : array
        Initial state; of shape (n,) with `mass_matrix`.
    ts : array (T,)
        The times at which the state is returned; the solve starts at ``ts[0]``.
    mass_matrix : array (n, n)
        The matrix M. A row of zeros makes its equation algebraic. If y0 does not satisfy the algebraic equations,
        Julia first corrects the components whose derivatives do not occur in the equations; ``ys[0]`` is the
        corrected state.
    dy0 : array
        For a residual: dy/dt at ``ts[0]``.
    differential : array of bool, optional
        For a residual: True for the components whose derivatives occur in it. If given, Julia corrects y0 and
        dy0 as needed; otherwise their residual must be 0.
    solver : str, optional
        With `mass_matrix`: "Rodas5P" (the default), "Rosenbrock23" or "FBDF". For a residual: "IDA" (the
        default) from Sundials, which has not been tested yet, or "DFBDF", which does not need Sundials.
    dense : bool
        Keep the data needed to evaluate the solution at any time.
    **control
        The controls of `pyneuralode.solve`.

    Returns
    -------
    Solution
        ``ys`` (T, *y0.shape).

    Raises
    ------
    ArgumentError, SolverError
        As in `pyneuralode.solve`.
    EngineError
        If Julia or its packages are missing; the message says what to do.
    """
    settings = make_control(control)
    if (mass_matrix is None) == (dy0 is None):
        given = "neither mass_matrix nor dy0 is given" if dy0 is None else "mass_matrix and dy0 are both given"
        raise ArgumentError(f"{given}: give mass_matrix for M dy/dt = f(t, y), or dy0 for f(t, y, dy/dt) = 0.")
    if mass_matrix is not None:
        if differential is not None:
            raise ArgumentError(
                "differential is given with mass_matrix, whose rows already determine it: leave differential out."
            )
        n, shape = math.prod(np.shape(y0)), np.shape(mass_matrix)
        if shape != (n, n):
            raise ArgumentError(f"mass_matrix has shape {shape}, but y0 has {n} components: use shape {(n, n)}.")
        form = MassMatrix(real_array("mass_matrix", mass_matrix).astype(float))
        return _solve(f, form, y0, ts, find_solver(solver or "Rodas5P", MASS_MATRIX_SOLVERS), settings, dense)
    form = Residual(dy0, differential)
    return _solve(f, form, y0, ts, find_solver(solver or "IDA", RESIDUAL_SOLVERS), settings, dense)


def _solve(f: Callable, form: Any, y0: Any, ts: Any, solver: Solver, control: Control, dense: bool) -> Solution:
    if isinstance(f, (VectorField, nn.Module)):
        raise ArgumentError(f"f is {kind_of(f)}: give a Python function of NumPy arrays.")
    settings = Settings(f, solver, find_gradient("Backprop"), control, dense, form=form)
    return PreparedProblems().find(settings, "julia", {}, y0, ts).run({}, y0, ts)
