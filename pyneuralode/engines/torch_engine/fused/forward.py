"""The whole solve in compiled code: the march of ..march, and the tape that its adjoint needs."""

import numpy as np

from ..step_size import GROW
from .control import next_step, size_after_rejection, size_after_step, size_to_begin, trial_size
from .kernels import SOURCES, kernel, maker, part
from .network import evaluate, make_net
from .plan import BAD_START, DONE, FIRST_STEP, MIN_STEP, SLOPES_WIDTH, VALUES_WIDTH, WIDTH
from .steps import combine, error_size, extend, make_scheme, take, weigh
from .vectors import aligned, copy, fill

FIRST_ROWS = 256


@maker
def longer(array, size):
    """Return a copy of a flat array with room for `size` numbers."""
    more = aligned(size, array)
    copy(more, array, array.size)
    return more


@maker
def spread_out(tolerance, scheme, like):
    """Return the tolerance for each component of the state."""
    full = np.empty(scheme.n, like.dtype)
    for i in range(scheme.n):
        full[i] = tolerance[i if tolerance.size > 1 else 0]
    return full


@part
def scaled_norm(scheme, x, at, y, rtol, atol):
    """Return the root mean square of x[at:] over the tolerance at y."""
    total = 0.0
    for i in range(scheme.n):
        part = np.float64(x[at + i]) / (np.float64(abs(y[i])) * rtol[i] + atol[i])
        total += part * part
    return np.sqrt(total / scheme.n)


@part
def first_size(net, scheme, y, span, rtol, atol, values, slopes, row):
    """Return the first step's size; the slope at y is in the first stage."""
    k, point, second_slope = scheme.k, scheme.point, scheme.padded
    start = np.intp(0)
    d0, d1 = scaled_norm(scheme, y, start, y, rtol, atol), scaled_norm(scheme, k, start, y, rtol, atol)
    trial = trial_size(d0, d1, span)
    direction = 1.0 if span > 0 else -1.0
    for i in range(scheme.n):
        point[i] = y[i] + direction * trial * k[i]
    evaluate(net, point, k, second_slope, values, slopes, row)
    for i in range(scheme.n):
        k[second_slope + i] -= k[i]
    return size_to_begin(trial, d1, scaled_norm(scheme, k, second_slope, y, rtol, atol) / trial, scheme.order)


@maker
def longer_tape(times, kept, places, steps, every):
    """Return the tape's bookkeeping with room for `steps` steps."""
    more_times, more_places = np.empty(steps + 1), np.empty((steps, 3), np.int64)
    more_kept = np.empty((steps // every + 1, kept.shape[1]), kept.dtype)
    copy(more_times, times, times.size)
    for i in range(len(places)):
        copy(more_places[i], places[i], 3)
    for i in range(len(kept)):
        copy(more_kept[i], kept[i], kept.shape[1])
    return more_times, more_kept, more_places


@kernel
def march(head, layers, scales, theta, y0, ts, grid, rows, ends, interpolant, numbers, rtol, atol, controls,
          every, room, values, slopes, sources=SOURCES):
    """Solve from y0 through ts, in adaptive steps or along `grid` where that is not empty.

    With `every` above 0 the solve can be differentiated: the state is kept every so many steps, and the tape
    of evaluations too as long as it fits in `room` numbers. `values` and `slopes` are memory for the tape,
    replaced where they are too small.

    Returns the status, t and the step's size there, (evaluations, accepted, rejected, whether the tape is
    whole), the states (T, n); for the adjoint the steps' times, kept states, tape rows, values and slopes.
    """
    samples = y0.size // layers[0, WIDTH]
    net = make_net(head, layers, scales, theta, samples)
    scheme = make_scheme(rows, ends, interpolant, numbers, y0)
    n, stages, all_stages, end_stage = scheme.n, scheme.stages, len(scheme.rows), scheme.end_stage
    rtol, atol = spread_out(rtol, scheme, y0), spread_out(atol, scheme, y0)
    adaptive = grid.size == 0
    t, t_last = ts[0], ts[-1]
    direction = 1.0 if t_last > t else -1.0

    values_row, slopes_row = samples * head[VALUES_WIDTH], samples * head[SLOPES_WIDTH]
    taped = every > 0
    capacity = all_stages + 1
    if taped and capacity * (values_row + slopes_row) > room:
        taped = False
    if taped:
        capacity = max(capacity, min(FIRST_ROWS, room // (values_row + slopes_row)))
    if values.size < capacity * values_row or slopes.size < capacity * slopes_row:
        values, slopes = aligned(capacity * values_row, y0), aligned(capacity * slopes_row, y0)
    capacity = min(values.size // values_row, slopes.size // slopes_row)
    steps = 64
    times, places = np.empty(steps + 1), np.empty((steps, 3), np.int64)
    kept = np.empty((steps // every + 1 if every > 0 else 0, n), y0.dtype)

    y, end, output = aligned(scheme.padded, y0), aligned(scheme.padded, y0), aligned(scheme.padded, y0)
    fill(y, 0)
    copy(y, y0, n)
    ys = np.empty((ts.size, n), y0.dtype)
    copy(ys[0], y0, n)
    j = 1
    status, accepted, rejected, nfev = DONE, 0, 0, 0
    start, second = np.intp(0), np.intp(1)  # plain 0 and 1 would compile versions of their own
    have_slope, first, row, size = False, start, start, 0.0
    previous, growth, finite = 1.0, GROW, True
    exponent = scheme.error_order + 1
    times[0] = t

    if adaptive:
        evaluate(net, y, scheme.k, start, values, slopes, row)
        nfev, have_slope, row = 1, True, second
        for i in range(n):
            if not np.isfinite(scheme.k[i]):
                status = BAD_START
        if status == DONE:
            size = controls[FIRST_STEP]
            if size == 0:
                size = first_size(net, scheme, y, t_last - t, rtol, atol, values, slopes, row)
                nfev += 1
            size = max(size, controls[MIN_STEP])

    while status == DONE and t != t_last:
        if adaptive:
            status, size, t_next = next_step(t, t_last, size, finite, accepted + rejected, controls)
            if status != DONE:
                break
        else:
            t_next = grid[accepted + 1]
        h = t_next - t
        if taped and (row + all_stages + 1) * (values_row + slopes_row) > room:
            taped = False
        if taped and row + all_stages + 1 > capacity:
            capacity = min(2 * capacity + all_stages + 1, room // (values_row + slopes_row))
            values, slopes = longer(values, capacity * values_row), longer(slopes, capacity * slopes_row)
        if not taped:
            first, row = start, second
        if not have_slope:
            if taped:
                first, row = row, row + 1
            evaluate(net, y, scheme.k, start, values, slopes, first)
            nfev, have_slope = nfev + 1, True
        take(net, scheme, h, y, end, values, slopes, row)
        nfev += stages - 1
        error = error_size(scheme, h, y, end, rtol, atol) if adaptive else 0.0
        finite = np.isfinite(error)
        if not finite or error > 1:
            rejected += 1
            size = size_after_rejection(h, error, finite, exponent)
            growth = 1.0
            continue

        last = row + stages - 1
        has_end_slope = 0 <= end_stage < stages
        extended = False
        while j < ts.size and direction * ts[j] <= direction * t_next:
            if ts[j] == t_next:
                copy(ys[j], end, n)
            else:
                if not extended:
                    extend(net, scheme, h, y, end, values, slopes, row)
                    nfev += all_stages - stages
                    last = row + all_stages - 1
                    extended, has_end_slope = True, end_stage >= 0
                weigh(scheme, (ts[j] - t) / h, h)
                combine(scheme, output, y, all_stages)
                copy(ys[j], output, n)
            j += 1

        if every > 0:
            if accepted + 1 == times.size:
                steps *= 2
                times, kept, places = longer_tape(times, kept, places, steps, every)
            if accepted % every == 0:
                copy(kept[accepted // every], y, n)
            places[accepted, 0], places[accepted, 1], places[accepted, 2] = first, row, last
            times[accepted + 1] = t_next
        accepted += 1
        t = t_next
        y, end = end, y
        first, row, have_slope = row + end_stage - 1, last, has_end_slope
        if has_end_slope:
            for i in range(n):
                scheme.k[i] = scheme.k[end_stage * scheme.padded + i]
        if adaptive:
            size = size_after_step(h, error, previous, growth, exponent, controls[MIN_STEP])
            previous, growth = max(error, 1e-4), GROW

    counts = (nfev, accepted, rejected, taped)
    return status, t, size, counts, ys, times, kept, places, values, slopes
