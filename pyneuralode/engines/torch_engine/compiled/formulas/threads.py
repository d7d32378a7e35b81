"""Work on many systems in several threads, which run in parallel since kernels release the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

# The number of parts per thread: more than one, since systems take different amounts of time.
PARTS = 4


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="pyneuralode")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # the threads do not exist in a forked process


def over_threads(work: Callable, count: int, parts: list[slice] | None = None) -> tuple[list[slice], list]:
    """Divide `count` systems into parts and call `work` for each part in threads; return the parts and the results.

    If `parts` is given, these parts are used. The number of threads is the one set by `torch.set_num_threads`.
    """
    if count == 1:
        return [slice(0, 1)], [work(slice(0, 1))]
    threads = torch.get_num_threads()
    if parts is None:
        number = 1 if threads == 1 else min(PARTS * threads, count)
        parts = [slice(count * i // number, count * (i + 1) // number) for i in range(number)]
    results, waiting = [None] * len(parts), iter(range(len(parts)))

    def take_parts() -> None:
        for i in waiting:
            results[i] = work(parts[i])

    others = [_pool().submit(take_parts) for _ in range(min(threads, len(parts)) - 1)]
    take_parts()
    for other in others:
        other.result()
    return parts, results
