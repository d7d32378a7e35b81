"""The exchange of states, derivatives, failures and solutions between Julia and a Python function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArgumentError, SolverError, kind_of
from ...problem import Control, Problem, Solution
from ...problem.values import check_times, flatten, times_inside
from .decode import read_reply
from .session import with_julia

ENGINE = "julia (diffeqpy)"


class Start:
    """The checked initial state and times of a problem.

    Attributes
    ----------
    shape : tuple of int
        The state's shape.
    y0 : array (n,)
        The initial state, flat.
    ts : array (T,)
        The times, float64.
    span : tuple of two floats
        The first and the last time.
    """

    def __init__(self, problem: Problem, y0: Any, ts: Any):
        flat, layout = flatten(y0)
        problem.check_tolerances(flat)
        self.shape = tuple(layout.shapes[0])
        self.y0 = flat.numpy()
        self.ts = check_times(ts).detach().double().numpy().copy()  # a copy, as the caller receives it in the solution
        self.span = float(self.ts[0]), float(self.ts[-1])

    def small(self, control: Control) -> np.ndarray:
        """Return the magnitude (n,) below which a component counts as small, as its absolute tolerance dominates."""
        sizes = np.clip(control.atol / np.maximum(control.rtol, np.finfo(float).tiny), 1e-8, 1.0)
        return np.broadcast_to(sizes, self.y0.shape).astype(self.y0.dtype)

    def array(self, name: str, value: Any) -> np.ndarray:
        """Convert an argument that must have the state's shape to a flat array of the state's dtype."""
        if np.shape(value) != self.shape:
            raise ArgumentError(
                f"{name} has shape {np.shape(value)} and y0 has shape {self.shape}: give both the same shape."
            )
        return np.asarray(value, dtype=self.y0.dtype).reshape(-1)


class Callback:
    """A Python function of the time and of arrays like the state (as many as `inputs`); Julia passes only the time.

    Julia writes to the attribute `inputs` before a call and reads `output` afterward. The function receives copies,
    which it may keep.
    """

    def __init__(self, function: Any, start: Start, inputs: int, name: str = "the field"):
        self.calls = 0
        self.inputs = tuple(np.empty_like(start.y0) for _ in range(inputs))
        self.output = np.empty_like(start.y0)
        self._function, self._name = function, name
        self._values = self.output.reshape(start.shape)
        self._arguments = [array.reshape(start.shape) for array in self.inputs]

    def __call__(self, t: float) -> None:
        self.calls += 1
        values, expected = self._function(t, *[array.copy() for array in self._arguments]), self._values
        # A state of shape () is passed as a NumPy scalar.
        if not isinstance(values, (np.ndarray, np.generic)):
            raise ArgumentError(
                f"{self._name} returned {kind_of(values)}: return a NumPy array like y, such as np.array([...])."
            )
        if values.shape != expected.shape or values.dtype != expected.dtype:
            kind = "shape" if values.shape != expected.shape else "dtype"
            raise ArgumentError(
                f"{self._name} returned {kind} {getattr(values, kind)} for a state of {kind} "
                f"{getattr(expected, kind)}: y0 and the returned value must have the same {kind}."
            )
        expected[...] = values


@functools.cache
def python_functions(Main: Any) -> Any:
    """Return the Julia module PythonFunctions, which python_functions.jl defines."""
    Main.include(str(Path(__file__).with_suffix("").with_name("python_functions.jl")))
    return Main.PythonFunctions


@contextmanager
def julia_failures(Main: Any) -> Iterator[None]:
    """Convert Julia's exceptions into pyneuralode's; exceptions of the Python function pass through unchanged."""
    from juliacall import JuliaError

    failure = None
    try:
        yield
    except JuliaError as error:
        failure = error
    if failure is not None:  # raised outside the handler, so that Julia's long stack trace is not shown
        trace = failure.backtrace
        read_reply(Main.PyNeuralODE.error_reply(failure.exception, [] if trace is None else trace))


def finish(solution: Any, start: Start, calls: int, solver: str, dense: bool, Main: Any) -> Solution:
    """Convert SciML's solution to a `Solution`."""
    functions = python_functions(Main)
    states = functions.interpolated(solution, Main.collect(start.ts)) if dense else functions.saved(solution)
    # DelayDiffEq computes in double precision, whatever the state is.
    ys = np.array(np.asarray(states).T, order="C", dtype=start.y0.dtype).reshape(-1, *start.shape)
    bad = ~np.isfinite(ys.reshape(len(ys), -1)).all(1)
    if bad.any():
        first = float(start.ts[bad.argmax()])
        raise SolverError(
            f"the state is non-finite at t = {first:g}: use smaller steps or a solver that adapts its steps.",
            first,
        )
    return Solution(
        ts=start.ts,
        ys=ys,
        nfev=calls,
        accepted=int(solution.stats.naccept),
        rejected=int(solution.stats.nreject),
        message="reached the last time",
        solver=solver,
        engine=ENGINE,
        dense=_dense(solution, start) if dense else None,
    )


def _dense(solution: Any, start: Start) -> Callable:
    def at(t):
        times = times_inside(t, *start.span)
        states = with_julia(lambda Main: np.asarray(python_functions(Main).interpolated(solution, Main.collect(times))))
        return np.array(states.T, order="C").reshape(*np.shape(t), *start.shape)

    return at
