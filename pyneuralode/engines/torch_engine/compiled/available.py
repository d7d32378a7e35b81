"""Code shared by all compiled paths: when compiled code is available, what kernels take, and what status codes mean."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from ....arguments import real_array
from ....errors import SolverError
from ....gradients import OF_STEPS
from ....problem import Control, Problem
from ....problem.values import as_tensor
from ..march import bad_start_error, too_many_steps_error, too_small_step_error
from .march_codes import BAD_START, TOO_MANY, TOO_SMALL

log = logging.getLogger("pyneuralode")


@cache
def compiled(*modules: str) -> tuple[ModuleType, ...] | None:
    """Import modules of compiled functions; if Numba does not work, log one message and return None."""
    try:
        return tuple(import_module(module) for module in modules)
    except (ImportError, OSError, AttributeError) as error:
        log.info("compiled solves need Numba, which cannot be imported (%s): solving without compiled code", error)
        return None


def unsuitable(problem: Problem, differentiated: bool) -> str | None:
    """Return a reason, independent of field and solver, why compiled code cannot solve a problem, or None.

    `differentiated` says whether anything other than the times is differentiated. Compiled code would lose forward-mode
    tangents.
    """
    signature = problem.signature
    if not problem.compiled:
        return "compiled is False: omit it to use compiled code."
    if problem.dense or problem.events:
        return f"{'dense is True' if problem.dense else 'events are given'}: use compiled=False."
    if differentiated and not isinstance(problem.gradient, OF_STEPS):
        return f"gradient is {type(problem.gradient).__name__!r}: use 'Backprop' or 'Checkpointed' with compiled code."
    if signature.device.type != "cpu":
        return f"y0 is on {signature.device}: move it to the CPU for compiled solves."
    if signature.dtype not in (torch.float64, torch.float32):
        return f"y0 is {signature.dtype}: use float64 or float32 for compiled solves."
    if signature.tangents:
        return "compiled code does not propagate the tangents of forward-mode differentiation: use compiled=False."
    return None


def without_numba(kernels: tuple[ModuleType, ...] | None) -> str | None:
    """Return the reason why there are no kernels, or None. Check this last, since loading the kernels imports Numba."""
    if kernels is None:
        return "compiled solves need Numba, which cannot be imported: install it, or use compiled=False."
    return None


def floating(name: str, value: Any) -> np.ndarray:
    """Return an array or CPU tensor as a floating-point array; no copy is made if its dtype is floating-point."""
    if type(value) is np.ndarray and value.dtype.kind == "f":
        return value
    return as_tensor(name, value).detach().numpy() if isinstance(value, Tensor) else real_array(name, value)


def flat_parameters(parameters: Mapping[str, Any], names: Iterable[str], dtype: DTypeLike) -> np.ndarray:
    """Return the parameters concatenated into one flat array."""
    arrays = [floating(name, parameters[name]).reshape(-1) for name in names]
    return np.concatenate(arrays, dtype=dtype) if arrays else np.empty(0, dtype)


def wants_gradient(*tensors: Tensor) -> bool:
    """Return whether autograd should record operations on the tensors."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def run(kernel: Callable, *arguments: Any) -> tuple:
    """Run a kernel; while it compiles, garbage collection is off, since it would take a quarter of the time."""
    if kernel.overloads or not gc.isenabled():
        return kernel(*arguments)
    gc.disable()
    try:
        return kernel(*arguments)
    finally:
        gc.enable()


def march_controls(control: Control, *flags: float) -> np.ndarray:
    """Return the `controls` of a solve (see .march_codes); the first of `flags` says whether its steps are adaptive."""
    limits = control.first_step or 0.0, control.min_step, control.max_step, control.max_steps
    return np.array([*limits, *flags], dtype=float)


def march_error(status: int, t: float, size: float, control: Control) -> SolverError:
    """Return the error for a solve that failed at time t with a step of the given size."""
    if status == BAD_START:
        return bad_start_error(t)
    if status == TOO_MANY:
        return too_many_steps_error(control, t, size)
    return too_small_step_error(control, t, size, finite=status == TOO_SMALL)
