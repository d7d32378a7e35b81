"""The exact adjoint of a compiled solve: the accepted steps, differentiated from last to first."""

import numpy as np

from ..compilation import inner_function, kernel
from ..llvm_codegen import at, pointer
from ..products import copy_numbers, zero
from ..vectors import aligned, lanes
from .compilation import SOURCES
from .forward import END_TIME, FIRST_ROW, LAST_ROW, LOG_COLUMNS, SECOND_ROW
from .network import add_gradient, evaluate, load_parameters, store_gradient, vjp
from .plan import END, ONE, RECORD, SAMPLES, START, WORK
from .steps import advance, extend, make_scheme, set_interpolant_weights, step_back

# The number of values to which the tape of repeated steps is limited, so that it fits in a core's cache.
REPEATED_TAPE_NUMBERS = 1 << 18
# The number of records whose contributions to the gradient are computed together, while the records are in a core's L1
# or L2 cache.
RECORDS_PER_PRODUCT = 64


@inner_function
def repeat_steps(net, scheme, work, ts, step_log, checkpoints, begin, stop, every, tape, size):
    """Repeat the steps from `begin` up to `stop`, exclusive, and write them to the tape, starting at its first row."""
    y, end = at(work, net[START]), at(work, net[END])
    copy_numbers(y, at(checkpoints, begin // every * scheme.n), scheme.n)
    first, row, have_slope = 0, 0, False
    for m in range(begin, stop):
        entry = at(step_log, LOG_COLUMNS * m)
        h = entry[END_TIME] - (entry[END_TIME - LOG_COLUMNS] if m > 0 else ts[0])
        extended = entry[LAST_ROW] - entry[SECOND_ROW] > scheme.stages - 1
        if not have_slope:
            first, row = row, row + 1
            evaluate(net, work, y, scheme.k, at(tape, first * size))
        record = at(tape, row * size)
        advance(net, scheme, work, h, y, end, record, size)
        if extended:
            extend(net, scheme, work, y, end, record, size)
        stages = scheme.total if extended else scheme.stages
        entry[FIRST_ROW], entry[SECOND_ROW], entry[LAST_ROW] = first, row, row + stages - 1
        y, end = end, y
        have_slope = 0 <= scheme.end_stage < stages
        first, row = row + scheme.end_stage - 1, row + stages - 1
        if have_slope:
            copy_numbers(scheme.k, at(scheme.k, scheme.end_stage * scheme.lead), scheme.lead)


@kernel
def adjoint_sweep(
    plan, theta, ts, accepted, taped, every, record, buffers, cotangents, wants_parameters, sources=SOURCES
):
    """Return the gradients with respect to the initial state (n,) and `theta` (in the same layout), and the buffers.

    `cotangents` (T, n) are the cotangents of the states; `record` comes from the forward solve. If the tape is
    complete, `buffers` must be unchanged since the forward solve; they are overwritten.
    """
    (table, scales, coefficients, interpolant), (step_log, checkpoints), (work, tape) = plan, record, buffers
    net, steps = pointer(table), pointer(step_log)
    if work.size < net[WORK]:
        work = aligned(net[WORK], work)
    memory = pointer(work)
    scheme = make_scheme(net, pointer(coefficients), pointer(interpolant), memory, lanes(work))
    n, total, lead, bars, start = scheme.n, scheme.total, scheme.lead, scheme.bars, at(memory, net[START])
    samples, size = net[SAMPLES], net[SAMPLES] * net[RECORD]
    direction = 1.0 if ts[-1] > ts[0] else -1.0
    block = accepted
    if not taped:
        zero(memory, net[WORK])
        load_parameters(net, memory, pointer(scales), pointer(theta))
        block = every * max(1, REPEATED_TAPE_NUMBERS // (size * total * every))
        needed = (min(block, accepted) * total + 1) * size
        tape = tape if tape.size >= needed else aligned(needed, work)
    records = pointer(tape)
    zero(bars, total * lead)
    zero(scheme.argument_bars, lead)
    one = at(memory, net[ONE])
    one[0] = 1

    j = ts.size - 1
    begin = (accepted - 1) // block * block
    stop = accepted
    while stop > 0:
        if not taped:
            repeat_steps(
                net, scheme, memory, pointer(ts), steps, pointer(checkpoints), begin, stop, every, records, size
            )
        high = int(at(steps, LOG_COLUMNS * (stop - 1))[LAST_ROW])
        for m in range(stop - 1, begin - 1, -1):
            entry = at(steps, LOG_COLUMNS * m)
            t, t_end = entry[END_TIME - LOG_COLUMNS] if m > 0 else ts[0], entry[END_TIME]
            first, second, last = int(entry[FIRST_ROW]), int(entry[SECOND_ROW]), int(entry[LAST_ROW])
            h = t_end - t
            zero(start, lead)
            while j > 0 and direction * ts[j] > direction * t:
                cotangent = at(pointer(cotangents), j * n)
                if ts[j] == t_end:
                    for i in range(n):
                        scheme.argument_bars[i] += cotangent[i]
                else:
                    set_interpolant_weights(scheme, (ts[j] - t) / h, h)
                    for i in range(n):
                        start[i] += cotangent[i]
                    for stage in range(total):
                        weight, bar = scheme.mix[stage], at(bars, stage * lead)
                        for i in range(n):
                            bar[i] += weight * cotangent[i]
                j -= 1
            extended = last - second > scheme.stages - 1
            step_back(net, scheme, memory, h, extended, start, at(records, second * size), size)
            # The first stage is either the slope at the end of the previous step or a separate evaluation.
            if m > begin and first < int(entry[LAST_ROW - LOG_COLUMNS]):
                zero(at(bars, lead), (total - 1) * lead)
                copy_numbers(at(bars, scheme.end_stage * lead), bars, lead)
                zero(bars, lead)
                low = second
            else:
                vjp(net, memory, at(records, first * size), bars, start, start)
                zero(bars, total * lead)
                low = first
            copy_numbers(scheme.argument_bars, start, lead)
            if wants_parameters and ((high - low) * samples >= RECORDS_PER_PRODUCT or m == begin):
                add_gradient(net, memory, at(records, low * size), (high - low) * samples, one)
                high = low
        stop, begin = begin, begin - block

    y0_bar, gradient = np.empty(n, theta.dtype), np.empty(theta.size, theta.dtype)
    for i in range(n):
        y0_bar[i] = scheme.argument_bars[i] + cotangents[0, i]
    store_gradient(net, memory, pointer(scales), pointer(gradient))
    return y0_bar, gradient, (work, tape)  # the buffers are returned, since pointers alone would not keep them alive
