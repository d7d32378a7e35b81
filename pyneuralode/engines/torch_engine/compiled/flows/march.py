"""The solve of a flow from one time to another in compiled code, with the steps of ..march, and its exact adjoint."""

import numpy as np

from ...step_size import MAX_FACTOR
from ..compilation import allocating_function, inner_function, kernel
from ..march_codes import ADAPTIVE, BAD_START, DONE, FIRST_STEP
from ..step_control import (
    check_rejection,
    combine_dop853_errors,
    initial_step_size,
    next_step,
    size_after_rejection,
    size_after_step,
    smallest_step,
    trial_step_size,
)
from ..vectors import aligned, copy, fill, lanes
from .compilation import SOURCES
from .field import evaluate, make_workspace, vjp
from .steps import add_to_stages, combine, make_scheme
from .weights import FlowShape, intermediates_size, row_size, scratch_size, weights_at, weights_vjp

INITIAL_EVALUATIONS = 64


@inner_function
def norm(x, at, y, end, n, p, rtol, atol):
    """Return the root mean square of x[at:] over the tolerance at y and end; the padding does not count."""
    total = 0.0
    for first in range(0, y.size, p):
        for i in range(first, first + n):
            part = np.float64(x[at + i]) / (max(np.float64(abs(y[i])), np.float64(abs(end[i]))) * rtol + atol)
            total += part * part
    return np.sqrt(total / (y.size // p * n))


@allocating_function
def grown_rows(rows, count):
    """Return a copy of `rows` with space for `count` of them."""
    more = np.empty((count, rows.shape[1]), rows.dtype)
    for i in range(len(rows)):
        copy(more[i], rows[i], rows.shape[1])
    return more


@allocating_function
def padded_rows(z, rows):
    """Return the rows of z (d, n), padded to whole vectors with its last sample, as the first of `rows` rows."""
    n = z.shape[1]
    p = -(-n // lanes(z)) * lanes(z)
    out = aligned(rows * p, z)
    fill(out, 0)
    for j in range(len(z)):
        for s in range(p):
            out[j * p + s] = z[j, min(s, n - 1)]
    return out


@kernel
def march(
    head, scales, theta, z, stops, rows, ends, interpolant, numbers, c, rtol, atol, controls, keep, sources=SOURCES
):
    """Solve from the states z (d, n): steps between the times of `stops`, or adaptive steps that end on them.

    Returns the status, t and the step's size there, (evaluations, accepted, rejected), the end (d + 1, n), whose last
    row is the integral of the trace; with `keep` for the adjoint the steps' times and first evaluations, and
    of each evaluation the states, the weights and what the adjoint of the weights needs.
    """
    shape = FlowShape(head[0], head[1], head[2], head[3], head[4])
    d, n = z.shape
    y = padded_rows(z, d + 1)
    p = y.size // (d + 1)
    scheme = make_scheme(rows, ends, interpolant, numbers, y)
    stages, size, k = scheme.stages, y.size, scheme.k
    adaptive = controls[ADAPTIVE] != 0
    t, t_last, stop = stops[0], stops[-1], 1
    capacity = INITIAL_EVALUATIONS if keep else 1
    points = np.empty((capacity, d * p), z.dtype)
    weights, intermediates = (
        np.empty((capacity, row_size(shape)), z.dtype),
        np.empty((capacity, intermediates_size(shape)), z.dtype),
    )
    scratch, workspace = np.empty(scratch_size(shape), z.dtype), make_workspace(shape, z, False)
    times, evaluations = np.empty(65), np.empty((64, 2), np.int64)
    end, error, nothing = aligned(size, z), aligned(size, z), aligned(size, z)
    fill(nothing, 0)
    status, accepted, rejected, nfev = DONE, 0, 0, 0
    have_slope, first, step = False, 0, 0.0
    previous, growth = 1.0, MAX_FACTOR
    exponent = scheme.error_order + 1
    end_is_last_stage = scheme.end_stage == stages - 1 and stages > 1
    none = np.intp(0)
    times[0] = t

    if adaptive:
        copy(points[0], y, d * p)
        weights_at(shape, theta, scales, t, weights[0], intermediates[0], scratch)
        evaluate(shape, p, weights[0], y, k, none, workspace)
        nfev, have_slope = 1, True
        for i in range(size):
            if not np.isfinite(k[i]):
                status = BAD_START
        step = controls[FIRST_STEP]
        if step == 0 and status == DONE:
            d0, d1 = norm(y, none, y, y, n, p, rtol, atol), norm(k, none, y, y, n, p, rtol, atol)
            guess = trial_step_size(d0, d1, t_last - t, smallest_step(t))
            direction = 1.0 if t_last > t else -1.0
            for i in range(size):
                end[i] = y[i] + direction * guess * k[i]
            at = 1 if keep else 0
            weights_at(shape, theta, scales, t + direction * guess, weights[at], intermediates[at], scratch)
            evaluate(shape, p, weights[at], end, error, none, workspace)
            nfev += 1
            for i in range(size):
                error[i] -= k[i]
            step = initial_step_size(guess, d1, norm(error, none, y, y, n, p, rtol, atol) / guess, scheme.order)
    used = 1 if adaptive else 0

    while status == DONE and t != t_last:
        t_next = stops[stop]
        if adaptive:
            status, step, t_next = next_step(t, t_next, step, accepted + rejected, controls)
            if status != DONE:
                break
        h = t_next - t
        if keep and used + stages > capacity:
            capacity *= 2
            points, weights, intermediates = (
                grown_rows(points, capacity),
                grown_rows(weights, capacity),
                grown_rows(intermediates, capacity),
            )
        if not have_slope:
            first = used if keep else 0
            copy(points[first], y, d * p)
            weights_at(shape, theta, scales, t, weights[first], intermediates[first], scratch)
            evaluate(shape, p, weights[first], y, k, none, workspace)
            nfev, used, have_slope = nfev + 1, used + 1, True
        for i in range(1, stages):
            at = used + i - 1 if keep else 0
            point = end if end_is_last_stage and i == stages - 1 else scheme.point
            combine(scheme, point, y, scheme.rows[i], i, h)
            copy(points[at], point, d * p)
            weights_at(shape, theta, scales, t + c[i] * h, weights[at], intermediates[at], scratch)
            evaluate(shape, p, weights[at], point, k, i * size, workspace)
        nfev += stages - 1
        if not end_is_last_stage:
            combine(scheme, end, y, scheme.ends[0], stages, h)
        error_size = 0.0
        if adaptive:
            combine(scheme, error, nothing, scheme.ends[1], stages, h)
            error_size = norm(error, none, y, end, n, p, rtol, atol)
            if len(ends) == 3:
                combine(scheme, error, nothing, scheme.ends[2], stages, h)
                error_size = combine_dop853_errors(error_size, norm(error, none, y, end, n, p, rtol, atol))
        finite = np.isfinite(error_size)
        if not finite or error_size > 1:
            rejected += 1
            status = check_rejection(t, h, step, finite, controls)
            step = size_after_rejection(h, error_size, finite, exponent)
            growth = 1.0
            continue

        if keep:
            if accepted + 1 == times.size:
                more_times, more_evaluations = (
                    np.empty(2 * times.size - 1),
                    np.empty((2 * len(evaluations), 2), np.int64),
                )
                copy(more_times, times, times.size)
                for i in range(len(evaluations)):
                    copy(more_evaluations[i], evaluations[i], 2)
                times, evaluations = more_times, more_evaluations
            evaluations[accepted, 0], evaluations[accepted, 1] = first, used
            times[accepted + 1] = t_next
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
    return status, t, step, (nfev, accepted, rejected), last, times, evaluations, points, weights, intermediates


@kernel
def adjoint_sweep(
    head,
    scales,
    theta,
    rows,
    ends,
    interpolant,
    numbers,
    accepted,
    times,
    evaluations,
    points,
    weights,
    intermediates,
    end_bar,
    trace_bar,
    sources=SOURCES,
):
    """Return the gradients with respect to the first states (d, n) and the parameters (as `theta`).

    `end_bar` (d, n) are the cotangents of the last states, `trace_bar` (1, n) those of the trace's integral.
    """
    shape = FlowShape(head[0], head[1], head[2], head[3], head[4])
    d, n = end_bar.shape
    y_bar, trace_bar = padded_rows(end_bar, d), padded_rows(trace_bar, 1)
    size, p = y_bar.size, trace_bar.size
    for s in range(n, p):  # copies of the last sample, which are not part of the result
        trace_bar[s] = 0
        for j in range(d):
            y_bar[j * p + s] = 0
    scheme = make_scheme(rows, ends, interpolant, numbers, y_bar)
    stages, bars, push = scheme.stages, scheme.k, scheme.point
    end_is_last_stage = scheme.end_stage == stages - 1 and stages > 1
    theta_bar, row_bar = np.zeros(theta.size, theta.dtype), np.empty(row_size(shape), theta.dtype)
    trace_shares = np.zeros(stages, theta.dtype)
    scratch, workspace = np.empty(scratch_size(shape), theta.dtype), make_workspace(shape, theta, True)
    none = np.intp(0)
    for m in range(accepted - 1, -1, -1):
        h = times[m + 1] - times[m]
        # On entry the last stage holds its cotangent as the first stage of the next step.
        for i in range(stages):
            scheme.weights[i] = scheme.ends[0, i] * h
            trace_shares[i] += scheme.weights[i]
        if not end_is_last_stage:
            add_to_stages(scheme, bars, y_bar, stages)
        for i in range(stages - 1, 0, -1):
            at = evaluations[m, 1] + i - 1
            fill(push, 0)
            if end_is_last_stage and i == stages - 1:  # its state is the end of the step
                copy(push, y_bar, size)
                fill(y_bar, 0)
            vjp(shape, p, weights[at], points[at], bars, i * size, trace_bar, trace_shares[i], push, row_bar, workspace)
            weights_vjp(shape, theta, scales, weights[at], intermediates[at], row_bar, theta_bar, scratch)
            for j in range(size):
                y_bar[j] += push[j]
            for j in range(i):
                scheme.weights[j] = scheme.rows[i, j] * h
            add_to_stages(scheme, bars, push, i)
        carried = m > 0 and end_is_last_stage
        if not carried:
            at = evaluations[m, 0]
            vjp(shape, p, weights[at], points[at], bars, none, trace_bar, trace_shares[0], y_bar, row_bar, workspace)
            weights_vjp(shape, theta, scales, weights[at], intermediates[at], row_bar, theta_bar, scratch)
        trace_share = trace_shares[0]
        fill(trace_shares, 0)
        copy(push, bars, size)
        fill(bars, 0)
        if carried:
            trace_shares[stages - 1] = trace_share
            for j in range(size):
                bars[(stages - 1) * size + j] = push[j]
    z_bar = np.empty((d, n), theta.dtype)
    for j in range(d):
        copy(z_bar[j], y_bar[j * p :], n)
    return z_bar, theta_bar
