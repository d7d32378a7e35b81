"""What every compiled path shares with Python: whether it is there, and what its ends mean."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ....errors import SolverError
from ....problem import Control
from ..march import bad_start_error, too_many_steps_error, too_small_step_error
from ..tangents import has_tangent
from .march_codes import BAD_START, TOO_MANY, TOO_SMALL

log = logging.getLogger("pyneuralode")


@cache
def compiled(*modules: str) -> tuple[ModuleType, ...] | None:
    """Return modules of compiled functions, or None, said once in the log, where Numba does not run."""
    try:
        return tuple(import_module(module) for module in modules)
    except (ImportError, OSError, AttributeError) as error:
        log.info("the compiled path needs Numba, which does not start here (%s): solving without it", error)
        return None


def readable(*tensors: Tensor) -> bool:
    """Return whether compiled code can read the tensors, and loses no tangents of forward-mode differentiation by it."""
    return all(
        x.device.type == "cpu" and x.dtype in (torch.float64, torch.float32) and not has_tangent(x) for x in tensors
    )


def wants_gradient(*tensors: Tensor) -> bool:
    """Return whether autograd is to record what is computed from the tensors."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def run(kernel: Callable, *arguments: Any) -> tuple:
    """Run a kernel; while it compiles, without the garbage collector, which would take a quarter of the time."""
    if kernel.overloads or not gc.isenabled():
        return kernel(*arguments)
    gc.disable()
    try:
        return kernel(*arguments)
    finally:
        gc.enable()


def march_error(status: int, t: float, size: float, control: Control) -> SolverError:
    """Return the error for a march that ended with a step of this size at time t."""
    if status == BAD_START:
        return bad_start_error(t)
    if status == TOO_MANY:
        return too_many_steps_error(control, t, size)
    return too_small_step_error(control, t, size, finite=status == TOO_SMALL)
