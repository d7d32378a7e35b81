"""Peak memory of one gradient as a function of the number of steps or layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..engines.torch_engine.memory import PeakMemory
from ..progress import ProgressTask

Peaks = dict[str, list[float]]  # bytes, by name and by count


def peak_memory(
    models: Mapping[str, Callable[[int], Callable[[], Tensor]]],
    counts: Sequence[int],
    task: ProgressTask,
    unit: str = "",
) -> Peaks:
    """Return the peak memory (bytes) of one gradient of every model, for each number of steps or layers.

    ``models[name](count)`` returns a function that computes the output, whose sum is differentiated; only the memory
    allocated by that function and by the backward pass is counted.
    """
    peaks: Peaks = {name: [] for name in models}
    for name, model in models.items():
        for count in counts:
            forward = model(count)
            with PeakMemory() as memory:
                forward().sum().backward()
            peaks[name].append(float(memory.peak))
            task.advance(1, f"{name}, {count}{unit}")
    return peaks


def memory_growth(counts: Sequence[int], peaks: Peaks, state: int) -> dict[str, float]:
    """Return the increase of the peaks per additional step or layer, in units of `state` bytes, by name."""
    return {name: (peak[-1] - peak[0]) / (counts[-1] - counts[0]) / state for name, peak in peaks.items()}
