"""Learning rates as functions of the index of the update."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class OneCycle:
    """A learning rate that increases linearly to `peak`, then decays to 0 along a cosine.

    The increase takes a fraction `rise` of the updates. Use an instance as the `schedule` of `stochastic.train` or of a
    flow's `fit`.

    References
    ----------
    Smith and Topin 2019, Super-convergence: very fast training of neural networks using large learning rates.

    Examples
    --------
    >>> from pyneuralode.fitting.schedules import OneCycle
    >>> [round(OneCycle(0.1, updates=20)(update), 4) for update in (0, 1, 19)]
    [0.05, 0.1, 0.0]
    """

    peak: float
    updates: int
    rise: float = 0.1

    def __call__(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        part = (update + 1) / self.updates
        if part < self.rise:
            return self.peak * part / self.rise
        return self.peak * (0.5 + 0.5 * math.cos(math.pi * (part - self.rise) / (1 - self.rise)))


@dataclass(frozen=True)
class StepDecay:
    """A learning rate that starts at `rate` and is multiplied by `factor` at each update in `at`, counted from 0."""

    rate: float
    at: tuple[int, ...]
    factor: float = 0.1

    def __call__(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        return self.rate * self.factor ** sum(update >= drop for drop in self.at)
