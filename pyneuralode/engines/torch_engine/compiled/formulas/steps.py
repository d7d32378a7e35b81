"""One step in compiled code, with an explicit method or a method for stiff problems."""

from typing import NamedTuple

import numpy as np

from ...stiff.sdirk import MAX_ITERATIONS, NEWTON_TOLERANCE, ROUNDINGS
from ..step_control import combine_dop853_errors
from .arrays import copy, fill
from .compilation import allocating_function, inlined_function, inner_function
from .dense_lu import factorize, solve
from .machine import differentiate, evaluate, linearize, read_slope
from .plan import EXPLICIT, ROSENBROCK


class FormulaScheme(NamedTuple):
    """The working memory of one step, for samples of `dim` components, and the method; see `.plan.MethodPlan`.

    `slopes` (samples, dim) and `jacobians` (samples, dim, dim + 1), the derivatives with respect to the components and
    the time, are evaluated at the step's start; the columns of a Jacobian are zero for the components marked in
    `frozen` (samples, dim). `matrix` contains the factors of one sample's I - gamma h J.
    """

    dim: int
    weights: np.ndarray
    point: np.ndarray
    rest: np.ndarray
    change: np.ndarray
    slopes: np.ndarray
    jacobians: np.ndarray
    frozen: np.ndarray
    jacobian_bar: np.ndarray
    matrix: np.ndarray
    pivots: np.ndarray
    kind: int
    stages: int
    order: int
    end_stage: int
    error_order: int
    rows: np.ndarray
    couplings: np.ndarray
    places: np.ndarray
    ends: np.ndarray
    interpolant: np.ndarray


@allocating_function
def make_scheme(method, dim, samples):
    interpolant = method[-1]
    weights, point, rest, change = np.empty(len(interpolant)), np.empty(dim), np.empty(dim), np.empty(dim)
    slopes, jacobians = np.empty((samples, dim)), np.zeros((samples, dim, dim + 1))
    frozen, jacobian_bar = np.zeros((samples, dim), np.bool_), np.zeros((dim, dim + 1))
    matrix, pivots = np.empty((dim, dim)), np.empty(dim, np.int64)
    return FormulaScheme(
        dim, weights, point, rest, change, slopes, jacobians, frozen, jacobian_bar, matrix, pivots, *method
    )


@inlined_function
def combine(out, out_at, y, at, k, coefficients, count, h, dim):
    """Set out[out_at:] = y[at:] + h times the sum over i < count of coefficients[i] k[i]."""
    for j in range(dim):
        out[out_at + j] = y[at + j]
    for i in range(count):
        weight = h * coefficients[i]
        if weight != 0:
            for j in range(dim):
                out[out_at + j] += weight * k[i, j]


@inner_function
def _drop_nonfinite_columns(machine, jacobian, frozen):
    if differentiate(machine, jacobian, True):
        return True
    for c in range(len(frozen)):
        for row in jacobian:
            frozen[c] = frozen[c] or not np.isfinite(row[c])
        if frozen[c]:
            for row in jacobian:
                row[c] = 0.0
    for row in jacobian:
        if not np.isfinite(row[len(frozen)]):
            return False
    return True


@inlined_function
def find_jacobian(machine, jacobian, frozen):
    """Set the Jacobian (dim, dim + 1) at the machine's linearization point; return whether a step may use it.

    Columns that are not finite are set to zero and marked in `frozen` (dim,): no step may change these components. The
    last column, the derivatives with respect to time, must be finite.
    """
    for c in range(len(frozen)):
        frozen[c] = False
    return differentiate(machine, jacobian, False) or _drop_nonfinite_columns(machine, jacobian, frozen)


@inner_function
def take_step(machine, scheme, h, t, y, k, end, fresh, rtol, atol):
    """Take a step from y (n,) at time t; write the state at its end to `end` and its stages to k (samples, s, dim).

    The first stage of an explicit or implicit step must already be set. `fresh` marks the first attempt at a step
    from y; later attempts reuse its Jacobians. If a step fails, the state at its end is not finite.

    Returns the number of evaluations of the field, and whether the Jacobian was usable; if it was not, no step was
    taken.
    """
    evaluations, gamma = scheme.stages - 1, scheme.places[2, scheme.stages - 1]
    for sample in range(len(k)):
        at, stages = sample * scheme.dim, k[sample]
        if scheme.kind == EXPLICIT:
            _explicit_stages(machine, scheme, h, t, y, at, stages, 1, scheme.stages)
        else:
            jacobian = scheme.jacobians[sample]
            if fresh:
                linearize(machine, t, y, at)
                if not find_jacobian(machine, jacobian, scheme.frozen[sample]):
                    return 1, False
                read_slope(machine, scheme.slopes[sample])
            set_matrix(scheme, jacobian, h * gamma)
            if scheme.kind == ROSENBROCK:
                copy(stages[0], scheme.slopes[sample])
                _rosenbrock_stages(machine, scheme, h, t, y, at, stages, jacobian)
            else:
                own = _implicit_stages(machine, scheme, h, t, y, at, stages, rtol, atol)
                evaluations = max(evaluations, own)
            if _moves_frozen(stages, scheme.stages, scheme.frozen[sample]):
                return evaluations + fresh, False
        combine(end, at, y, at, stages, scheme.ends[0], scheme.stages, h, scheme.dim)
    return evaluations + (fresh and scheme.kind != EXPLICIT), True


@inlined_function
def _moves_frozen(k, stages, frozen):
    """Return whether one of the stages changes a frozen component."""
    for c in range(len(frozen)):
        if frozen[c]:
            for i in range(stages):
                if k[i, c] != 0:
                    return True
    return False


@inlined_function
def _explicit_stages(machine, scheme, h, t, y, at, k, first, stop):
    for i in range(first, stop):
        combine(scheme.point, 0, y, at, k, scheme.rows[i], i, h, scheme.dim)
        evaluate(machine, t + scheme.places[0, i] * h, scheme.point, 0, k[i])


@inner_function
def extend(machine, scheme, h, t, y, k):
    """Evaluate the extra stages that only the interpolant needs."""
    for sample in range(len(k)):
        at = sample * scheme.dim
        _explicit_stages(machine, scheme, h, t, y, at, k[sample], scheme.stages, len(scheme.rows))


@inlined_function
def set_matrix(scheme, jacobian, scale):
    """Factorize I - scale J."""
    for i in range(scheme.dim):
        for j in range(scheme.dim):
            scheme.matrix[i, j] = -scale * jacobian[i, j]
        scheme.matrix[i, i] += 1
    factorize(scheme.matrix, scheme.pivots)


@inlined_function
def _rosenbrock_stages(machine, scheme, h, t, y, at, k, jacobian):
    dim = scheme.dim
    for i in range(scheme.stages):
        stage = k[i]
        if i > 0:
            combine(scheme.point, 0, y, at, k, scheme.rows[i], i, h, dim)
            evaluate(machine, t + scheme.places[0, i] * h, scheme.point, 0, stage)
            combine(stage, 0, stage, 0, k, scheme.couplings[i], i, 1.0, dim)
        for j in range(dim):
            along_time = h * scheme.places[1, i] * jacobian[j, dim]
            stage[j] = scheme.places[2, i] * (stage[j] + along_time)
        solve(scheme.matrix, scheme.pivots, stage)


@inlined_function
def _implicit_stages(machine, scheme, h, t, y, at, k, rtol, atol):
    """Solve for the stages by simplified Newton iterations; return the number of evaluations."""
    evaluations, rate = 0, 1.0
    for i in range(1, scheme.stages):
        stage, time = k[i], t + scheme.places[0, i] * h
        fill(stage, 0.0)
        combine(stage, 0, stage, 0, k, scheme.couplings[i], i, 1.0, scheme.dim)
        combine(scheme.point, 0, y, at, k, scheme.rows[i], i, h, scheme.dim)
        last, converged = np.inf, False
        for left in range(MAX_ITERATIONS - 1, -1, -1):
            size, rounding = _newton(machine, scheme, h, time, h * scheme.places[2, i], y, at, stage, rtol, atol)
            evaluations += 1
            if last < np.inf and size > rounding:
                rate = max(size / last, 1e-16)
            converged = size <= rounding or (rate < 1 and rate / (1 - rate) * size < NEWTON_TOLERANCE)
            hopeless = last < np.inf and (rate >= 1 or rate**left / (1 - rate) * size > NEWTON_TOLERANCE)
            if converged or hopeless or not np.isfinite(size):
                break
            last = size
        if not converged:
            # Set this and all later stages to NaN, so that the end becomes NaN: some stages have zero weight in it, but
            # the last stage never does.
            for unknown in range(i, scheme.stages):
                fill(k[unknown], np.nan)
            break
    return evaluations


@inlined_function
def _newton(machine, scheme, h, time, scale, y, at, stage, rtol, atol):
    """Run one Newton iteration for k = f(time, point + scale k).

    Returns the norms of the change and of the rounding error, divided by the tolerance.
    """
    dim, change, total, rounding = scheme.dim, scheme.change, 0.0, 0.0
    for j in range(dim):
        scheme.rest[j] = scheme.point[j] + scale * stage[j]
    evaluate(machine, time, scheme.rest, 0, change)
    for j in range(dim):
        change[j] -= stage[j]
    solve(scheme.matrix, scheme.pivots, change)
    for j in range(dim):
        stage[j] += change[j]
        tolerance = abs(y[at + j]) * rtol[at + j] + atol[at + j]
        total += (h * change[j] / tolerance) ** 2
        rounding += ((abs(scheme.point[j]) + abs(h * stage[j])) / tolerance) ** 2
    return np.sqrt(total / dim), ROUNDINGS * np.finfo(np.float64).eps * np.sqrt(rounding / dim)


@inlined_function
def set_interpolant_weights(scheme, theta, derivative):
    """Set the stages' weights in the interpolant, or in its derivative, at the fraction `theta` of a step."""
    for i in range(len(scheme.interpolant)):
        total, power = 0.0, 1.0 if derivative else theta
        for q in range(scheme.interpolant.shape[1]):
            total += (q + 1 if derivative else 1) * scheme.interpolant[i, q] * power
            power *= theta
        scheme.weights[i] = total


@inner_function
def interpolate(scheme, h, theta, y, k, out):
    set_interpolant_weights(scheme, theta, False)
    for sample in range(len(k)):
        at = sample * scheme.dim
        combine(out, at, y, at, k[sample], scheme.weights, len(scheme.weights), h, scheme.dim)


@inner_function
def spectral_radius(scheme, h, y, k, rtol, atol):
    """Return an estimate of the Jacobian's largest absolute eigenvalue, which limits the size of stable explicit steps.

    For an explicit step, it is |df| / |dy| between the last two stages, both at the step's end (Hairer and Wanner,
    Solving Ordinary Differential Equations II, IV.2); for a Rosenbrock step, it is the largest row sum of |J|.
    """
    dim, s, largest, faster, apart = scheme.dim, scheme.stages, 0.0, 0.0, 0.0
    for sample in range(len(k)):
        for j in range(dim):
            if scheme.kind == EXPLICIT:
                i = sample * dim + j
                scale, distance = abs(y[i]) * rtol[i] + atol[i], 0.0
                for stage in range(s - 1):
                    distance += h * (scheme.rows[s - 1, stage] - scheme.rows[s - 2, stage]) * k[sample, stage, j]
                faster += ((k[sample, s - 1, j] - k[sample, s - 2, j]) / scale) ** 2
                apart += (distance / scale) ** 2
            else:
                total = 0.0
                for c in range(dim):
                    total += abs(scheme.jacobians[sample, j, c])
                largest = max(largest, total)
    return np.sqrt(faster / apart) if scheme.kind == EXPLICIT else largest


@inner_function
def error_size(scheme, h, y, end, k, rtol, atol):
    """Return the norm of the estimated error divided by the tolerance; a step is accepted if it is at most 1."""
    dim, error = scheme.dim, 0.0
    for estimate in range(1, len(scheme.ends)):
        total = 0.0
        for sample in range(len(k)):
            for j in range(dim):
                scheme.point[j] = 0.0
            combine(scheme.point, 0, scheme.point, 0, k[sample], scheme.ends[estimate], scheme.stages, h, dim)
            for j in range(dim):
                i = sample * dim + j
                total += (scheme.point[j] / (max(abs(y[i]), abs(end[i])) * rtol[i] + atol[i])) ** 2
        size = np.sqrt(total / y.size)
        error = size if estimate == 1 else combine_dop853_errors(error, size)
    return error


@inner_function
def interpolant_error(machine, scheme, h, t, y, k, ts, j, count, rtol, atol, u):
    """Return the interpolant's largest error divided by the tolerance, and the number of evaluations.

    The error is estimated at up to three of the `count` times from ts[j], as in `StiffStep.interpolant_error`; `u` (n,)
    is scratch memory for the interpolant.
    """
    dim, gamma, change = scheme.dim, scheme.places[2, scheme.stages - 1], scheme.change
    largest, evaluations, before = 0.0, 0, -1
    for quarter in range(1, 4):
        index = quarter * count // 4
        if index == before:
            continue
        before, time, total = index, ts[j + index], 0.0
        theta = (time - t) / h
        interpolate(scheme, h, theta, y, k, u)
        set_interpolant_weights(scheme, theta, True)
        for sample in range(len(k)):
            at = sample * dim
            fill(scheme.rest, 0.0)
            combine(scheme.rest, 0, scheme.rest, 0, k[sample], scheme.weights, len(scheme.weights), 1.0, dim)
            evaluate(machine, time, u, at, change)
            if len(k) > 1:  # with one sample, the factors of the step's matrix are still stored
                set_matrix(scheme, scheme.jacobians[sample], h * gamma)
            for i in range(dim):
                change[i] = gamma * h * (change[i] - scheme.rest[i])
            solve(scheme.matrix, scheme.pivots, change)
            copy(scheme.rest, change)
            solve(scheme.matrix, scheme.pivots, scheme.rest)
            for i in range(dim):
                total += ((change[i] - scheme.rest[i]) / (abs(u[at + i]) * rtol[at + i] + atol[at + i])) ** 2
        evaluations += 1
        if not np.isfinite(total):
            return np.inf, evaluations
        largest = max(largest, np.sqrt(total / y.size))
    return largest, evaluations
