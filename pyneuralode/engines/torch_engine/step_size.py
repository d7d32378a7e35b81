"""Step size control and the first step size, in plain arithmetic shared by the torch code and the compiled code.

Sizes follow a proportional-integral controller (Gustafsson 1991) with the exponents 0.7/k and 0.4/k, where k - 1 is the
order of the error estimate. The first step size follows Hairer, Norsett and Wanner, Solving Ordinary Differential
Equations I, section II.4. No step is smaller than the floating-point resolution of the time allows: see
`MIN_STEP_SPACINGS`.
"""

import math

SAFETY, MIN_FACTOR, MAX_FACTOR = 0.9, 0.2, 10.0
# The largest first step, as a multiple of the trial step: 100 trial steps are the time in which the state would change
# by its own size. With a step of this size and y' = -k y, the error estimate of BS3, the only method of order 3, is
# zero regardless of the error, so the limit for order 3 is half as large.
MAX_TRIAL_STEPS, MAX_TRIAL_STEPS_ORDER_3 = 100, 50
# The largest trial step, as a fraction of the span, if the norms of state and slope do not determine the time scale.
DEFAULT_TRIAL_FRACTION = 1e-4
# The smallest step, in spacings of the floating-point numbers around t, for which the times of the stages are still
# distinct.
MIN_STEP_SPACINGS = 10


def size_after_rejection(h, error, finite, k):
    """Return the size of the step to try instead of `h`, whose error is above 1 or not finite."""
    factor = SAFETY * error ** (-1 / k) if finite else MIN_FACTOR
    return abs(h) * max(MIN_FACTOR, factor)


def size_after_step(h, size, error, previous, growth, k):
    """Return the size of the step after `h`, whose error is `error`; `previous` is the error of the previous step.

    `size` is the size that the step would have had if it had not been shortened to end at a given time.
    """
    factor = SAFETY * max(error, 1e-10) ** (-0.7 / k) * previous ** (0.4 / k)
    following = abs(h) * min(growth, max(MIN_FACTOR, factor))
    return max(following, size) if factor >= 1 else following


def trial_step_size(d0, d1, span, smallest):
    """Return the size of a trial Euler step, which measures the curvature, from the norms of state and slope."""
    blind = min(1e-6, DEFAULT_TRIAL_FRACTION * abs(span))
    trial = blind if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    return min(max(trial, smallest), abs(span))  # the field may be undefined outside the span


def initial_step_size(trial, d1, d2, order):
    """Return the first step size, from the norms of the slope and of its rate of change over the trial step."""
    largest = max(d1, d2)
    second = max(1e-6, trial * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1 / (order + 1))
    size = min((MAX_TRIAL_STEPS_ORDER_3 if order == 3 else MAX_TRIAL_STEPS) * trial, second)
    return size if math.isfinite(size) else trial
