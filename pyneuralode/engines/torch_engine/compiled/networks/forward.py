"""A whole solve in compiled code, with the same time stepping as torch_engine.march, and the tape for its adjoint."""

import numpy as np

from ...step_size import MAX_FACTOR
from ..compilation import allocating_function, inner_function, kernel
from ..llvm_codegen import at, pointer
from ..march_codes import ADAPTIVE, BAD_START, DONE, FIRST_STEP
from ..products import copy_numbers, zero
from ..step_control import initial_step_size, next_step, reject_step, size_after_step, trial_step_size
from ..vectors import aligned, lanes
from .compilation import SOURCES
from .network import evaluate, load_parameters
from .plan import END, RECORD, SAMPLES, START, WORK
from .steps import advance, combine, error_size, extend, make_scheme, set_interpolant_weights

INITIAL_TAPE_ROWS = 256
# The columns of the step log, from which the adjoint repeats a step: the time at the end of the step, the tape rows of
# its first and second evaluations, and the tape row after its last evaluation.
END_TIME, FIRST_ROW, SECOND_ROW, LAST_ROW, LOG_COLUMNS = range(5)


@allocating_function
def grown(array, size):
    """Return a copy of a flat array with space for `size` numbers."""
    more = aligned(size, array)
    for i in range(array.size):
        more[i] = array[i]
    return more


@inner_function
def scaled_norm(scheme, x, y, rtol, atol):
    """Return the root mean square of x divided by the tolerance for the state y, component by component."""
    total = 0.0
    for i in range(scheme.n):
        part = np.float64(x[i]) / (np.float64(abs(y[i])) * rtol[i] + atol[i])
        total += part * part
    return np.sqrt(total / scheme.n)


@inner_function
def initial_size(net, scheme, work, t, y, span, rtol, atol, record):
    """Return the size of the first step; the first stage must contain the slope at y."""
    k, point, second_slope = scheme.k, scheme.point, at(scheme.k, scheme.lead)
    d0, d1 = scaled_norm(scheme, y, y, rtol, atol), scaled_norm(scheme, k, y, rtol, atol)
    trial = trial_step_size(t, d0, d1, span)
    direction = 1.0 if span > 0 else -1.0
    zero(point, scheme.lead)
    for i in range(scheme.n):
        point[i] = y[i] + direction * trial * k[i]
    evaluate(net, work, point, second_slope, record)
    for i in range(scheme.n):
        second_slope[i] -= k[i]
    return initial_step_size(trial, d1, scaled_norm(scheme, second_slope, y, rtol, atol) / trial, scheme.order)


@kernel
def march(plan, controls, tolerances, theta, y0, times, every, tape_capacity, buffers, sources=SOURCES):
    """Solve from y0 through `times`, a pair (ts, stops), in adaptive steps or in one step between consecutive stops.

    Adaptive steps also end at every stop. `plan` is the result of `solve_plan`; `tolerances` (2, n) are rtol and atol
    for every component. If `every` > 0, the solve can be differentiated: the state is stored every `every` steps, and
    the tape of evaluations is kept as long as it fits in `tape_capacity` numbers. `buffers` are working memory and
    memory for the tape; a buffer that is too small is replaced.

    Returns the status, the last t and step size, (evaluations, accepted, rejected), whether the tape is
    complete, the states (T, n), the step log and the checkpoints for the adjoint (both flat), and the buffers.
    """
    (table, scales, coefficients, interpolant), (ts, stops), (work, tape) = plan, times, buffers
    net = pointer(table)
    if work.size < net[WORK]:
        work = aligned(net[WORK], work)
    memory = pointer(work)
    zero(memory, net[WORK])
    load_parameters(net, memory, pointer(scales), pointer(theta))
    scheme = make_scheme(net, pointer(coefficients), pointer(interpolant), memory, lanes(work))
    n, stages, total, end_stage = scheme.n, scheme.stages, scheme.total, scheme.end_stage
    rtol, atol = pointer(tolerances), at(pointer(tolerances), n)
    adaptive = controls[ADAPTIVE] != 0
    t, t_last = ts[0], ts[-1]
    direction = 1.0 if t_last > t else -1.0

    size = net[SAMPLES] * net[RECORD]
    taped = every > 0 and (total + 1) * size <= tape_capacity
    capacity = total + 1
    if taped:
        capacity = max(capacity, min(INITIAL_TAPE_ROWS, tape_capacity // size))
    if tape.size < capacity * size:
        tape = aligned(capacity * size, work)
    capacity = tape.size // size
    step_log = np.empty(LOG_COLUMNS * 64)
    checkpoints = np.empty((64 // every + 1) * n if every > 0 else 0, y0.dtype)

    y, end = at(memory, net[START]), at(memory, net[END])
    copy_numbers(y, pointer(y0), n)
    ys = np.empty((ts.size, n), y0.dtype)
    copy_numbers(pointer(ys), y, n)
    j = stop = 1
    status, accepted, rejected, nfev = DONE, 0, 0, 0
    have_slope, first, row, step = False, 0, 0, 0.0
    previous, growth = 1.0, MAX_FACTOR
    exponent = scheme.error_order + 1

    if adaptive:
        evaluate(net, memory, y, scheme.k, pointer(tape))
        nfev, have_slope, row = 1, True, 1
        for i in range(n):
            if not np.isfinite(scheme.k[i]):
                status = BAD_START
        if status == DONE:
            step = controls[FIRST_STEP]
            if step == 0:
                step = initial_size(net, scheme, memory, t, y, t_last - t, rtol, atol, at(pointer(tape), size))
                nfev += 1

    while status == DONE and t != t_last:
        t_next = stops[stop]
        if adaptive:
            status, step, t_next = next_step(t, t_next, step, accepted + rejected, controls)
            if status != DONE:
                break
        h = t_next - t
        if taped and (row + total + 1) * size > tape_capacity:
            taped = False
        if taped and row + total + 1 > capacity:
            capacity = min(2 * capacity + total + 1, tape_capacity // size)
            tape = grown(tape, capacity * size)
        if not taped:
            first, row = 0, 1
        if not have_slope:
            if taped:
                first, row = row, row + 1
            evaluate(net, memory, y, scheme.k, at(pointer(tape), first * size))
            nfev, have_slope = nfev + 1, True
        record = at(pointer(tape), row * size)
        advance(net, scheme, memory, h, y, end, record, size)
        nfev += stages - 1
        error = error_size(scheme, y, end, rtol, atol) if adaptive else 0.0
        if not error <= 1:  # also rejects NaN
            rejected += 1
            status, step = reject_step(t, h, step, error, exponent, controls)
            growth = 1.0
            continue

        last = row + stages - 1
        has_end_slope = 0 <= end_stage < stages
        extended = False
        while j < ts.size and direction * ts[j] <= direction * t_next:
            output = end
            if ts[j] != t_next:
                if not extended:
                    extend(net, scheme, memory, y, end, record, size)
                    nfev += total - stages
                    last = row + total - 1
                    extended, has_end_slope = True, end_stage >= 0
                set_interpolant_weights(scheme, (ts[j] - t) / h, h)
                output = scheme.point
                combine(scheme, output, y, scheme.mix, scheme.k, total)
            copy_numbers(at(pointer(ys), j * n), output, n)
            j += 1

        if every > 0:
            if LOG_COLUMNS * (accepted + 1) > step_log.size:
                step_log = grown(step_log, 2 * step_log.size)
            if accepted % every == 0:
                place = accepted // every * n
                if place + n > checkpoints.size:
                    checkpoints = grown(checkpoints, 2 * checkpoints.size)
                copy_numbers(at(pointer(checkpoints), place), y, n)
            entry = at(pointer(step_log), LOG_COLUMNS * accepted)
            entry[END_TIME], entry[FIRST_ROW], entry[SECOND_ROW], entry[LAST_ROW] = t_next, first, row, last
        accepted += 1
        t = t_next
        y, end = end, y
        first, row, have_slope = row + end_stage - 1, last, has_end_slope
        if has_end_slope:
            copy_numbers(scheme.k, at(scheme.k, end_stage * scheme.lead), scheme.lead)
        cut = t == stops[stop]
        stop += cut
        if adaptive:
            step = size_after_step(h, step if cut else abs(h), error, previous, growth, exponent)
            previous, growth = max(error, 1e-4), MAX_FACTOR

    return status, t, step, (nfev, accepted, rejected), taped, ys, (step_log, checkpoints), (work, tape)
