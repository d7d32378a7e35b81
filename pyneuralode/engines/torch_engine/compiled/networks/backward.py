"""The exact adjoint of the solve in compiled code: the accepted steps, differentiated last to first."""

import numpy as np

from ..compilation import inner_function, kernel
from ..llvm_codegen import at, pointer
from ..products import copy_numbers, zero
from ..vectors import aligned, lanes
from .compilation import SOURCES
from .forward import ENTRIES, FINAL, FIRST, SECOND, TIME
from .network import add_gradient, evaluate, load_parameters, pull_back, store_gradient
from .plan import END, ONE, RECORD, SAMPLES, START, WORK
from .steps import advance, extend, make_scheme, step_back, weigh

# Numbers of tape that steps taken again may fill at once: what fits in a core's cache.
REPLAY_ROOM = 1 << 18
# Records whose part of the gradient is taken at once, while they are in a core's nearer caches.
RECORDS_AT_ONCE = 64


@inner_function
def replay(net, scheme, work, ts, journal, kept, begin, stop, every, tape, size):
    """Take the steps from `begin` to `stop` again, writing their tape from its first row on."""
    y, end = at(work, net[START]), at(work, net[END])
    copy_numbers(y, at(kept, begin // every * scheme.n), scheme.n)
    first, row, have_slope = 0, 0, False
    for m in range(begin, stop):
        entry = at(journal, ENTRIES * m)
        h = entry[TIME] - (entry[TIME - ENTRIES] if m > 0 else ts[0])
        extended = entry[FINAL] - entry[SECOND] > scheme.stages - 1
        if not have_slope:
            first, row = row, row + 1
            evaluate(net, work, y, scheme.k, at(tape, first * size))
        record = at(tape, row * size)
        advance(net, scheme, work, h, y, end, record, size)
        if extended:
            extend(net, scheme, work, y, end, record, size)
        stages = scheme.total if extended else scheme.stages
        entry[FIRST], entry[SECOND], entry[FINAL] = first, row, row + stages - 1
        y, end = end, y
        have_slope = 0 <= scheme.end_stage < stages
        first, row = row + scheme.end_stage - 1, row + stages - 1
        if have_slope:
            copy_numbers(scheme.k, at(scheme.k, scheme.end_stage * scheme.lead), scheme.lead)


@kernel
def sweep(
    table,
    scales,
    coefficients,
    interpolant,
    theta,
    ts,
    accepted,
    taped,
    every,
    journal,
    kept,
    work,
    tape,
    cotangents,
    wants_parameters,
    sources=SOURCES,
):
    """Return the gradients with respect to the initial state (n,) and the parameters (as `theta`), and the tape's memory.

    `cotangents` (T, n) are those of the states. With the tape whole, `work` and `tape` are as the march left them; they
    are used up.
    """
    net, memory, steps = pointer(table), pointer(work), pointer(journal)
    scheme = make_scheme(net, pointer(coefficients), pointer(interpolant), memory, lanes(work))
    n, total, lead, bars, start = scheme.n, scheme.total, scheme.lead, scheme.bars, at(memory, net[START])
    samples, size = net[SAMPLES], net[SAMPLES] * net[RECORD]
    direction = 1.0 if ts[-1] > ts[0] else -1.0
    block = accepted
    if not taped:
        zero(memory, net[WORK])
        load_parameters(net, memory, pointer(scales), pointer(theta))
        block = every * max(1, REPLAY_ROOM // (size * total * every))
        room = (min(block, accepted) * total + 1) * size
        tape = tape if tape.size >= room else aligned(room, work)
    records = pointer(tape)
    zero(bars, total * lead)
    zero(scheme.pushes, lead)
    one = at(memory, net[ONE])
    one[0] = 1

    j = ts.size - 1
    begin = (accepted - 1) // block * block
    stop = accepted
    while stop > 0:
        if not taped:
            replay(net, scheme, memory, pointer(ts), steps, pointer(kept), begin, stop, every, records, size)
        high = int(at(steps, ENTRIES * (stop - 1))[FINAL])
        for m in range(stop - 1, begin - 1, -1):
            entry = at(steps, ENTRIES * m)
            t, t_end = entry[TIME - ENTRIES] if m > 0 else ts[0], entry[TIME]
            first, second, last = int(entry[FIRST]), int(entry[SECOND]), int(entry[FINAL])
            h = t_end - t
            zero(start, lead)
            while j > 0 and direction * ts[j] > direction * t:
                cotangent = at(pointer(cotangents), j * n)
                if ts[j] == t_end:
                    for i in range(n):
                        scheme.pushes[i] += cotangent[i]
                else:
                    weigh(scheme, (ts[j] - t) / h, h)
                    for i in range(n):
                        start[i] += cotangent[i]
                    for stage in range(total):
                        weight, bar = scheme.mix[stage], at(bars, stage * lead)
                        for i in range(n):
                            bar[i] += weight * cotangent[i]
                j -= 1
            extended = last - second > scheme.stages - 1
            step_back(net, scheme, memory, h, extended, start, at(records, second * size), size)
            # The first stage is either the last step's slope at its end, or an evaluation of its own.
            if m > begin and first < int(entry[FINAL - ENTRIES]):
                zero(at(bars, lead), (total - 1) * lead)
                copy_numbers(at(bars, scheme.end_stage * lead), bars, lead)
                zero(bars, lead)
                low = second
            else:
                pull_back(net, memory, at(records, first * size), bars, start, start)
                zero(bars, total * lead)
                low = first
            copy_numbers(scheme.pushes, start, lead)
            if wants_parameters and ((high - low) * samples >= RECORDS_AT_ONCE or m == begin):
                add_gradient(net, memory, at(records, low * size), (high - low) * samples, one)
                high = low
        stop, begin = begin, begin - block

    y0_bar, gradient = np.empty(n, theta.dtype), np.empty(theta.size, theta.dtype)
    for i in range(n):
        y0_bar[i] = scheme.pushes[i] + cotangents[0, i]
    store_gradient(net, memory, pointer(scales), pointer(gradient))
    return y0_bar, gradient, tape  # which pointers alone would not keep alive
