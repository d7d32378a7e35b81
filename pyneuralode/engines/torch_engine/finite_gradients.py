"""Checks that gradients are finite if the cotangents are finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps

from torch import Tensor

from ...errors import SolverError
from ...problem.values import all_finite


def finite_gradients(backward: Callable) -> Callable:
    """Decorate the backward method of a solve, so that it raises instead of returning a non-finite gradient."""

    @wraps(backward)
    def checked(ctx, *cotangents):
        gradients = backward(ctx, *cotangents)
        require_finite_gradients(
            (g for g, needed in zip(gradients, ctx.needs_input_grad) if needed and g is not None), cotangents
        )
        return gradients

    return checked


def checked_solve(solve: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return ``solve(start)`` recorded by autograd, with a check that the gradient with respect to `start` is finite."""
    if not start.requires_grad:
        return solve(start)
    entry = start.view_as(start)  # so that the hook sees only this solve's part of the gradient
    states, seen = solve(entry), []
    states.register_hook(lambda cotangents: seen.__setitem__(slice(None), [cotangents.detach()]))
    entry.register_hook(lambda gradient: require_finite_gradients([gradient], seen))
    return states


def require_finite_gradients(gradients: Iterable[Tensor], cotangents: Iterable[Tensor]) -> None:
    """Raise if the gradients are not finite although the cotangents are."""
    if all(map(all_finite, gradients)) or not all(map(all_finite, cotangents)):
        return
    raise SolverError(
        "the gradient is not finite because a derivative of the field is infinite at some point, usually at the start, like that "
        "of sqrt(y) at y = 0: start away from that point, or do not require a gradient for y0."
    )
