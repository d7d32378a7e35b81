"""The choice of steps in compiled marches: that of ..step_size, and what else every such march does alike."""

import numpy as np

from .. import step_size
from .kernels import part
from .plan import DONE, MAX_STEP, MAX_STEPS, MIN_STEP, NOT_FINITE, TOO_MANY, TOO_SMALL

size_after_rejection = part(step_size.size_after_rejection)
size_after_step = part(step_size.size_after_step)
trial_size = part(step_size.trial_size)
size_to_begin = part(step_size.size_to_begin)


@part
def next_step(t, t_last, size, finite, taken, controls):
    """Return whether a step may be taken after `taken` ones (the status), its size, and where it ends."""
    if taken >= controls[MAX_STEPS]:
        return TOO_MANY, size, t
    size = min(size, controls[MAX_STEP])
    smallest = max(controls[MIN_STEP], 10 * np.spacing(abs(t)))
    remaining = abs(t_last - t)
    if size < smallest and size < remaining:
        return TOO_SMALL if finite else NOT_FINITE, size, t
    if size >= remaining:
        return DONE, size, t_last
    return DONE, size, t + (size if t_last > t else -size)


@part
def join_estimates(fifth, third):
    """Return Hairer's dop853: the fifth-order estimate, corrected by the third-order one."""
    return fifth**2 / np.sqrt(fifth**2 + 0.01 * third**2) if fifth != 0 else fifth
