"""The tasks for torchode, which steps each sample of a batch independently."""

from __future__ import annotations

import torch
import torchode
from interface import ProblemData, Result, Run
from torch import Tensor
from torch_nets import Network, tensors_of

METHODS = {"tsit5": torchode.Tsit5}


def run_of(problem: ProblemData, variant: str, f, parameters: list[Tensor], y0: Tensor, ts: Tensor, loss) -> Run:
    """Return the run for states y0 (n, d), times ts (n, T) and ``f(t (n,), y (n, d))``; counts are means over the n samples."""
    term = torchode.ODETerm(f)
    control = torchode.IntegralController(**problem.tolerances, term=term)
    solver = torchode.AutoDiffAdjoint(METHODS[variant](term=term), control)
    start = torchode.InitialValueProblem(y0=y0, t_eval=ts)

    def iterate():
        return torch.autograd.grad(loss(solver.solve(start).ys), parameters)

    def result() -> Result:
        with torch.no_grad():
            solution = solver.solve(start)
        if int(solution.status.abs().max()) != 0:
            raise RuntimeError("a solve did not reach its last time")
        steps, accepted, evaluations = (
            float(solution.stats[name].double().mean()) for name in ("n_steps", "n_accepted", "n_f_evals")
        )
        counts = {"accepted": accepted, "rejected": steps - accepted, "evaluations": evaluations}
        gradient = dict(zip(problem.parameters(), iterate()))
        return Result(solution.ys, gradient, {"dtype": problem.settings["dtype"], **counts})

    return Run(iterate, result)


def network(problem: ProblemData, variant: str) -> Run:
    net = Network(problem)
    y0, ts = tensors_of(problem, "y0", "ts")
    return run_of(problem, variant, net, list(net.parameters()), y0[None], ts[None], lambda ys: ys.square().sum())


def oscillators(problem: ProblemData, variant: str) -> Run:
    y0, ts, mu = tensors_of(problem, "y0", "ts", "mu")
    mu.requires_grad_(True)

    def slope(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)

    return run_of(problem, variant, slope, [mu], y0, ts, lambda ys: ys[..., 0].square().sum() / len(mu))


TASKS = {"spiral": network, "covid": network, "vdp-batch": oscillators}
