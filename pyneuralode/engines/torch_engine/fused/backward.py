"""The exact adjoint of the solve in compiled code: the accepted steps, differentiated last to first."""

import numpy as np

from .kernels import SOURCES, kernel, maker
from .network import add_gradient, evaluate, make_net, pull_back
from .plan import COMPARTMENTS, KIND, SLOPES_WIDTH, VALUES_WIDTH, WIDTH
from .steps import add_to_stages, extend, make_scheme, step_back, take, weigh
from .vectors import aligned, copy, fill

# Numbers of tape that steps taken again may fill at once: what fits in a core's cache.
REPLAY_ROOM = 1 << 18


@maker
def replay(net, scheme, times, places, kept, begin, stop, every, local, values, slopes):
    """Take the steps from `begin` to `stop` again, writing their tape from its first row on."""
    n, stages, all_stages, end_stage = scheme.n, scheme.stages, len(scheme.rows), scheme.end_stage
    y, end = aligned(scheme.padded, values), aligned(scheme.padded, values)
    fill(y, 0)
    copy(y, kept[begin // every], n)
    start = np.intp(0)
    first, row, have_slope = start, start, False
    for m in range(begin, stop):
        h = times[m + 1] - times[m]
        extended = places[m, 2] - places[m, 1] > stages - 1
        if not have_slope:
            first, row = row, row + 1
            evaluate(net, y, scheme.k, start, values, slopes, first)
        take(net, scheme, h, y, end, values, slopes, row)
        last = row + stages - 1
        if extended:
            extend(net, scheme, h, y, end, values, slopes, row)
            last = row + all_stages - 1
        local[m - begin, 0], local[m - begin, 1], local[m - begin, 2] = first, row, last
        y, end = end, y
        have_slope = 0 <= end_stage < (all_stages if extended else stages)
        first, row = row + end_stage - 1, last
        if have_slope:
            for i in range(n):
                scheme.k[i] = scheme.k[end_stage * scheme.padded + i]


@kernel
def sweep(head, layers, scales, theta, ts, rows, ends, interpolant, numbers, accepted, times, kept, places,
          values, slopes, taped, every, cotangents, wants_parameters, sources=SOURCES):
    """Return the gradients with respect to the initial state (n,) and the parameters (as `theta`).

    `cotangents` (T, n) are those of the states; the tape is used up.
    """
    n = cotangents.shape[1]
    samples = n // layers[0, WIDTH]
    net = make_net(head, layers, scales, theta, samples)
    scheme = make_scheme(rows, ends, interpolant, numbers, kept[0])
    stages, all_stages, padded = scheme.stages, len(scheme.rows), scheme.padded
    gradient, rates = np.zeros(theta.size, theta.dtype), np.zeros(3)
    bars, end_bar, y_bar = aligned(all_stages * padded, theta), aligned(padded, theta), aligned(padded, theta)
    output, unit = aligned(padded, theta), np.ones(1, theta.dtype)
    fill(output, 0)
    start = np.intp(0)  # a plain 0 would compile a version of its own
    fill(end_bar, 0)
    direction = 1.0 if ts[-1] > ts[0] else -1.0

    block = accepted
    if not taped:
        width = samples * (head[VALUES_WIDTH] + head[SLOPES_WIDTH])
        block = every * max(1, REPLAY_ROOM // (width * all_stages * every))
        capacity = min(block, accepted) * all_stages + 1
        values = aligned(capacity * samples * head[VALUES_WIDTH], theta)
        slopes = aligned(capacity * samples * head[SLOPES_WIDTH], theta)
        local = np.empty((min(block, accepted), 3), np.int64)
    else:
        local = places

    j = ts.size - 1
    begin = (accepted - 1) // block * block
    stop = accepted
    while stop > 0:
        if not taped:
            replay(net, scheme, times, places, kept, begin, stop, every, local, values, slopes)
        fill(bars, 0)
        for m in range(stop - 1, begin - 1, -1):
            place = local[m - begin]
            t, t_end = times[m], times[m + 1]
            h = t_end - t
            fill(y_bar, 0)
            while j > 0 and direction * ts[j] > direction * t:
                if ts[j] == t_end:
                    for i in range(n):
                        end_bar[i] += cotangents[j, i]
                else:
                    for i in range(n):
                        output[i] = cotangents[j, i]
                        y_bar[i] += cotangents[j, i]
                    weigh(scheme, (ts[j] - t) / h, h)
                    add_to_stages(scheme, bars, output, all_stages)
                j -= 1
            extended = place[2] - place[1] > stages - 1
            step_back(net, scheme, h, extended, bars, end_bar, y_bar, values, slopes, place[1], rates)
            # The first stage is either the last step's slope at its end, or an evaluation of its own.
            if m > begin and place[0] < local[m - begin - 1, 2]:
                for i in range(padded):
                    first_bar = bars[i]
                    for stage in range(all_stages):
                        bars[stage * padded + i] = 0
                    bars[scheme.end_stage * padded + i] = first_bar
            else:
                pull_back(net, bars, start, y_bar, values, slopes, place[0], rates)
                fill(bars, 0)
            end_bar, y_bar = y_bar, end_bar
        if wants_parameters:
            add_gradient(net, values, slopes, samples * local[stop - begin - 1, 2], gradient, unit)
        stop, begin = begin, begin - block

    for i in range(n):
        end_bar[i] += cotangents[0, i]
    if head[KIND] == COMPARTMENTS:
        for i in range(3):
            gradient[i] = rates[i]
    y0_bar = np.empty(n, theta.dtype)
    copy(y0_bar, end_bar, n)
    return y0_bar, gradient
