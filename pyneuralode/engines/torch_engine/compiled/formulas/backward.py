"""The exact adjoint of compiled solves: the accepted steps, differentiated from last to first."""

import numpy as np

from .adjoint import step_back
from .arrays import add, copy, fill
from .compilation import SOURCES, kernel
from .machine import make_machine, set_parameters
from .steps import make_scheme


@kernel
def adjoint_sweep(field, theta, times, counts, tape, cotangents, sources=SOURCES):
    """Return the gradients with respect to the initial states (systems, n) and each system's parameters.

    The other arguments are arguments and results of `forward.march`; the tape must contain the stages of all steps.
    `cotangents` (all times, n) are the cotangents of the states.
    """
    (program, method, second_method), (ts, parts), (spans, checkpoints, stages) = field, times, tape
    systems, n = len(parts) - 1, cotangents.shape[1]
    machine, start = make_machine(program), make_machine(program)
    samples = n // machine.dim
    primary, secondary = make_scheme(method, machine.dim, samples), make_scheme(second_method, machine.dim, samples)
    y0_bar, theta_bar = np.empty((systems, n)), np.zeros((systems, theta.shape[1]))
    end_bar, y_bar, k_bar = np.empty(n), np.empty(n), np.empty((stages.shape[2], machine.dim))
    step = 0
    for i in range(systems):
        set_parameters(machine, theta, i if len(theta) > 1 else 0)
        set_parameters(start, theta, i if len(theta) > 1 else 0)
        first, j, accepted = parts[i], parts[i + 1] - 1, counts[i, 1]
        direction = 1.0 if ts[j] > ts[first] else -1.0
        fill(end_bar, 0.0)
        for m in range(step + accepted - 1, step - 1, -1):
            t, t_end, stop = spans[m, 0], spans[m, 1], j + 1
            while j > first and direction * ts[j] > direction * t:
                if ts[j] == t_end:
                    add(end_bar, cotangents[j])
                j -= 1
            scheme = secondary if spans[m, 2] != 0 else primary
            y, k, some = checkpoints[m], stages[m], slice(j + 1, stop)
            step_back(
                machine, start, scheme, t, t_end, y, k, ts[some], cotangents[some], end_bar, y_bar, k_bar, theta_bar[i]
            )
            end_bar, y_bar = y_bar, end_bar
        copy(y0_bar[i], end_bar)
        add(y0_bar[i], cotangents[first])
        step += accepted
    return y0_bar, theta_bar
