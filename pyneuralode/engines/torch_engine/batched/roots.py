"""Root finding for many functions of one variable at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS = 100


@torch.no_grad()
def find_roots(value: Callable[[Tensor], Tensor], span: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor]) -> Tensor:
    """Return, for each of m functions, a point near which its sign changes from the sign at the start.

    Parameters
    ----------
    value : callable
        The functions: arguments (m,) -> values (m,).
    span : two (m,) in double precision
        The start and the end of the search, where the signs differ; no root is searched for if start and end are equal.
    values : two (m,)
        The values at these points; their dtype determines the accuracy of the root.

    Returns
    -------
    (m,): the end of the last bracket at which the sign has changed.

    The method is Chandrupatla's: inverse quadratic interpolation where it can be trusted, else bisection (T. R.
    Chandrupatla, Adv. Eng. Software 28, 1997).
    """
    new, old = start, end = span  # the bracket's ends, the latest point first
    value_new, value_old = (known.double() for known in values)
    sign = torch.sign(value_new)
    fraction = torch.full_like(start, 0.5)
    accuracy = 4 * torch.finfo(values[0].dtype).eps
    for _ in range(ITERATIONS):
        width = (old - new).abs()
        tolerance = accuracy * torch.maximum(new.abs(), (end - start).abs())
        known = width <= tolerance
        if bool(known.all()):
            break
        least = torch.where(known, 0.5, 0.5 * tolerance / width)
        fraction = torch.minimum(torch.maximum(fraction, least), 1 - least)
        point = torch.where(known, new, new + fraction * (old - new))
        value_point = torch.where(known, value_new, value(point).double())
        same = known | ((torch.sign(value_point) == sign) == (torch.sign(value_new) == sign))
        third, value_third = torch.where(same, new, old), torch.where(same, value_new, value_old)
        old, value_old = torch.where(same, old, new), torch.where(same, value_old, value_new)
        new, value_new = point, value_point
        xi = (new - old) / (third - old)
        phi = (value_new - value_old) / (value_third - value_old)
        alpha = (third - new) / (old - new)
        inverse = value_new / (value_new - value_old) * value_third / (value_third - value_old)
        inverse = inverse - alpha * value_new / (value_third - value_new) * value_old / (value_old - value_third)
        trusted = (1 - (1 - xi).sqrt() < phi) & (phi < xi.sqrt())
        fraction = torch.where(trusted, inverse, 0.5)
    return torch.where(torch.sign(value_new) == sign, old, new)
