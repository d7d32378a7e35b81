"""The tasks for pyneuralode's torch engine."""

from __future__ import annotations

import numpy as np
import torch
from interface import ProblemData, Result, Run
from torch_nets import OdeNet, dtype_of, tensors_of

import pyneuralode as pn
from pyneuralode.flows.dynamics import solve_integrals
from pyneuralode.gradients import GRADIENTS

FIELDS = {
    "lotka_volterra": pn.Equations(
        {"x": "a*x - b*x*y", "y": "-c*y + d*x*y"}, parameters={"a": 1.5, "b": 1.0, "c": 3.0, "d": 1.0}
    ),
    "van_der_pol": pn.Equations({"x": "v", "v": "mu*(1 - x**2)*v - x"}, parameters={"mu": 1.0}),
    "robertson": pn.Equations(
        {"y1": "-slow", "y2": "slow - fast", "y3": "fast"},
        parameters={"k1": 0.04, "k2": 3e7, "k3": 1e4},
        let={"slow": "k1*y1 - k3*y2*y3", "fast": "k2*y2**2"},
    ),
}


def choices(variant: str) -> dict:
    """Return the settings of a variant such as "Tsit5, generic path, Checkpointed every 8"."""
    solver, *words = variant.split(", ")
    chosen = {"solver": solver, "engine": "torch", "compiled": "generic path" not in words}
    for word in words:
        if word != "generic path":
            kind, _, every = word.partition(" every ")
            chosen["gradient"] = GRADIENTS[kind](**({"every": int(every)} if every else {}))
    return chosen


def model_of(problem: ProblemData, variant: str, field) -> pn.NeuralODE:
    return pn.NeuralODE(field, dtype=dtype_of(problem), **choices(variant), **problem.tolerances)


def counts_of(problem: ProblemData, solution: pn.Solution) -> dict:
    """Return the counts of a solve: means over the samples if each sample has its own."""
    totals = {"accepted": solution.accepted, "rejected": solution.rejected, "evaluations": solution.nfev}
    counts = {name: n if isinstance(n, int) else float(np.mean(n)) for name, n in totals.items()}
    return {"dtype": problem.settings["dtype"], "path": solution.engine, **counts}


def run_of(problem: ProblemData, model: pn.NeuralODE, loss) -> Run:
    """Return the run that differentiates ``loss(ys)`` with respect to the model's parameters."""
    y0, ts = tensors_of(problem, "y0", "ts")
    parameters = list(model.tensors().values())

    def iterate():
        return torch.autograd.grad(loss(model(y0, ts)), parameters)

    def result() -> Result:
        with torch.no_grad():
            solution = model.solve(y0, ts)
        return Result(solution.ys, dict(zip(problem.parameters(), iterate())), counts_of(problem, solution))

    return Run(iterate, result)


def network(problem: ProblemData, variant: str) -> Run:
    model = model_of(problem, variant, pn.MLP(**problem.settings["field"]))
    model.set_arrays(problem.parameters())
    return run_of(problem, model, lambda ys: ys.square().sum())


def flag(problem: ProblemData, variant: str) -> Run:
    points, ts = tensors_of(problem, "points", "ts")
    data, base = ts.tolist()
    flow = pn.ContinuousFlow(
        pn.HyperMLP(**problem.settings["field"]), times=(base, data), dtype=dtype_of(problem),
        **choices(variant), **problem.tolerances,
    )  # fmt: skip
    flow.set_arrays(problem.parameters())
    parameters = list(flow.parameters())

    def iterate():
        return torch.autograd.grad(-flow.log_prob(points).mean(), parameters)

    def result() -> Result:
        with torch.no_grad():
            log_prob, terms = flow.log_prob(points), solve_integrals(flow, points, (data, base), None)
        counts = {"accepted": terms.accepted, "rejected": terms.rejected, "evaluations": terms.nfev}
        counts["dtype"] = problem.settings["dtype"]
        return Result(log_prob[:, None], dict(zip(problem.parameters(), iterate())), counts)

    return Run(iterate, result)


def robertson(problem: ProblemData, variant: str) -> Run:
    return run_of(problem, model_of(problem, variant, FIELDS["robertson"]), lambda ys: ys[-1, 0])


def oscillators(problem: ProblemData, variant: str) -> Run:
    y0, ts, mu = tensors_of(problem, "y0", "ts", "mu")
    mu.requires_grad_(True)

    def solve() -> pn.Solution:
        return pn.solve(
            FIELDS["van_der_pol"], y0, ts, parameters={"mu": mu}, batch="independent",
            **choices(variant), **problem.tolerances,
        )  # fmt: skip

    def iterate():
        return torch.autograd.grad(solve().ys[..., 0].square().sum() / len(mu), [mu])

    def result() -> Result:
        with torch.no_grad():
            solution = solve()
        return Result(solution.ys, {"mu": iterate()[0]}, counts_of(problem, solution))

    return Run(iterate, result)


def odenet(problem: ProblemData, variant: str) -> Run:
    settings = {**choices(variant), **problem.tolerances}

    def block(dynamics, x, ts):
        return pn.solve(dynamics, x, ts, **settings).ys

    net = OdeNet(problem, block)
    (images,) = tensors_of(problem, "images")

    def result() -> Result:
        with torch.no_grad():
            solution = pn.solve(net.dynamics, net.stem(images), net.ts, **settings)
        return Result(solution.ys[-1].reshape(-1, 1), net.gradients(problem), counts_of(problem, solution))

    return Run(lambda: net.gradients(problem), result)


def memory(problem: ProblemData, variant: str) -> Run:
    """Return the run of one gradient with fixed steps."""
    y0, ts = tensors_of(problem, "y0", "ts")
    step = float(ts[-1] - ts[0]) / problem.settings["steps"]
    field = pn.MLP(**problem.settings["field"])
    model = pn.NeuralODE(field, step_size=step, dtype=dtype_of(problem), **choices(variant))
    model.set_arrays(problem.parameters())
    parameters = list(model.parameters())
    return Run(lambda: torch.autograd.grad(model(y0, ts)[-1].sum(), parameters), lambda: Result(y0))


def precision(problem: ProblemData, variant: str) -> Run:
    field, y0, ts = FIELDS[problem.settings["system"]], problem.arrays["y0"], problem.arrays["ts"]
    parameters = dict(zip(field.shapes(), problem.arrays["p"]))

    def iterate() -> pn.Solution:
        return pn.solve(field, y0, ts, parameters=parameters, solver=variant, engine="torch", **problem.tolerances)

    def result() -> Result:
        solution = iterate()
        return Result(np.asarray(solution.ys), {}, counts_of(problem, solution))

    return Run(iterate, result)


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
