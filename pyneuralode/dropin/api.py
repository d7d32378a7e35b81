"""Three functions with the interface of torchdiffeq 0.2.5: `odeint`, `odeint_adjoint` and `odeint_event`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..engines.torch_engine.tangents import in_forward_mode, refuse_tangents
from ..errors import ArgumentError, unknown_name
from . import adaptive, fixed, scipy_solver
from .adjoint import Adjoint, make_backward_problem, parameters_of
from .event import attach_event_time, combine_components
from .layout import FlatLayout
from .problem import METHODS, FlatProblem, prepare
from .slope import FlatSlope
from .tableaus import ADAPTIVE

State = Tensor | tuple[Tensor, ...]


def odeint(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
) -> Any:
    """Solve dy/dt = func(t, y), y(t[0]) = y0, as torchdiffeq 0.2.5 does; autograd records the steps.

    Parameters
    ----------
    func : callable or torch.nn.Module
        ``func(t, y)``, where t is a tensor of shape () and y has the form of y0, returns dy/dt in the same form. Its
        optional attributes `callback_step`, `callback_accept_step` and `callback_reject_step` are called as
        ``callback(t, y, step size)``: before each step, and when an adaptive step is accepted or rejected.
    y0 : tensor of any shape, or tuple of tensors
        State at t[0], real or complex; the solve runs in its dtype.
    t : (T,) tensor
        Times, strictly increasing or decreasing. The solution can be differentiated with respect to them.
    rtol, atol : float, tensor, or one for each part of a tuple y0
        Tolerances for the error of adaptive steps.
    method : str
        By default "dopri5". Adaptive: "dopri8" (Prince and Dormand's 8(7)), "dopri5", "bosh3", "fehlberg2",
        "adaptive_heun". Fixed steps: "euler", "midpoint", "heun2", "heun3", "rk4" (Kutta's 3/8 rule),
        "explicit_adams", "implicit_adams" (also called "fixed_adams"). "scipy_solver" calls SciPy, without
        gradients. `explicit_adams` is unstable unless its steps are very short; see `dropin.adams`.
    options : dict
        See `dropin.options` for the options of each kind of method. An option that the method does not support
        is ignored, with a warning.
    event_fn : callable
        ``event_fn(t, y)`` returns a tensor; the solve ends where one of its components first crosses zero.
        t must then contain two times, of which the second only sets the direction.

    Returns
    -------
    Tensor (T, *y0.shape), or a tuple of such tensors for a tuple y0: the states at the times t. With
    event_fn, a pair: the event's time, and the states at t[0] and at the event.

    Raises
    ------
    ArgumentError
        If an argument is invalid. Where torchdiffeq raises an AssertionError or a TypeError, the error is also
        an instance of that class.
    SolverError
        If the step size of an adaptive solve underflows, the solve needs too many steps or its state becomes
        non-finite (also an AssertionError), or if no event is found.

    References
    ----------
    R. T. Q. Chen, torchdiffeq, version 0.2.5, 2024.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode import odeint
    >>> odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), method="rk4").shape
    torch.Size([2, 1])
    """
    problem = prepare(func, y0, t, rtol, atol, method, options, event_fn)
    return deliver(problem, solve(problem), t)


def odeint_adjoint(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """Solve like `odeint`, with gradients from a backward solve whose memory use does not grow with the number of steps.

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn
        As in `odeint`. Callbacks whose names end in `_adjoint` are called in the backward solve, with its
        state (gradient of time, y, adjoint, *gradients of adjoint_params).
    adjoint_rtol, adjoint_atol, adjoint_method : optional
        Tolerances and method of the backward solve; by default, those of the forward solve.
    adjoint_options : dict, optional
        Options of the backward solve; by default, `options` without its norm. Times in these options are given like
        those in t. The "norm" may be "seminorm", which leaves the parameters' gradients out of the error
        (Kidger et al. 2021), or a function of the tuple (gradient of time, y, adjoint, *gradients of
        adjoint_params).
    adjoint_params : iterable of tensors, optional
        Tensors that func depends on, with respect to which the solve is differentiated; by default, the parameters
        of func. Tensors that require no gradient are left out.

    Returns
    -------
    As in `odeint`. With event_fn, the event's time has its gradient (implicit function theorem), which is zero in
    torchdiffeq. The state at the event is differentiated as if that time were fixed, as in torchdiffeq; see
    `odeint_event`.

    Raises
    ------
    ArgumentError, SolverError
        As in `odeint`; also an ArgumentError if func is not a torch.nn.Module and adjoint_params is not given, or if
        adjoint_method differs from method while options are given only for the latter.

    References
    ----------
    R. T. Q. Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018; P. Kidger, R. T. Q. Chen, T.
    Lyons, "Hey, that's not an ODE", ICML 2021.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise ArgumentError(
            "adjoint_params is not given and func is not a torch.nn.Module: give the tensors with respect to "
            "which to differentiate, or () for none."
        )
    adjoint_method = method if adjoint_method is None else adjoint_method
    if adjoint_method not in (None, *METHODS):
        raise unknown_name("adjoint_method", adjoint_method, METHODS)
    if adjoint_method != method and options is not None and adjoint_options is None:
        raise ArgumentError(
            f"adjoint_method is {adjoint_method!r}, which differs from method, and options are given: give "
            "adjoint_options too."
        )
    if adjoint_options is None:
        adjoint_options = {name: value for name, value in (options or {}).items() if name != "norm"}
    parameters = parameters_of(func) if adjoint_params is None else list(adjoint_params)
    trainable = [p for p in parameters if p.requires_grad]
    if len(trainable) < len(parameters) and callable(adjoint_options.get("norm")):
        warnings.warn(
            "some adjoint_params do not require a gradient: they are left out of the backward solve and of the "
            "argument of adjoint_options['norm'].",
            stacklevel=2,
        )
    problem = prepare(func, y0, t, rtol, atol, method, options, event_fn)
    adjoint_rtol = rtol if adjoint_rtol is None else adjoint_rtol
    adjoint_atol = atol if adjoint_atol is None else adjoint_atol
    backward = partial(
        make_backward_problem, problem, adjoint_rtol, adjoint_atol, adjoint_method, dict(adjoint_options)
    )
    problem.slope.shift = None  # the gradient of the times comes from the backward solve
    if in_forward_mode():
        first = problem.slope(float(problem.times[0]), problem.y0)
        refuse_tangents("odeint_adjoint", "use odeint", problem.y0, problem.times, first, *parameters)
    solution = Adjoint.apply(solve, problem, backward, problem.y0, problem.times, *trainable)
    delivered = deliver(problem, solution, t)
    if problem.event is None or not torch.is_grad_enabled():
        return delivered
    when, _ = attach_event_time(problem.event.combined, problem.slope, delivered[0], solution[1][-1])
    return when, delivered[1]


def odeint_event(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable[[Tensor, Any], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Solve from t0 until an event, and connect the event's time to autograd.

    Parameters
    ----------
    func, y0
        As in `odeint`.
    t0 : tensor with one element
        Time of y0.
    event_fn : callable
        ``event_fn(t, y)``; the event is where one of its components first crosses zero.
    reverse_time : bool
        Whether to solve toward earlier times.
    odeint_interface : callable
        `odeint` or `odeint_adjoint`.
    **kwargs
        Other arguments of `odeint_interface`.

    Returns
    -------
    Time of the event, and the states at t0 and at the event, (2, *y0.shape) or a tuple of such tensors. All gradients
    account for changes of the event's time (implicit function theorem), also with respect to the parameters of
    event_fn, which torchdiffeq leaves out.

    Raises
    ------
    ArgumentError, SolverError
        As in `odeint`.

    References
    ----------
    R. T. Q. Chen, B. Amos, M. Nickel, Learning Neural Event Functions for Ordinary Differential Equations,
    ICLR 2021.
    """
    if not isinstance(t0, Tensor) or t0.numel() != 1:
        raise ArgumentError(f"t0 is {t0!r}: give a tensor with one time, such as torch.tensor(0.0).")
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    event_t, solution = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    parts = solution if isinstance(solution, tuple) else (solution,)
    refuse_tangents("odeint_event", "solve with pn.Event", *parts)
    if not torch.is_grad_enabled():
        return event_t, solution
    layout = FlatLayout(tuple(part.shape[1:] for part in parts), parts is solution)
    slope, combined = FlatSlope(func, layout, 1.0, parts[0]), combine_components(event_fn, t[0].detach(), y0)
    start, end = (torch.cat([part[i].reshape(-1) for part in parts]) for i in (0, 1))
    event_t, speed = attach_event_time(combined, slope, event_t.detach(), end)
    return event_t, layout.unpack(torch.stack([start, end + speed * (event_t - event_t.detach())]))


def solve(problem: FlatProblem) -> Any:
    """Solve, and return the states (T, n); with an event, return its internal time and the states (2, n)."""
    if problem.method == "scipy_solver":
        if problem.event is not None:
            raise ArgumentError(
                "method is 'scipy_solver', which does not support events: use another method, such as 'dopri5'."
            )
        return scipy_solver.integrate(problem)
    solver = adaptive if problem.method in ADAPTIVE else fixed
    return solver.integrate(problem) if problem.event is None else solver.integrate_until_event(problem)


def deliver(problem: FlatProblem, solution: Any, t: Tensor) -> Any:
    """Return a solution with the states in the shape of the user's state."""
    if problem.event is None:
        return problem.layout.unpack(solution)
    event_t, states = solution
    event_t = problem.slope.direction * torch.as_tensor(event_t, dtype=t.dtype, device=states.device)
    return event_t, problem.layout.unpack(states)
