"""The tasks for diffrax on the CPU, with loss and gradient compiled as one function."""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from interface import ProblemData, Result, Run
from systems import SYSTEMS

jax.config.update("jax_enable_x64", True)
MOST_STEPS = 4096


def arrays_of(problem: ProblemData, *names: str) -> list:
    return [jnp.asarray(problem.arrays[name], dtype=problem.settings["dtype"]) for name in names]


def solve_of(problem: ProblemData, solver: str, f, **settings):
    """Return ``solve(parameters, y0, ts)`` at the problem's tolerances; the solution has the states at `ts`."""

    def solve(parameters, y0, ts):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(f), getattr(diffrax, solver)(), ts[0], ts[-1], None, y0, parameters,
            saveat=diffrax.SaveAt(ts=ts),
            stepsize_controller=diffrax.PIDController(**problem.tolerances),
            max_steps=settings.get("max_steps", MOST_STEPS),
        )  # fmt: skip

    return solve


def run_of(problem: ProblemData, solve, parameters: dict, loss, states) -> Run:
    """Return the run that differentiates ``loss(solution)`` for ``solve(parameters)``."""
    gradient = jax.jit(jax.value_and_grad(lambda p: loss(solve(p))))

    def iterate():
        return jax.block_until_ready(gradient(parameters))

    def result() -> Result:
        solution = jax.jit(solve)(parameters)
        accepted, steps = (float(np.mean(solution.stats[name])) for name in ("num_accepted_steps", "num_steps"))
        # diffrax does not count evaluations.
        counts = {"dtype": problem.settings["dtype"], "accepted": accepted, "rejected": steps - accepted}
        return Result(states(solution), iterate()[1], counts)

    return Run(iterate, result)


def parameters_of(problem: ProblemData) -> dict:
    return dict(zip(problem.parameters(), arrays_of(problem, *problem.parameters())))


ACTIVATIONS = {"tanh": jnp.tanh, "swish": jax.nn.silu}


def network_of(problem: ProblemData):
    """Return the right-hand side ``f(t, y, parameters)`` given by the problem's fully connected network."""
    spec = problem.settings["field"]
    activation, layers = ACTIVATIONS[spec["activation"]], len(spec["sizes"]) - 1

    def slope(t, y, p):
        x = y**3 if spec.get("input_map") == "cube" else y
        x = x / spec.get("input_scale", 1.0)
        for layer in range(1, layers):
            x = activation(x @ p[f"weight_{layer}"].T + p[f"bias_{layer}"])
        return (x @ p[f"weight_{layers}"].T + p[f"bias_{layers}"]) * spec.get("output_scale", 1.0)

    return slope


def network(problem: ProblemData, variant: str) -> Run:
    y0, ts = arrays_of(problem, "y0", "ts")
    solve = solve_of(problem, variant, network_of(problem))
    return run_of(
        problem, lambda p: solve(p, y0, ts), parameters_of(problem), lambda s: (s.ys**2).sum(), lambda s: s.ys
    )


def flag(problem: ProblemData, variant: str) -> Run:
    x, ts = arrays_of(problem, "points", "ts")
    spec = problem.settings["field"]
    dim, width = spec["dim"], spec["width"]

    def slope(t, state, p):
        hidden = jnp.tanh(p["weight_1"] @ t[None] + p["bias_1"])
        hidden = jnp.tanh(p["weight_2"] @ hidden + p["bias_2"])
        out = p["weight_3"] @ hidden + p["bias_3"]
        inward, outward, gate = out[: 3 * dim * width].reshape(3, width, dim)
        outward = outward * jax.nn.sigmoid(gate)

        def speed(z):
            return jnp.tanh(inward @ z + out[3 * dim * width :]) @ outward / width

        def speed_and_trace(z):
            slopes, columns = jax.vmap(lambda e: jax.jvp(speed, (z,), (e,)))(jnp.eye(dim, dtype=z.dtype))
            return slopes[0], jnp.trace(columns)

        speeds, traces = jax.vmap(speed_and_trace)(state[0])
        return speeds, -traces

    solve = solve_of(problem, variant, slope)

    def log_prob(solution):
        z, change = (part[-1] for part in solution.ys)
        return -0.5 * ((z**2).sum(-1) + dim * jnp.log(2 * jnp.pi)) - change

    return run_of(
        problem, lambda p: solve(p, (x, jnp.zeros_like(x[:, 0])), ts), parameters_of(problem),
        lambda s: -log_prob(s).mean(), lambda s: log_prob(s)[:, None],
    )  # fmt: skip


def system_of(name: str):
    system = SYSTEMS[name]
    return lambda t, y, p: jnp.stack(system(y, p))


def robertson(problem: ProblemData, variant: str) -> Run:
    y0, ts = arrays_of(problem, "y0", "ts")
    solve, rates = solve_of(problem, variant, system_of("robertson")), list(problem.parameters())
    return run_of(
        problem, lambda p: solve([p[rate] for rate in rates], y0, ts), parameters_of(problem),
        lambda s: s.ys[-1, 0], lambda s: s.ys,
    )  # fmt: skip


def oscillators(problem: ProblemData, variant: str) -> Run:
    y0, ts = arrays_of(problem, "y0", "ts")
    slope = system_of("van_der_pol")
    one = solve_of(problem, variant, lambda t, y, mu: slope(t, y, [mu]), max_steps=2**14)
    return run_of(
        problem, lambda p: jax.vmap(one)(p["mu"], y0, ts), parameters_of(problem),
        lambda s: (s.ys[..., 0] ** 2).sum() / len(y0), lambda s: s.ys,
    )  # fmt: skip


def memory(problem: ProblemData, variant: str) -> Run:
    """Return the run of one gradient with fixed steps."""
    y0, ts = arrays_of(problem, "y0", "ts")
    solver, adjoint = variant.split(", ")
    steps, slope = problem.settings["steps"], network_of(problem)

    @jax.jit
    @jax.grad
    def gradient(parameters):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(slope), getattr(diffrax, solver)(), ts[0], ts[-1], (ts[-1] - ts[0]) / steps, y0, parameters,
            max_steps=steps + 1, adjoint=getattr(diffrax, adjoint)(),
        )  # fmt: skip
        return solution.ys[-1].sum()

    parameters = parameters_of(problem)
    return Run(lambda: jax.block_until_ready(gradient(parameters)), lambda: Result(y0))


def precision(problem: ProblemData, variant: str) -> Run:
    y0, ts, p = arrays_of(problem, "y0", "ts", "p")
    solve = jax.jit(solve_of(problem, variant, system_of(problem.settings["system"]), max_steps=2**18))

    def iterate():
        return jax.block_until_ready(solve(p, y0, ts).ys)

    return Run(iterate, lambda: Result(iterate(), {}, {"dtype": problem.settings["dtype"]}))


TASKS = {
    "spiral": network,
    "covid": network,
    "flag": flag,
    "robertson": robertson,
    "vdp-batch": oscillators,
    "memory": memory,
    "work-precision": precision,
}
