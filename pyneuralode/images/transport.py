"""Transport in one dimension, z_t = c(t) z_x, learned as an ODE with one convolution (ANODEV2, Fig. 2).

ANODE's kernel is constant and can only learn a constant speed; ANODEV2's kernel evolves. z is periodic on [0, 2 pi) and
has 128 cells. The exact solution is known: z(x, t) = z(x + C(t), 0), where C is the integral of c from 0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import unknown_name
from ..fitting import LBFGS, Adam
from .coupled import CoupledODE
from .evolution import KernelNetwork, ODEEvolution, ReactionDiffusionAdvection

CELLS = 128
WIDTH = 2 * math.pi
STEPS = 20  # number of steps on [0, 1]
KERNEL = 5
KINDS = ("anode", "anodev2", "anodev2_network")


@dataclass(frozen=True)
class Speed:
    """A transport speed: its formula as text, the function c(t), and its integral C(t) from 0."""

    formula: str
    at: Callable[[Tensor], Tensor]
    integral: Callable[[Tensor], Tensor]


SPEEDS = {
    "decaying": Speed("c = exp(-t)", lambda t: torch.exp(-t), lambda t: 1 - torch.exp(-t)),
    "swinging": Speed(
        "c = 1 + 0.5 sin(2 pi t)",
        lambda t: 1 + 0.5 * torch.sin(2 * math.pi * t),
        lambda t: t + (1 - torch.cos(2 * math.pi * t)) / (4 * math.pi),
    ),
}


@dataclass(frozen=True)
class Pulses:
    """Periodic Gaussian pulses: their centers (n,) and widths (n,), which are standard deviations."""

    centers: Tensor
    widths: Tensor

    @classmethod
    def random(cls, n: int, seed: int) -> Pulses:
        """Return `n` random pulses, centered anywhere in the period, with widths from 0.2 to 0.5."""
        generator = torch.Generator().manual_seed(seed)
        centers, widths = torch.rand(2, n, generator=generator, dtype=torch.float64)
        return cls(WIDTH * centers, 0.2 + 0.3 * widths)

    def at(self, speed: Speed, time: float) -> Tensor:
        """Return the exact solution (n, 1, CELLS) at `time`, starting from these pulses at time 0."""
        moved = cells() + speed.integral(torch.tensor(time, dtype=torch.float64))
        distance = torch.remainder(moved - self.centers[:, None] + WIDTH / 2, WIDTH) - WIDTH / 2
        return torch.exp(-0.5 * (distance / self.widths[:, None]) ** 2)[:, None]

    def over(self, speed: Speed, times: Tensor) -> Tensor:
        """Return the exact solution (T, n, 1, CELLS) at `times` (T,)."""
        return torch.stack([self.at(speed, float(time)) for time in times])


def cells() -> Tensor:
    """Return the positions x of the cells, (CELLS,)."""
    return torch.arange(CELLS, dtype=torch.float64) * (WIDTH / CELLS)


class Stencil(nn.Module):
    """Dynamics f(t, z) = (kernel * z) / dx of periodic z (n, 1, CELLS)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, KERNEL, padding=KERNEL // 2, padding_mode="circular", bias=False)
        nn.init.normal_(self.conv.weight, std=0.01)  # larger weights may damp out every pulse at the start of training

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.conv(z) * (CELLS / WIDTH)


def transport_model(kind: str, *, seed: int = 0) -> CoupledODE:
    """Return an untrained model of transport on [0, 1], in float64, with `STEPS` steps of RK4 for z.

    Parameters
    ----------
    kind : {"anode", "anodev2", "anodev2_network"}
        In this order: the kernel is constant, evolves by reaction, diffusion and advection, or evolves by a small
        network of the kernel and t. An evolving kernel takes two steps for each step of z, so that RK4's midpoint
        stages coincide with steps of the kernel.
    seed : int
        Seed of the initial weights.
    """
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = (1, 1, KERNEL)
        evolutions = {
            "anode": {},
            "anodev2": {"conv.weight": ReactionDiffusionAdvection(shape)},
            "anodev2_network": {"conv.weight": ODEEvolution(KernelNetwork(shape), "RK4")},
        }[kind]
        model = CoupledODE(
            Stencil(), evolutions, steps=STEPS, weight_steps=2 * STEPS, solver="RK4", gradient="Backprop"
        )
        return model.double()


@dataclass(frozen=True)
class TransportFit:
    """A model with the best parameters of its training, and the mean squared error of every evaluation."""

    model: CoupledODE
    losses: list[float]


def fit_transport(
    kind: str,
    speed: Speed,
    *,
    evaluations: int = 500,
    pulses: int = 16,
    seed: int = 0,
    advance: Callable[..., None] = lambda n, note="": None,
) -> TransportFit:
    """Fit a transport model to random pulses at `trained_times`, with Adam for half the evaluations, then L-BFGS.

    `advance(n, note)` is called after every evaluation of loss and gradient.
    """
    model = transport_model(kind, seed=seed)
    known = Pulses.random(pulses, seed)
    start, wanted = known.at(speed, 0.0), known.over(speed, trained_times())
    weights = list(model.parameters())
    losses: list[float] = []
    best, kept = math.inf, copy.deepcopy(model.state_dict())
    last: tuple[Tensor, Tensor] | None = None  # the weights of the last evaluation and their loss

    def closure() -> Tensor:
        nonlocal best, kept, last
        here = nn.utils.parameters_to_vector(weights).detach()
        if last is not None and torch.equal(here, last[0]):
            return last[1]  # L-BFGS starts where its line search ended: no new solve is needed
        model.zero_grad()
        loss = (model.states(start)[2::2] - wanted).square().mean()
        losses.append(float(loss.detach()))
        advance(1, f"loss {losses[-1]:.3g}")
        if not math.isfinite(losses[-1]):
            raise FloatingPointError
        if losses[-1] < best:
            best, kept = losses[-1], copy.deepcopy(model.state_dict())
        loss.backward()
        last = here, loss.detach()
        return last[1]

    # On its own, L-BFGS may end at a kernel that damps out every pulse.
    optimizer = Adam(0.02).make(weights)
    for _ in range(evaluations // 2):
        optimizer.step(closure)
    optimizer = LBFGS(history=20).make(weights)
    while (before := len(losses)) < evaluations:
        try:
            optimizer.step(closure)
        except FloatingPointError:  # the step was too long: restart from the best parameters
            model.load_state_dict(kept)
            optimizer = LBFGS(history=20).make(weights)
        if len(losses) == before:  # no further evaluations: L-BFGS has converged
            break
    model.load_state_dict(kept)
    return TransportFit(model, losses)


def trained_times() -> Tensor:
    """Return the ten training times (10,), at every second step."""
    return torch.arange(2, STEPS + 1, 2, dtype=torch.float64) / STEPS


def unseen_times() -> Tensor:
    """Return the ten times (10,) between the training times."""
    return torch.arange(1, STEPS, 2, dtype=torch.float64) / STEPS


def unseen_errors(model: CoupledODE, speed: Speed, pulses: Pulses) -> Tensor:
    """Return a model's relative L2 errors (10,) for the given pulses at `unseen_times`."""
    truth = pulses.over(speed, unseen_times())
    with torch.no_grad():
        found = model.states(pulses.at(speed, 0.0))[1::2]
    return (found - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)


def long_wave_speed(model: CoupledODE) -> Tensor:
    """Return the kernel's speed of long waves, sum_j j w_j, at each of its steps, shape (2 STEPS + 1,)."""
    with torch.no_grad():
        start = model.f.conv.weight
        path = torch.stack(model.trajectory().get("conv.weight", [start] * (model.weight_steps + 1)))
    offsets = torch.arange(path.shape[-1], dtype=path.dtype) - path.shape[-1] // 2
    return path.flatten(1) @ offsets
