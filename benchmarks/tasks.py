"""The tasks that ``python -m benchmarks`` runs: their problems, and the peers that solve them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pyneuralode.errors import unknown_name

from . import problems
from .problems import ProblemData

OURS = "pyneuralode"
OTHER_LIBRARIES = ("torchdiffeq", "torchode", "diffrax", "scipy")


@dataclass(frozen=True)
class Peer:
    """One way of solving a task with a library (or pyneuralode); `variant` is its name in the library's script."""

    library: str
    variant: str

    def __str__(self) -> str:
        return f"{self.library}, {self.variant}"


@dataclass(frozen=True)
class Case:
    """A problem and its peers; pyneuralode's `reference_variant` computes the reference solve."""

    name: str
    make: Callable[[], ProblemData]
    peers: tuple[Peer, ...]
    reference_variant: str = ""


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes
    ----------
    measure : {"time", "precision", "memory"}
        Seconds of an iteration ("time"), seconds against error for several tolerances ("precision"), or peak memory
        against the number of steps ("memory").
    goal : float or None
        Target for the seconds per iteration.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    measure: Literal["time", "precision", "memory"] = "time"
    goal: float | None = None


def _peers(**variants: Sequence[str]) -> tuple[Peer, ...]:
    return tuple(Peer(library, variant) for library, names in variants.items() for variant in names)


def _timed(
    name: str, title: str, make: Callable[[], ProblemData], reference: str, goal: float | None, **variants
) -> Task:
    return Task(name, title, (Case(name, make, _peers(**variants), reference),), goal=goal)


_DOPRI5 = ["dopri5", "dopri5, adjoint"]
_OF_NETWORKS = {
    "pyneuralode": ["Tsit5", "Tsit5, generic path"],
    "torchdiffeq": _DOPRI5,
    "torchode": ["tsit5"],
    "diffrax": ["Tsit5"],
}
_NONSTIFF = _peers(
    pyneuralode=["Tsit5", "Vern7", "DP8"],
    torchdiffeq=["dopri5", "dopri8"],
    diffrax=["Tsit5", "Dopri8"],
    scipy=["RK45", "DOP853", "LSODA"],
)
_STIFF = _peers(
    pyneuralode=["Rosenbrock23", "Rodas5P", "Kvaerno5", "KenCarp4", "AutoVern7(Rodas5P)"],
    diffrax=["Kvaerno3", "Kvaerno5"],
    scipy=["LSODA", "Radau", "BDF"],
)


def _system(title: str, name: str, peers: tuple[Peer, ...], reference: str) -> Case:
    return Case(title, partial(problems.system, name), peers, reference)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _timed(
            "spiral",
            "2-50-2 tanh network of the cubed state, 30 times on [0, 1.5], tolerance 1e-6, float32: loss and gradient",
            problems.spiral,
            "DP8",
            0.05e-3,
            **_OF_NETWORKS,
        ),
        _timed(
            "covid",
            "4-100-50-4 swish network from state 0, 56 days, tolerance 1e-6, float32: loss and gradient",
            problems.covid,
            "DP8",
            0.20e-3,
            **_OF_NETWORKS,
        ),
        _timed(
            "flag",
            "hypernetwork flow, hidden 16, width 64, batch 512, t from 10 to 0, tolerance 1e-5, float32: loss and gradient",
            problems.flag,
            "DP8",
            16e-3,
            pyneuralode=["Tsit5"],
            torchdiffeq=_DOPRI5,
            diffrax=["Tsit5"],
        ),
        _timed(
            "robertson",
            "y1(40) and its gradient with respect to the three rates, rtol 1e-8, atol 1e-10, float64",
            problems.robertson,
            "Rodas5P",
            6e-3,
            pyneuralode=["Rodas5P", "Kvaerno5"],
            torchdiffeq=["dopri5, solve only"],
            diffrax=["Kvaerno5"],
        ),
        _timed(
            "vdp-batch",
            "256 Van der Pol oscillators, mu in 1..100, each with its own steps and times, 1e-6, float64: loss and gradient",
            problems.oscillators,
            "Rodas5P",
            None,
            pyneuralode=["Rodas5P", "AutoVern7(Rodas5P)", "Tsit5"],
            torchdiffeq=["dopri5, one step for all"],
            torchode=["tsit5"],
            diffrax=["Tsit5", "Kvaerno5"],
        ),
        _timed(
            "odenet",
            "classifier with an ODE block of 64 x 6 x 6, batch 128, tolerance 1e-3, float32: loss and gradient",
            problems.odenet,
            "DP5",
            None,
            pyneuralode=["DP5", "DP5, Checkpointed", "DP5, BacksolveAdjoint"],
            torchdiffeq=_DOPRI5,
        ),
        Task(
            "memory",
            "peak memory of a gradient against the number of fixed steps: 16-64-16 tanh network, 1024 states, float64",
            (
                Case(
                    "memory",
                    problems.large_state,
                    _peers(
                        pyneuralode=[
                            "RK4",
                            "RK4, Checkpointed",
                            "RK4, Checkpointed every 8",
                            "RK4, InterpolatingAdjoint",
                            "RK4, BacksolveAdjoint",
                        ],
                        torchdiffeq=["rk4", "rk4, adjoint"],
                        diffrax=["Tsit5, RecursiveCheckpointAdjoint", "Tsit5, BacksolveAdjoint"],
                    ),
                ),
            ),
            measure="memory",
        ),
        Task(
            "work-precision",
            "seconds of a solve against its error, float64",
            (
                _system("Lotka-Volterra", "lotka_volterra", _NONSTIFF, "DP8"),
                _system("Van der Pol, mu 1", "van_der_pol", _NONSTIFF, "DP8"),
                _system("Van der Pol, mu 1000", "van_der_pol_stiff", _STIFF, "Rodas5P"),
                _system("Robertson", "robertson", _STIFF, "Rodas5P"),
            ),
            measure="precision",
        ),
    )
}


def find_task(name: str) -> Task:
    """Return the task of this name; an unknown name raises an ArgumentError that suggests the nearest one."""
    if name not in TASKS:
        raise unknown_name("the task", name, TASKS)
    return TASKS[name]
