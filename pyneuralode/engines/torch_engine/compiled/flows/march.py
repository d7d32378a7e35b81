"""The compiled solve of a flow, with the same time stepping as torch_engine.march, and its exact adjoint."""

from typing import NamedTuple

import numpy as np

from ...step_size import MAX_FACTOR
from ..compilation import allocating_function, inner_function, kernel
from ..march_codes import ADAPTIVE, BAD_START, DONE, FIRST_STEP
from ..step_control import (
    combine_dop853_errors,
    initial_step_size,
    next_step,
    reject_step,
    size_after_step,
    trial_step_size,
)
from ..vectors import aligned, copy, fill, lanes
from .compilation import SOURCES
from .field import BlockWorkspace, evaluate, make_workspace, vjp
from .steps import add_to_stages, combine, make_scheme
from .weights import FlowShape, intermediates_size, row_size, scratch_size, weights_at, weights_vjp

INITIAL_EVALUATIONS = 64
# The columns of the table of steps: the time at a step's end (in the first row, the first time), and the rows of the
# step's first and second evaluations.
END_TIME, FIRST, SECOND = range(3)


@inner_function
def norm(x, at, y, end, n, p, rtol, atol):
    """Return the root mean square of x[at:] divided by the tolerance for states y and `end`, excluding the padding."""
    total = 0.0
    for first in range(0, y.size, p):
        for i in range(first, first + n):
            part = np.float64(x[at + i]) / (max(np.float64(abs(y[i])), np.float64(abs(end[i]))) * rtol + atol)
            total += part * part
    return np.sqrt(total / (y.size // p * n))


@allocating_function
def grown_rows(rows):
    """Return a copy of `rows` with space for twice as many rows."""
    more = np.empty((2 * len(rows), rows.shape[1]), rows.dtype)
    for i in range(len(rows)):
        copy(more[i], rows[i], rows.shape[1])
    return more


class Flow(NamedTuple):
    """A field, its parameters and the working memory of its evaluations, for p samples."""

    shape: FlowShape
    scales: np.ndarray
    theta: np.ndarray
    p: int
    row_bar: np.ndarray
    scratch: np.ndarray
    workspace: BlockWorkspace


@allocating_function
def make_flow(field, p, backward):
    head, scales, theta = field
    shape = FlowShape(*head)
    row_bar, scratch = np.empty(row_size(shape), theta.dtype), np.empty(scratch_size(shape), theta.dtype)
    return Flow(shape, scales, theta, p, row_bar, scratch, make_workspace(shape, theta, backward))


class Evaluations(NamedTuple):
    """Data for the adjoint, one row per evaluation: the states, the weights, and the weights' intermediate values."""

    points: np.ndarray
    weights: np.ndarray
    intermediates: np.ndarray


@allocating_function
def make_evaluations(flow, count):
    shape, real = flow.shape, flow.theta.dtype
    points, weights = np.empty((count, shape.dim * flow.p), real), np.empty((count, row_size(shape)), real)
    return Evaluations(points, weights, np.empty((count, intermediates_size(shape)), real))


@allocating_function
def grown(evaluations):
    points, weights, intermediates = evaluations
    return Evaluations(grown_rows(points), grown_rows(weights), grown_rows(intermediates))


@inner_function
def evaluate_at(flow, t, y, evaluations, row, out, o):
    """Write slope and trace (d + 1, p) at time t and states y to out[o:], and the data for the adjoint to row `row`."""
    shape, weights = flow.shape, evaluations.weights[row]
    copy(evaluations.points[row], y, shape.dim * flow.p)
    weights_at(shape, flow.theta, flow.scales, t, weights, evaluations.intermediates[row], flow.scratch)
    evaluate(shape, flow.p, weights, y, out, o, flow.workspace)


@inner_function
def vjp_at(flow, evaluations, row, bars, b, trace_bar, trace_share, z_bar, theta_bar):
    """Add an evaluation's cotangents of the states and the parameters to `z_bar` and `theta_bar`; see `vjp`."""
    shape, row_bar, points, weights = flow.shape, flow.row_bar, evaluations.points[row], evaluations.weights[row]
    vjp(shape, flow.p, weights, points, bars, b, trace_bar, trace_share, z_bar, row_bar, flow.workspace)
    intermediates = evaluations.intermediates[row]
    weights_vjp(shape, flow.theta, flow.scales, weights, intermediates, row_bar, theta_bar, flow.scratch)


@allocating_function
def padded_rows(z, rows):
    """Return `rows` rows: those of z (d, n), padded to whole vectors with copies of the last sample, then zeros."""
    n = z.shape[1]
    p = -(-n // lanes(z)) * lanes(z)
    out = aligned(rows * p, z)
    fill(out, 0)
    for j in range(len(z)):
        for s in range(p):
            out[j * p + s] = z[j, min(s, n - 1)]
    return out


@kernel
def march(field, method, z, stops, rtol, atol, controls, keep, sources=SOURCES):
    """Solve from the states z (d, n), with one step between consecutive `stops`, or with adaptive steps.

    Adaptive steps also end at every stop. `field` is (head, scales, theta), see `..plan.FlowPlan`; `method` is (rows,
    places, ends, numbers), see `TableauPlan`.

    Returns the status, the last t and step size, (evaluations, accepted, rejected), the final states
    (d + 1, n), whose last row is the integral of the trace, and the data for the adjoint (only if `keep`): the steps,
    and for each evaluation the states, the weights and the weights' intermediate values.
    """
    d, n = z.shape
    y = padded_rows(z, d + 1)
    p = y.size // (d + 1)
    flow, scheme = make_flow(field, p, False), make_scheme(method, y)
    stages, size, k = scheme.stages, y.size, scheme.k
    adaptive = controls[ADAPTIVE] != 0
    t, t_last, stop = stops[0], stops[-1], 1
    evaluations = make_evaluations(flow, INITIAL_EVALUATIONS if keep else 1)
    steps = np.empty((65, 3))
    end, error, nothing = aligned(size, z), aligned(size, z), aligned(size, z)
    fill(nothing, 0)
    status, accepted, rejected, nfev = DONE, 0, 0, 0
    have_slope, first, step = False, 0, 0.0
    previous, growth = 1.0, MAX_FACTOR
    exponent = scheme.error_order + 1
    end_is_last_stage = scheme.end_stage == stages - 1 and stages > 1
    none = np.intp(0)
    steps[0, END_TIME] = t

    if adaptive:
        evaluate_at(flow, t, y, evaluations, 0, k, none)
        nfev, have_slope = 1, True
        for i in range(size):
            if not np.isfinite(k[i]):
                status = BAD_START
        step = controls[FIRST_STEP]
        if step == 0 and status == DONE:
            d0, d1 = norm(y, none, y, y, n, p, rtol, atol), norm(k, none, y, y, n, p, rtol, atol)
            trial = trial_step_size(t, d0, d1, t_last - t)
            direction = 1.0 if t_last > t else -1.0
            for i in range(size):
                end[i] = y[i] + direction * trial * k[i]
            evaluate_at(flow, t + direction * trial, end, evaluations, 1 if keep else 0, error, none)
            nfev += 1
            for i in range(size):
                error[i] -= k[i]
            step = initial_step_size(trial, d1, norm(error, none, y, y, n, p, rtol, atol) / trial, scheme.order)
    used = 1 if adaptive else 0

    while status == DONE and t != t_last:
        t_next = stops[stop]
        if adaptive:
            status, step, t_next = next_step(t, t_next, step, accepted + rejected, controls)
            if status != DONE:
                break
        h = t_next - t
        if keep and used + stages > len(evaluations.points):
            evaluations = grown(evaluations)
        if not have_slope:
            first = used if keep else 0
            evaluate_at(flow, t, y, evaluations, first, k, none)
            nfev, used, have_slope = nfev + 1, used + 1, True
        for i in range(1, stages):
            point = end if end_is_last_stage and i == stages - 1 else scheme.point
            combine(scheme, point, y, scheme.rows[i], i, h)
            row = used + i - 1 if keep else 0
            evaluate_at(flow, t + scheme.places[i] * h, point, evaluations, row, k, i * size)
        nfev += stages - 1
        if not end_is_last_stage:
            combine(scheme, end, y, scheme.ends[0], stages, h)
        error_size = 0.0
        if adaptive:
            for estimate in range(1, len(scheme.ends)):
                combine(scheme, error, nothing, scheme.ends[estimate], stages, h)
                own = norm(error, none, y, end, n, p, rtol, atol)
                error_size = own if estimate == 1 else combine_dop853_errors(error_size, own)
        if not error_size <= 1:  # also rejects NaN
            rejected += 1
            status, step = reject_step(t, h, step, error_size, exponent, controls)
            growth = 1.0
            continue

        if keep:
            if accepted + 1 == len(steps):
                steps = grown_rows(steps)
            entry = steps[accepted + 1]
            entry[END_TIME], entry[FIRST], entry[SECOND] = t_next, first, used
        used += stages - 1
        first, have_slope = used - 1, end_is_last_stage
        if end_is_last_stage:
            for i in range(size):
                k[i] = k[(stages - 1) * size + i]
        accepted += 1
        t = t_next
        y, end = end, y
        cut = t == stops[stop]
        stop += cut
        if adaptive:
            step = size_after_step(h, step if cut else abs(h), error_size, previous, growth, exponent)
            previous, growth = max(error_size, 1e-4), MAX_FACTOR

    last = np.empty((d + 1, n), z.dtype)
    for j in range(d + 1):
        copy(last[j], y[j * p :], n)
    points, weights, intermediates = evaluations  # a plain tuple, as Numba takes a long time to recognize a named tuple
    return status, t, step, (nfev, accepted, rejected), last, (steps, (points, weights, intermediates))


@kernel
def adjoint_sweep(field, method, accepted, record, cotangents, sources=SOURCES):
    """Return the gradients with respect to the initial states (d, n) and the parameters (laid out like `theta`).

    `cotangents` (d + 1, n) are the cotangents of the final states; the other arguments are arguments and results of
    `march`.
    """
    d, n = len(cotangents) - 1, cotangents.shape[1]
    y_bar, trace_bar = padded_rows(cotangents[:d], d), padded_rows(cotangents[d:], 1)
    size, p = y_bar.size, trace_bar.size
    for s in range(n, p):  # the copies of the last sample are not part of the result
        trace_bar[s] = 0
        for j in range(d):
            y_bar[j * p + s] = 0
    steps, (points, weights, intermediates) = record
    evaluations = Evaluations(points, weights, intermediates)
    flow, scheme = make_flow(field, p, True), make_scheme(method, y_bar)
    stages, bars, push = scheme.stages, scheme.k, scheme.point
    end_is_last_stage = scheme.end_stage == stages - 1 and stages > 1
    theta_bar, trace_shares = np.zeros_like(flow.theta), np.zeros(stages, flow.theta.dtype)
    none = np.intp(0)
    for m in range(accepted - 1, -1, -1):
        h = steps[m + 1, END_TIME] - steps[m, END_TIME]
        first, second = int(steps[m + 1, FIRST]), int(steps[m + 1, SECOND])
        # At this point, the last stage's cotangent comes only from its use as the first stage of the next step.
        for i in range(stages):
            scheme.weights[i] = scheme.ends[0, i] * h
            trace_shares[i] += scheme.weights[i]
        if not end_is_last_stage:
            add_to_stages(scheme, bars, y_bar, stages)
        for i in range(stages - 1, 0, -1):
            fill(push, 0)
            if end_is_last_stage and i == stages - 1:  # this stage is evaluated at the state at the step's end
                copy(push, y_bar, size)
                fill(y_bar, 0)
            vjp_at(flow, evaluations, second + i - 1, bars, i * size, trace_bar, trace_shares[i], push, theta_bar)
            for j in range(size):
                y_bar[j] += push[j]
            for j in range(i):
                scheme.weights[j] = scheme.rows[i, j] * h
            add_to_stages(scheme, bars, push, i)
        carried = m > 0 and end_is_last_stage
        if not carried:
            vjp_at(flow, evaluations, first, bars, none, trace_bar, trace_shares[0], y_bar, theta_bar)
        trace_share = trace_shares[0]
        fill(trace_shares, 0)
        copy(push, bars, size)
        fill(bars, 0)
        if carried:
            trace_shares[stages - 1] = trace_share
            for j in range(size):
                bars[(stages - 1) * size + j] = push[j]
    z_bar = np.empty((d, n), theta_bar.dtype)
    for j in range(d):
        copy(z_bar[j], y_bar[j * p :], n)
    return z_bar, theta_bar
