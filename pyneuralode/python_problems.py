"""Stochastic, differential-algebraic and delay equations.

Julia solves them through diffeqpy, on NumPy arrays, in this process; gradients are not available. A described field (a
`VectorField`) runs as compiled Julia code. A Python function is called back at every evaluation, which takes about 1.2
us more than the function itself. `pyneuralode setup-julia --with-diffeqpy` installs the required packages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .arguments import real_array, whole_number
from .engines.registry import PreparedProblems, Settings
from .errors import ArgumentError, kind_of
from .fields import VectorField
from .gradients import find_gradient
from .problem import Control, Solution, make_control
from .problem.problem import Delays, MassMatrix, Noise, Residual, check_field
from .problem.values import check_increasing
from .solvers import DDE_SOLVERS, MASS_MATRIX_SOLVERS, RESIDUAL_SOLVERS, SDE_SOLVERS, Solver, find_solver


def solve_sde(
    f: VectorField | Callable,
    g: VectorField | Callable,
    y0: Any,
    ts: Any,
    *,
    parameters: Mapping[str, Any] | None = None,
    noise_parameters: Mapping[str, Any] | None = None,
    solver: str = "SOSRI",
    seed: int = 0,
    rtol: Any = 1e-2,
    atol: Any = 1e-2,
    **control: Any,
) -> Solution:
    """Compute one path of the stochastic equation ``dy = f(t, y) dt + g(t, y) dW`` (Ito, diagonal noise).

    Parameters
    ----------
    f, g : VectorField or callable
        Drift and diffusion coefficient: described fields, or functions of t (float) and y (array) that return an array
        like y. Each component has its own Wiener process.
    y0 : array
        Initial state, of any shape.
    ts : array (T,)
        Increasing times at which the state is returned; the solve starts at ``ts[0]``.
    parameters, noise_parameters : mapping, optional
        The parameters of f and of g by name, if they are described fields (default: their initial values).
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

    Examples
    --------
    >>> import pyneuralode as pn
    >>> growth = pn.Equations({"x": "r*x"}, parameters={"r": 1.01})
    >>> noise = pn.Equations({"x": "s*x"}, parameters={"s": 0.87})
    >>> path = pn.solve_sde(growth, noise, [0.5], [0.0, 0.5, 1.0], seed=1)  # doctest: +SKIP
    """
    settings = make_control({"rtol": rtol, "atol": atol, **control})
    check_increasing(ts)
    if not (callable(g) or isinstance(g, VectorField)):
        raise ArgumentError(f"g is {kind_of(g)}: give a VectorField, or a function of (t, y).")
    if isinstance(g, VectorField):
        noise_parameters = _checked_parameters("g", g, noise_parameters, y0)
    elif noise_parameters is not None:
        raise ArgumentError(
            f"noise_parameters are given, but g is {kind_of(g)}: give a VectorField, or leave them out."
        )
    if (number := whole_number("seed", seed, 0)) >= 2**63:
        raise ArgumentError(f"seed is {number}: give an integer below 2**63.")
    form = Noise(g, number, noise_parameters)
    return _solve(f, form, y0, ts, find_solver(solver, SDE_SOLVERS), settings, parameters=parameters)


def solve_dae(
    f: VectorField | Callable,
    y0: Any,
    ts: Any,
    *,
    parameters: Mapping[str, Any] | None = None,
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
    f : VectorField or callable
        With `mass_matrix`: the right-hand side, a described field or a function of t (float) and y (array). With `dy0`:
        the residual, a function of t, y and dy/dt. A function returns an array like y.
    y0 : array
        Initial state; of shape (n,) with `mass_matrix`.
    ts : array (T,)
        The times at which the state is returned; the solve starts at ``ts[0]``.
    parameters : mapping, optional
        The parameters of f by name, if it is a described field (default: its initial values).
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
        With `mass_matrix`: "Rodas5P" (the default), "Rosenbrock23" or "FBDF". For a residual: "DFBDF" (the default),
        or "IDA" from Sundials, which has not been tested yet.
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
        matrix = real_array("mass_matrix", mass_matrix).astype(float)
        n = math.prod(_shape(y0))
        if matrix.shape != (n, n):
            raise ArgumentError(f"mass_matrix has shape {matrix.shape}, but y0 has {n} components: use shape {(n, n)}.")
        if not np.isfinite(matrix).all():
            raise ArgumentError("mass_matrix contains values that are not finite: give finite numbers.")
        form = MassMatrix(matrix)
        method = find_solver(solver or "Rodas5P", MASS_MATRIX_SOLVERS)
        return _solve(f, form, y0, ts, method, settings, dense, parameters)
    check_increasing(ts)
    if not np.isfinite(real_array("dy0", dy0)).all():
        raise ArgumentError("dy0 contains values that are not finite: give finite numbers.")
    if isinstance(f, VectorField):
        raise ArgumentError(
            f"f is {kind_of(f)} with dy0: give a function of (t, y, dy), or a mass_matrix instead of dy0."
        )
    return _solve(
        f, Residual(dy0, differential), y0, ts, find_solver(solver or "DFBDF", RESIDUAL_SOLVERS), settings, dense
    )


def solve_dde(
    f: Callable | str,
    y0: Any,
    ts: Any,
    *,
    lags: float | Sequence[float],
    history: Callable | None = None,
    parameters: Mapping[str, Any] | None = None,
    solver: str = "Tsit5",
    dense: bool = False,
    **control: Any,
) -> Solution:
    """Solve the delay equation ``dy/dt = f(t, y(t), y(t - lags[0]), ...)`` by the method of steps.

    Parameters
    ----------
    f : callable or str
        A function of t (float), y and the state at each of the delayed times, ``f(t, y, y1, ...)``, that returns an
        array like y; or, much faster, Julia source of a function ``(du, u, h, p, t) -> ...`` that sets du, in which
        ``h(p, t - lag)`` is the state at an earlier time.
    y0 : array
        Initial state, of any shape; flat for Julia source.
    ts : array (T,)
        Increasing times at which the state is returned; the solve starts at ``ts[0]``.
    lags : float or sequence of float
        The constant delays (time units), all positive. Steps end at the jumps in derivatives that they cause.
    history : callable, optional
        The state before the first time, ``history(t)``; y0 at all earlier times if not given.
    parameters : mapping, optional
        For Julia source: the numbers and arrays ``p`` by name, as in ``p.rate``.
    solver : str
        A name in `pyneuralode.solvers.DDE_SOLVERS`: "Tsit5", for example, or "FBDF" or "Rodas5P" if the equation is stiff.
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

    Examples
    --------
    >>> import pyneuralode as pn
    >>> solution = pn.solve_dde(lambda t, y, y1: -y1, [1.0], [0.0, 1.0, 2.0], lags=1.0)  # doctest: +SKIP
    >>> solution.ys[:, 0]  # doctest: +SKIP
    array([ 1. ,  0. , -0.5])
    """
    values = real_array("lags", lags).astype(float).reshape(-1)
    if values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise ArgumentError(f"lags is {lags!r}: give positive numbers.")
    if isinstance(f, VectorField):
        raise ArgumentError(
            f"f is {kind_of(f)}, which has no delays: give a function of (t, y, y1, ...), or Julia source."
        )
    if parameters is not None and not isinstance(f, str):
        raise ArgumentError("parameters are given for a Python function: let the function contain them.")
    if isinstance(f, str) and (odd := [name for name in parameters or () if not str(name).isidentifier()]):
        raise ArgumentError(f"parameters has the name {odd[0]!r}, which is not an identifier: use one, such as 'rate'.")
    check_increasing(ts)
    if history is None:
        start = y0 if isinstance(y0, Tensor) else np.array(real_array("y0", y0))
        history = lambda t: start  # noqa: E731
    if not callable(history):
        raise ArgumentError(f"history is {kind_of(history)}: give a function of t.")
    check_field(history, "t", name="history")
    form = Delays(tuple(values.tolist()), history)
    return _solve(f, form, y0, ts, find_solver(solver, DDE_SOLVERS), make_control(control), dense, parameters)


def _solve(
    f: Any,
    form: Any,
    y0: Any,
    ts: Any,
    solver: Solver,
    control: Control,
    dense: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> Solution:
    if isinstance(f, nn.Module):
        raise ArgumentError(f"f is {kind_of(f)}: give a VectorField, or a Python function of NumPy arrays.")
    if isinstance(f, VectorField):
        given = f.initial() if parameters is None else parameters
        parameters = (
            {name: real_array(name, value) for name, value in given.items()} if hasattr(given, "items") else given
        )
    elif parameters is not None and not isinstance(f, str):
        raise ArgumentError(f"parameters are given, but f is {kind_of(f)}: give a VectorField, or leave them out.")
    field: Any = f  # Julia source, too, with delays
    values = parameters or {}
    settings = Settings(field, solver, find_gradient("Backprop"), control, dense, form=form)
    return PreparedProblems().find(settings, "julia", values, y0, ts).run(values, y0, ts)


def _checked_parameters(
    name: str, field: VectorField, parameters: Mapping[str, Any] | None, y0: Any
) -> Mapping[str, Any]:
    """Return the parameters of a field for the noise; raise unless names, shapes, values and the state's dimension are right."""
    if parameters is not None and not hasattr(parameters, "items"):
        raise ArgumentError(f"noise_parameters is {kind_of(parameters)}: give a mapping of name to value.")
    given = field.initial() if parameters is None else parameters
    arrays = {key: real_array(key, value) for key, value in given.items()}
    shapes = {key: tuple(shape) for key, shape in field.shapes().items()}
    if {key: value.shape for key, value in arrays.items()} != shapes:
        listed = ", ".join(f"{key} {shape}" for key, shape in shapes.items()) or "none"
        raise ArgumentError(f"noise_parameters do not have the names and shapes of {name}'s parameters: give {listed}.")
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise ArgumentError("noise_parameters contain values that are not finite: give finite numbers.")
    if _shape(y0)[-1:] != (field.dim,):
        raise ArgumentError(f"{name} has dimension {field.dim}, but y0 has shape {_shape(y0)}: give both the same.")
    return arrays


def _shape(y0: Any) -> tuple[int, ...]:
    return tuple(y0.shape) if isinstance(y0, Tensor) else real_array("y0", y0).shape
