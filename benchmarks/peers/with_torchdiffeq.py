"""The tasks for torchdiffeq."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchdiffeq
from interface import ProblemData, Result, Run
from systems import SYSTEMS
from torch import Tensor, nn
from torch_nets import HyperFlow, Network, OdeNet, log_normal, tensors_of


def solver_of(variant: str) -> tuple[Callable, str]:
    """Return the function and the method of a variant such as "dopri5, adjoint"."""
    method, *words = variant.split(", ")
    return torchdiffeq.odeint_adjoint if "adjoint" in words else torchdiffeq.odeint, method


class Counted(nn.Module):
    """A module that counts its evaluations and the solver's steps."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module, self.evaluations, self.accepted, self.rejected = module, 0, 0, 0

    def forward(self, t, y):
        self.evaluations += 1
        return self.module(t, y)

    def callback_accept_step(self, t, y, dt):
        self.accepted += 1

    def callback_reject_step(self, t, y, dt):
        self.rejected += 1


def counts_of(problem: ProblemData, counted: Counted) -> dict:
    counts = {name: getattr(counted, name) for name in ("accepted", "rejected", "evaluations")}
    return {"dtype": problem.settings["dtype"], **counts}


def run_of(problem: ProblemData, module: nn.Module, variant: str, y0, ts: Tensor, loss, states=lambda ys: ys) -> Run:
    """Return the run that differentiates `loss(ys)` with respect to the parameters of a module."""
    odeint, method = solver_of(variant)
    parameters, tolerances = list(module.parameters()), problem.tolerances

    def iterate():
        return torch.autograd.grad(loss(odeint(module, y0, ts, method=method, **tolerances)), parameters)

    def result() -> Result:
        counted = Counted(module)
        with torch.no_grad():
            ys = torchdiffeq.odeint(counted, y0, ts, method=method, **tolerances)
        return Result(states(ys).detach(), dict(zip(problem.parameters(), iterate())), counts_of(problem, counted))

    return Run(iterate, result)


def network(problem: ProblemData, variant: str) -> Run:
    y0, ts = tensors_of(problem, "y0", "ts")
    return run_of(problem, Network(problem), variant, y0, ts, lambda ys: ys.square().sum())


def flag(problem: ProblemData, variant: str) -> Run:
    x, ts = tensors_of(problem, "points", "ts")

    def log_prob(ys) -> Tensor:
        z, change = (part[-1] for part in ys)
        return log_normal(z) - change

    start = (x, x.new_zeros(len(x)))
    return run_of(
        problem, HyperFlow(problem), variant, start, ts,
        lambda ys: -log_prob(ys).mean(), lambda ys: log_prob(ys)[:, None],
    )  # fmt: skip


class Rates(nn.Module):
    """A small system whose parameters are stored in one tensor."""

    def __init__(self, name: str, p: Tensor):
        super().__init__()
        self.system, self.p = SYSTEMS[name], nn.Parameter(p)

    def forward(self, t, y):
        return torch.stack(self.system(y.unbind(-1), self.p), -1)


def robertson(problem: ProblemData, variant: str) -> Run:
    """Return the run of a solve without gradient, because explicit methods need a quarter of a million evaluations."""
    y0, ts, *rates = tensors_of(problem, "y0", "ts", *problem.parameters())
    odeint, method = solver_of(variant.removesuffix(", solve only"))
    counted = Counted(Rates("robertson", torch.stack(rates)))

    @torch.no_grad()
    def iterate() -> Tensor:
        return odeint(counted, y0, ts, method=method, **problem.tolerances)

    def result() -> Result:
        counted.evaluations = counted.accepted = counted.rejected = 0
        ys = iterate()
        return Result(ys, {}, counts_of(problem, counted))

    return Run(iterate, result)


class Oscillators(nn.Module):
    """Van der Pol oscillators, each with time in units of its span, because a batch is solved over a single span."""

    def __init__(self, mu: Tensor, spans: Tensor):
        super().__init__()
        self.mu, self.spans = nn.Parameter(mu), spans

    def forward(self, t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, self.mu * (1 - x * x) * v - x], -1) * self.spans[:, None]


def oscillators(problem: ProblemData, variant: str) -> Run:
    y0, ts, mu = tensors_of(problem, "y0", "ts", "mu")
    unit = ts[0] / ts[0, -1]
    return run_of(
        problem, Oscillators(mu, ts[:, -1]), variant.removesuffix(", one step for all"), y0, unit,
        lambda ys: ys[..., 0].square().sum() / len(mu), lambda ys: ys.transpose(0, 1),
    )  # fmt: skip


def odenet(problem: ProblemData, variant: str) -> Run:
    odeint, method = solver_of(variant)

    def block(dynamics, x, ts):
        return odeint(dynamics, x, ts, method=method, **problem.tolerances)

    net = OdeNet(problem, block)
    (images,) = tensors_of(problem, "images")

    def result() -> Result:
        counted = Counted(net.dynamics)
        with torch.no_grad():
            states = block(counted, net.stem(images), net.ts)[-1]
        return Result(states.reshape(-1, 1), net.gradients(problem), counts_of(problem, counted))

    return Run(lambda: net.gradients(problem), result)


def memory(problem: ProblemData, variant: str) -> Run:
    """Return the run of one gradient with fixed steps."""
    y0, ts = tensors_of(problem, "y0", "ts")
    odeint, method = solver_of(variant)
    module = Network(problem)
    options = {"step_size": float(ts[-1] - ts[0]) / problem.settings["steps"]}

    def iterate():
        ys = odeint(module, y0, ts, method=method, options=options)
        return torch.autograd.grad(ys[-1].sum(), list(module.parameters()))

    return Run(iterate, lambda: Result(y0))


def precision(problem: ProblemData, variant: str) -> Run:
    y0, ts, p = tensors_of(problem, "y0", "ts", "p")
    module = Rates(problem.settings["system"], p)

    @torch.no_grad()
    def iterate() -> Tensor:
        return torchdiffeq.odeint(module, y0, ts, method=variant, **problem.tolerances)

    return Run(iterate, lambda: Result(iterate(), {}, {"dtype": problem.settings["dtype"]}))


TASKS = {
    "spiral": network,
    "covid": network,
    "flag": flag,
    "robertson": robertson,
    "vdp-batch": oscillators,
    "odenet": odenet,
    "memory": memory,
    "work-precision": precision,
}
