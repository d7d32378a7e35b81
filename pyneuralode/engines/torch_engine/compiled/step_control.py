"""Step size control in compiled solves: the formulas of torch_engine.step_size, and decisions shared by all solves."""

import numpy as np

from .. import step_size
from .compilation import inner_function
from .march_codes import DONE, MAX_STEP, MAX_STEPS, MIN_STEP, NOT_FINITE, TOO_MANY, TOO_SMALL

size_after_step = inner_function(step_size.size_after_step)
initial_step_size = inner_function(step_size.initial_step_size)
_size_after_rejection = inner_function(step_size.size_after_rejection)
_trial_step_size = inner_function(step_size.trial_step_size)


@inner_function
def smallest_step(t):
    """Return the smallest step size allowed at time t, a few spacings of the floating-point numbers around t."""
    return step_size.MIN_STEP_SPACINGS * np.spacing(abs(t))


@inner_function
def trial_step_size(t, d0, d1, span):
    """Return the size of an Euler step from t that measures the curvature, given the norms of state and slope."""
    return _trial_step_size(d0, d1, span, smallest_step(t))


@inner_function
def next_step(t, stop, size, taken, controls):
    """Return the status, and the size and end time of the step after `taken` steps, which does not go beyond `stop`."""
    if taken >= controls[MAX_STEPS]:
        return TOO_MANY, size, t
    size = max(min(size, controls[MAX_STEP]), controls[MIN_STEP], smallest_step(t))
    if size >= abs(stop - t):
        return DONE, size, stop
    return DONE, size, t + (size if stop > t else -size)


@inner_function
def reject_step(t, h, size, error, exponent, controls):
    """Return the status after a rejected step of `size`, which was shortened to `h`, and the size to try next.

    The status is DONE if a smaller step may be tried.
    """
    finite = np.isfinite(error)
    shorter = _size_after_rejection(h, error, finite, exponent)
    if min(size, abs(h)) > max(controls[MIN_STEP], smallest_step(t)):
        return DONE, shorter
    return (TOO_SMALL if finite else NOT_FINITE), shorter


@inner_function
def combine_dop853_errors(fifth, third):
    """Return the error estimate of Hairer's dop853: the fifth-order estimate, corrected by the third-order estimate."""
    return fifth**2 / np.sqrt(fifth**2 + 0.01 * third**2) if fifth != 0 else fifth
