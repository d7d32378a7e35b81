"""Selection of the data rows for each update of a training run."""

from __future__ import annotations

import numpy as np


class ShuffledBatches:
    """Batches of `batch` rows out of `count`, shuffled in every epoch by a generator seeded with `seed` and the epoch.

    An epoch uses each row at most once: leftover rows that do not fill a batch are skipped.
    """

    def __init__(self, count: int, batch: int, *seed: int):
        self.count, self.batch, self.seed = count, batch, seed
        self.each_epoch = count // batch
        self._epoch, self._order = -1, np.empty(0, dtype=int)

    def __call__(self, update: int) -> np.ndarray:
        """Return the row indices (batch,) of an update; updates are counted from 0."""
        epoch, k = divmod(update, self.each_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((*self.seed, epoch)).permutation(self.count)
        return self._order[k * self.batch : (k + 1) * self.batch]
