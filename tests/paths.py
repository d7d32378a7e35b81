"""Compare a solve on the compiled path with the same solve on the generic path."""

import torch

from pyneuralode.models import solve
from pyneuralode.tableaus import Tableau

RALSTON = Tableau("Ralston", 2, A=[[0, 0], [2 / 3, 0]], b=[1 / 4, 3 / 4], error=[-3 / 4, 3 / 4])


def both(field, y0, ts, *, dtype=torch.float64, seed=0, **settings):
    """Solve on both paths; return each solution with its gradients with respect to y0 and every parameter."""
    results = []
    for compiled in (True, False):
        arrays = field.initial(seed)
        parameters = {k: torch.tensor(v, dtype=dtype, requires_grad=True) for k, v in arrays.items()}
        start = torch.tensor(y0, dtype=dtype, requires_grad=True)
        solution = solve(field, start, ts, parameters=parameters, **settings, compiled=compiled)
        weights = torch.cos(torch.arange(solution.ys.numel(), dtype=dtype)).view_as(solution.ys)
        grads = torch.autograd.grad((weights * solution.ys).sum(), [start, *parameters.values()])
        results.append((solution, grads))
    assert [solution.engine for solution, _ in results] == ["torch (compiled)", "torch"]
    return results


def check(results, tolerance, counts=("nfev", "accepted", "rejected")):
    """Assert that both solves have the same counts and agree within `tolerance` times (1 + the largest entry)."""
    (ours, our_grads), (theirs, their_grads) = results
    assert [getattr(ours, name) for name in counts] == [getattr(theirs, name) for name in counts]
    for a, b in zip((ours.ys, *our_grads), (theirs.ys, *their_grads)):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * (1 + b.abs().max())
