"""`odeint_dense` of torchdiffeq 0.2.5: the solution as a function of time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import kind_of
from .adaptive import AdaptiveMarch
from .errors import InvalidArgumentError
from .problem import prepare
from .tableaus import ADAPTIVE


def odeint_dense(
    func: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    t0: Tensor,
    t1: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[[Tensor], Tensor]:
    """Solve from t0 to t1 with "dopri5" and return the state as a function of time, like torchdiffeq 0.2.5.

    Parameters
    ----------
    func, y0, rtol, atol, options
        As in `odeint`; y0 is a tensor.
    t0 : tensor with one element
        Time of y0.
    t1 : tensor with one element, or number
        The other end of the time span, later or earlier than t0.
    method : str, optional
        "dopri5", the only method that torchdiffeq supports here.

    Returns
    -------
    ``state(t)`` for a tensor t of times between t0 and t1, which returns (*t.shape, *y0.shape) from the method's
    interpolant. It can be differentiated with respect to y0, the tensors that func depends on, and t. (In torchdiffeq,
    it accepts a single time and, after a solve toward earlier times, the negative of the time.)

    Raises
    ------
    ArgumentError, SolverError
        As in `odeint`; also an ArgumentError if ``state`` is called with a time outside the time span.
    """
    if not isinstance(y0, Tensor):
        raise InvalidArgumentError(f"y0 is {kind_of(y0)}: give a tensor.")
    if method not in (None, "dopri5"):
        raise InvalidArgumentError(f"method is {method!r}, which odeint_dense does not support: use 'dopri5'.")
    if not isinstance(t0, Tensor):
        raise InvalidArgumentError(f"t0 is {kind_of(t0)}: give a tensor with one time, such as torch.tensor(0.0).")
    times = torch.stack([torch.as_tensor(t).detach().to(t0).reshape(()) for t in (t0, t1)])
    problem = prepare(func, y0, times, rtol, atol, method, options, None)
    direction, (start, end) = problem.slope.direction, problem.times.tolist()
    march, steps = AdaptiveMarch(problem, ADAPTIVE[problem.method], start), []
    march.reach(end, lambda: steps.append(march.step))
    ends = [step.t_end for step in steps]

    def state(t: Tensor) -> Tensor:
        moments = direction * torch.as_tensor(t, dtype=problem.time_dtype, device=y0.device).reshape(-1)
        states = []
        for moment, at in zip(moments.unbind(), moments.tolist()):
            if not start <= at <= end:
                first, last = direction * start, direction * end
                raise InvalidArgumentError(
                    f"t is {direction * at:g}, outside the solved time span, {first:g} to {last:g}: choose a time inside it."
                )
            step = steps[bisect_left(ends, at)]
            states.append(step.at(((moment - step.t) / (step.t_end - step.t))[None])[0])
        return torch.stack(states).reshape(torch.Size([*torch.as_tensor(t).shape, *y0.shape]))

    return state
