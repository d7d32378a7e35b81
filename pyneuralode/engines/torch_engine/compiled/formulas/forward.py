"""Whole solves in compiled code, with the same time stepping as torch_engine.march, and the tape for the adjoint.

A system is one sample, or several samples that share their steps. Systems are solved one after another; each has its
own times and steps.
"""

from typing import NamedTuple

import numpy as np

from ...step_size import MAX_FACTOR
from ...stiff.switching import NONSTIFF_STEPS, STABILITY_MARGIN, STIFF_STEPS
from ..march_codes import ADAPTIVE, BAD_START, DONE, FIRST_STEP
from ..step_control import initial_step_size, next_step, reject_step, size_after_step, trial_step_size
from .arrays import copy, copy_rows, copy_stages, copy_tape
from .compilation import SOURCES, allocating_function, inner_function, kernel
from .machine import evaluate, make_machine, set_parameters
from .plan import EXPLICIT, IMPLICIT, ROSENBROCK
from .steps import error_size, extend, interpolant_error, interpolate, make_scheme, spectral_radius, take_step

# The index of the stability interval in `controls`, after the entries common to all solves.
STABILITY = 5


class Tape(NamedTuple):
    """Data of the accepted steps of all systems for the adjoint.

    `spans` (m, 3) contains the start and end times of each step, and whether it used the second method. `checkpoints`
    (m / every, n) contains the states at the start of every block of `every` steps of a system. For an implicit method
    it also contains the slopes at these states, (m / every, 2 n), since they are the last stages of the previous steps,
    which differ slightly from evaluations of the field. `stages` (m, samples, s, dim) contains the stages, unless they
    need too much memory.
    """

    spans: np.ndarray
    checkpoints: np.ndarray
    stages: np.ndarray


@allocating_function
def grown_tape(tape, count, blocks, stage_capacity):
    """Return the tape with space for `count` steps, `blocks` checkpoints and the stages of `stage_capacity` steps."""
    spans, checkpoints, stages = np.empty((count, 3)), np.empty((blocks, tape.checkpoints.shape[1])), tape.stages
    copy_rows(spans, tape.spans)
    copy_rows(checkpoints, tape.checkpoints)
    if len(stages) < stage_capacity:
        _, samples, rows, dim = stages.shape
        stages = np.empty((min(count, stage_capacity), samples, rows, dim))
        copy_tape(stages, tape.stages)
    return Tape(spans, checkpoints, stages)


@inner_function
def expand_tolerance(full, tolerances, system):
    """Write the tolerance of a system for each component of its state to `full`."""
    row = tolerances[system if len(tolerances) > 1 else 0]
    for i in range(full.size):
        full[i] = row[i if row.size > 1 else 0]


@inner_function
def scaled_norm(x, y, rtol, atol):
    """Return the root mean square of x divided by the tolerance for the state y, component by component."""
    total = 0.0
    for i in range(y.size):
        total += (x[i] / (abs(y[i]) * rtol[i] + atol[i])) ** 2
    return np.sqrt(total / y.size)


@inner_function
def scatter(slope, k):
    """Copy `slope` (n,) to the first stages of the samples."""
    at = 0
    for sample in range(len(k)):
        for j in range(k.shape[2]):
            k[sample, 0, j] = slope[at]
            at += 1


@inner_function
def gather(k, slope):
    """Copy the first stages of the samples to `slope` (n,); return whether they are finite."""
    finite, at = True, 0
    for sample in range(len(k)):
        for j in range(k.shape[2]):
            slope[at] = k[sample, 0, j]
            finite = finite and np.isfinite(slope[at])
            at += 1
    return finite


@inner_function
def write_tape(tape, step, block, taped, t, t_next, stiff, y, k):
    """Write a step to the tape, with its stages if `taped`, and with the state at its start if `block` >= 0."""
    span = tape.spans[step]
    span[0], span[1], span[2] = t, t_next, stiff
    if block >= 0:
        checkpoints = tape.checkpoints[block]
        copy(checkpoints, y)
        if checkpoints.size > y.size:
            gather(k, checkpoints[y.size :])
    if taped:
        copy_stages(tape.stages[step], k)


@inner_function
def first_stages(machine, scheme, t, y, k):
    for sample in range(len(k)):
        evaluate(machine, t, y, sample * scheme.dim, k[sample][0])


@inner_function
def carry_slope(k, end_stage):
    """Copy the slope at the end of a step to the first stage of the next step."""
    for sample in range(len(k)):
        copy(k[sample][0], k[sample][end_stage])


@inner_function
def initial_step(machine, scheme, t, t_last, y, k, rtol, atol, controls, slope, point):
    """Evaluate the first stages; return whether they are finite, and the size of the first step.

    `slope` and `point` (n,) are scratch memory.
    """
    first_stages(machine, scheme, t, y, k)
    if not gather(k, slope):
        return False, 0.0
    if controls[FIRST_STEP] != 0:
        return True, controls[FIRST_STEP]
    d0, d1 = scaled_norm(y, y, rtol, atol), scaled_norm(slope, y, rtol, atol)
    trial = trial_step_size(t, d0, d1, t_last - t)
    direction = 1.0 if t_last > t else -1.0
    for i in range(y.size):
        point[i] = y[i] + direction * trial * slope[i]
    for sample in range(len(k)):
        evaluate(machine, t + direction * trial, point, sample * scheme.dim, scheme.point)
        for j in range(scheme.dim):
            slope[sample * scheme.dim + j] -= scheme.point[j]
    return True, initial_step_size(trial, d1, scaled_norm(slope, y, rtol, atol) / trial, scheme.order)


@inner_function
def count_inside(t_next, ts, j, last, direction):
    """Return the number of times from ts[j] to ts[last] that are before t_next, the end of a step."""
    count = 0
    while j + count <= last and direction * ts[j + count] < direction * t_next:
        count += 1
    return count


@inner_function
def write_outputs(machine, scheme, t, t_next, y, end, k, ts, j, last, direction, ys):
    """Write the states at the times from ts[j] to ts[last] that the step covers.

    Returns the index of the next time, and whether the step was extended.
    """
    extended, h = False, t_next - t
    while j <= last and direction * ts[j] <= direction * t_next:
        if ts[j] == t_next:
            copy(ys[j], end)
        else:
            if not extended:
                extend(machine, scheme, h, t, y, k)
                extended = True
            interpolate(scheme, h, (ts[j] - t) / h, y, k, ys[j])
        j += 1
    return j, extended


@kernel
def march(
    field, theta, y0, slopes, times, stops, step_kinds, tolerances, controls, every, stage_capacity, sources=SOURCES
):
    """Solve every system from its row of y0 (systems, n) through its times ts[parts[i]:parts[i + 1]].

    `field` is (program, method, second method), `times` is (ts, parts) and `tolerances` is (rtol, atol). `stops` are
    divided into systems like the times; there is one step between consecutive stops, or steps are adaptive and also end
    at the stops. Steps of methods for stiff problems also end at a requested time if their interpolant is not accurate
    enough. `theta` and the tolerances have one row for all systems or one row for each. If `every` > 0, the solve can
    be differentiated: the state is stored every `every` steps, and the stages of up to `stage_capacity` steps are kept.
    `slopes` (systems, n) are the initial slopes if they are known, as when steps of an implicit method are repeated;
    otherwise, `slopes` has no rows.

    If the stability interval in `controls` is positive, the solve switches between the method and a second method, a
    Rosenbrock method: automatically or, when steps of one system are repeated, as given by `step_kinds`. The explicit
    method takes the steps that start where the Rosenbrock method has no usable Jacobian.

    Returns (status, last t, step size) and (evaluations, accepted, rejected) for each system, the states at all times,
    and the tape.
    """
    (program, method, second_method), (ts, parts), (stops, stop_parts) = field, times, stops
    rtol, atol = tolerances
    systems, n = y0.shape
    machine = make_machine(program)
    samples = n // machine.dim
    primary, secondary = make_scheme(method, machine.dim, samples), make_scheme(second_method, machine.dim, samples)
    max_stages = max(len(primary.rows), len(secondary.rows))
    implicit = primary.kind == IMPLICIT
    y, end, scratch = np.empty(n), np.empty(n), np.empty(n)
    full_rtol, full_atol, k = np.empty(n), np.empty(n), np.zeros((samples, max_stages, machine.dim))
    reports, counts = np.zeros((systems, 3)), np.zeros((systems, 3), np.int64)
    ys = np.empty((ts.size, n))
    checkpoints = np.empty((0, 2 * n if implicit else n))
    tape = Tape(np.empty((0, 3)), checkpoints, np.empty((0, samples, max_stages, machine.dim)))
    adaptive = controls[ADAPTIVE] != 0
    limit = STABILITY_MARGIN * controls[STABILITY]
    step = block = 0
    for i in range(systems):
        set_parameters(machine, theta, i if len(theta) > 1 else 0)
        expand_tolerance(full_rtol, rtol, i)
        expand_tolerance(full_atol, atol, i)
        j, last = parts[i], parts[i + 1] - 1
        t, t_last = ts[j], ts[last]
        direction = 1.0 if t_last > t else -1.0
        copy(y, y0[i])
        copy(ys[j], y)
        j += 1
        status, accepted, rejected, nfev = DONE, 0, 0, 0
        size, previous, growth = 0.0, 1.0, MAX_FACTOR
        stop, stop_at_output = stop_parts[i] + 1, False
        have_first, fresh = adaptive, True
        scheme, stiff, borrowed, count = primary, False, False, 0
        if len(slopes) > 0:
            scatter(slopes[i], k)
            have_first = True
        if adaptive:
            finite, size = initial_step(machine, scheme, t, t_last, y, k, full_rtol, full_atol, controls, scratch, end)
            status = DONE if finite else BAD_START
            nfev = 2 if finite and controls[FIRST_STEP] == 0 else 1

        while status == DONE and t != t_last:
            t_next = ts[j] if stop_at_output else stops[stop]
            if adaptive:
                status, size, t_next = next_step(t, t_next, size, accepted + rejected, controls)
                if status != DONE:
                    break
            h = t_next - t
            if step_kinds.size > 0:
                change = (step_kinds[accepted] != 0) != stiff
            else:
                change = not borrowed and count > (NONSTIFF_STEPS if stiff else STIFF_STEPS)
            if change:
                stiff, count, have_first, fresh = not stiff, 0, False, True
                scheme = secondary if stiff else primary
            if scheme.kind != ROSENBROCK and not have_first:
                first_stages(machine, scheme, t, y, k)
                nfev, have_first = nfev + 1, True
            more, usable = take_step(machine, scheme, h, t, y, k, end, fresh, full_rtol, full_atol)
            nfev += more
            if not usable:  # the explicit method takes this step
                stiff, borrowed, have_first = not stiff, True, False
                scheme = secondary if stiff else primary
                continue
            if limit > 0:
                rate = spectral_radius(scheme, h, y, k, full_rtol, full_atol)
                looks_stiff = not abs(h) * rate <= limit
                count = count + 1 if looks_stiff != (stiff != borrowed) else 0
            error = error_size(scheme, h, y, end, k, full_rtol, full_atol) if adaptive else 0.0
            between_error = 0.0
            requested = count_inside(t_next, ts, j, last, direction) if scheme.kind != EXPLICIT else 0
            if requested > 0 and adaptive and error <= 1:  # see InterpolantControl
                between_error, extra_evaluations = interpolant_error(
                    machine, scheme, h, t, y, k, ts, j, requested, full_rtol, full_atol, scratch
                )
                error, nfev = max(error, between_error), nfev + extra_evaluations
            exponent = scheme.error_order + 1
            if not error <= 1:  # also rejects NaN
                rejected, fresh = rejected + 1, False
                outcome, shorter = reject_step(t, h, size, error, exponent, controls)
                stop_at_output = between_error > 1 and shorter <= abs(ts[j] - t)
                if not stop_at_output:
                    status, size, growth = outcome, shorter, 1.0
                continue

            extended = False
            if j <= last and direction * ts[j] <= direction * t_next:
                j, extended = write_outputs(machine, scheme, t, t_next, y, end, k, ts, j, last, direction, ys)
            if extended:
                nfev += len(scheme.rows) - scheme.stages
            if every > 0:
                row, place = step + accepted, block + accepted // every
                if row == len(tape.spans):
                    space = max(64, 2 * row)
                    tape = grown_tape(tape, space, space // every + systems, stage_capacity)
                write_tape(
                    tape, row, place if accepted % every == 0 else -1, row < stage_capacity, t, t_next, stiff, y, k
                )
            accepted += 1
            t = t_next
            y, end, fresh = end, y, True
            have_first = 0 <= scheme.end_stage < (len(scheme.rows) if extended else scheme.stages)
            if have_first:
                carry_slope(k, scheme.end_stage)
            if borrowed:
                stiff, borrowed = not stiff, False
                scheme = secondary if stiff else primary
            cut = stop_at_output or t == stops[stop]
            stop, stop_at_output = stop + (t == stops[stop]), False
            if adaptive:
                size = size_after_step(h, size if cut else abs(h), error, previous, growth, exponent)
                previous, growth = max(error, 1e-4), MAX_FACTOR

        reports[i, 0], reports[i, 1], reports[i, 2] = status, t, size
        counts[i, 0], counts[i, 1], counts[i, 2] = nfev, accepted, rejected
        if status != DONE:
            break
        step += accepted
        block += -(-accepted // every) if every > 0 else 0
    return reports, counts, ys, (tape.spans, tape.checkpoints, tape.stages)
