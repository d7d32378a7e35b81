"""Evolution of weights, from w(0) to later times, by an operator q (ANODEV2, Zhang et al. 2019).

There are three kinds of `Evolution`: a map applied at every step, such as the paper's reaction, diffusion and advection
by FFT; the solution of an ODE w' = q(t, w), where q may be any module or function (`ODEEvolution`); and a
`Hypernetwork`, which computes the weights at any time directly from w(0).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..engines.torch_engine.activations import ACTIVATIONS
from ..errors import ArgumentError, kind_of, unknown_name
from ..tableaus import Tableau
from .fixed_steps import check_like, explicit_tableau, name_of, take_step, time_tensor

SHARED = ("layer", "output", "kernel")
DIFFUSIONS = ("scalar", "tensor")


class Evolution(nn.Module):
    """Base class for evolving weights: override `advance` to evolve them step by step, or `trajectory` otherwise."""

    def advance(self, t: float, w: Tensor, dt: float) -> Tensor:
        """Return the weights at t + dt, given the weights w at t; both have the same shape."""
        raise NotImplementedError

    def trajectory(self, start: Tensor, times: Sequence[float]) -> list[Tensor]:
        """Return the weights at each of `times`, given the weights `start` at the first time."""
        path = [start]
        for t, after in itertools.pairwise(times):
            path.append(self.advance(t, path[-1], after - t))
        return path


class ODEEvolution(Evolution):
    """Weights that solve w' = q(t, w), with one step of an explicit solver per weight step.

    Parameters
    ----------
    q : torch.nn.Module or callable
        ``q(t, w)``, with t of shape (), returns dw/dt with the shape of w; `ReactionDiffusionAdvection` and
        `KernelNetwork` are such modules. Use a module if q is to be learned: tensors that a function closes over are
        not among the model's parameters.
    solver : str or Tableau
        An explicit solver from the catalog.

    Raises
    ------
    ArgumentError
        If q is not callable or returns a tensor of another shape, or the solver is not explicit.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode.images import ODEEvolution
    >>> decay = ODEEvolution(lambda t, w: -w, "RK4")
    >>> [round(float(w), 3) for w in decay.trajectory(torch.tensor(1.0), [0.0, 0.5, 1.0])]
    [1.0, 0.607, 0.368]
    """

    def __init__(self, q: Callable[[Tensor, Tensor], Tensor], solver: str | Tableau = "Euler"):
        super().__init__()
        self.q = _check_callable("q", q)
        self.tableau = explicit_tableau(solver)

    def advance(self, t: float, w: Tensor, dt: float) -> Tensor:
        return take_step(self.tableau, lambda at, v: self.q(time_tensor(at, w), v), t, t + dt, w, name_of(self.q))

    def extra_repr(self) -> str:
        return f"solver={self.tableau.name}"


class Hypernetwork(Evolution):
    """Weights theta(t) = net(t, w(0)) at any time; t has shape (), and the net returns a tensor with the shape of w(0).

    If the net ignores t, the weights are constant in time.
    """

    def __init__(self, net: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.net = _check_callable("net", net)

    def trajectory(self, start: Tensor, times: Sequence[float]) -> list[Tensor]:
        return [check_like(self.net(time_tensor(t, start), start), start, name_of(self.net)) for t in times]


class ReactionDiffusionAdvection(Evolution):
    """Reaction, diffusion and advection of convolution kernels over their own periodic grid.

    As an `Evolution` it is the map of the ANODEV2 paper, applied at every weight step: w(t + dt) =
    sigma(F^-1(exp((-tau k^2 + i upsilon k + rho) dt) F(w(t)))). If sigma is the identity, this is the exact solution of
    w' = tau laplacian(w) + upsilon . grad(w) + rho w for any dt. With any other sigma the map does not tend to an ODE
    as dt -> 0, since sigma is applied once per step, however short the step. Wrapped in an `ODEEvolution`, the operator
    solves w' = sigma(tau laplacian(w) + upsilon . grad(w) + rho w) instead.

    Parameters
    ----------
    shape : sequence of int
        Shape (out, in, *grid) of the weights; derivatives are along the grid, whose spacing is 1.
    sigma : str or callable
        An activation's name ("identity", "tanh", ...), or a function of a tensor.
    shared : {"layer", "output", "kernel"}
        Which kernels share one set of coefficients: all kernels of the layer, all kernels of an output channel, or none
        ("kernel").
    diffusion : {"scalar", "tensor"}
        "scalar" has one coefficient, that of the Laplacian; "tensor" has one for each second derivative: sum over
        i <= j of tau_ij d_i d_j w.
    tau, upsilon, rho : float
        Initial coefficients of diffusion (cross terms start at 0), of advection along every axis, and of reaction. All
        are learned, without bounds: a negative tau sharpens kernels.

    Raises
    ------
    ArgumentError
        For an unknown name, a shape without a grid, or weights of another shape.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode.images import ReactionDiffusionAdvection
    >>> q = ReactionDiffusionAdvection((4, 3, 5, 5), shared="layer", rho=-1.0)
    >>> w = q.advance(0.0, torch.ones(4, 3, 5, 5), 0.5)
    >>> round(float(w[0, 0, 0, 0].detach()), 4)  # exp(-0.5)
    0.6065
    """

    def __init__(
        self,
        shape: Sequence[int],
        sigma: str | Callable[[Tensor], Tensor] = "identity",
        *,
        shared: str = "output",
        diffusion: str = "scalar",
        tau: float = 0.0,
        upsilon: float = 0.0,
        rho: float = 0.0,
    ):
        super().__init__()
        if len(shape) < 3:
            raise ArgumentError(
                f"shape is {tuple(shape)}: use the shape of a convolution's weight, such as (16, 16, 3, 3)."
            )
        if shared not in SHARED:
            raise unknown_name("shared", shared, SHARED)
        if diffusion not in DIFFUSIONS:
            raise unknown_name("diffusion", diffusion, DIFFUSIONS)
        if not callable(sigma) and sigma not in ACTIVATIONS:
            raise unknown_name("sigma", sigma, ACTIVATIONS)
        self.shape, self.grid = tuple(shape), tuple(shape[2:])
        self.sigma = sigma
        self.tensor = diffusion == "tensor"
        axes = len(self.grid)
        sets = {"layer": (1, 1), "output": (shape[0], 1), "kernel": (shape[0], shape[1])}[shared]
        self.tau = nn.Parameter(torch.zeros(*sets, axes * (axes + 1) // 2 if self.tensor else 1))
        self.upsilon = nn.Parameter(torch.full((*sets, axes), float(upsilon)))
        self.rho = nn.Parameter(torch.full((*sets, 1), float(rho)))
        nn.init.constant_(self.tau[..., :axes], float(tau))

    def advance(self, t: float, w: Tensor, dt: float) -> Tensor:
        return self._activated(self._filtered(w, torch.exp(self._symbol() * dt)))

    def forward(self, t: Tensor, w: Tensor) -> Tensor:
        """Return sigma(tau laplacian(w) + upsilon . grad(w) + rho w), shaped like w: the q of an `ODEEvolution`."""
        return self._activated(self._filtered(w, self._symbol()))

    def _activated(self, w: Tensor) -> Tensor:
        return self.sigma(w) if callable(self.sigma) else ACTIVATIONS[self.sigma](w)

    def _symbol(self) -> Tensor:
        """Return the operator's factor for each Fourier mode, for the half of the modes that a real kernel needs."""
        first, second = _waves(self.grid, self.tensor, self.tau.dtype, self.tau.device)
        real, imaginary = self.rho - self.tau @ second, self.upsilon @ first
        half = (*self.grid[:-1], self.grid[-1] // 2 + 1)
        return torch.complex(real, imaginary).unflatten(-1, half)

    def _filtered(self, w: Tensor, symbol: Tensor) -> Tensor:
        if w.shape != self.shape:
            raise ArgumentError(
                f"the weights have shape {tuple(w.shape)}, but this operator was made for {self.shape}: "
                "create an operator for the shape of the weights."
            )
        axes = tuple(range(2, w.ndim))
        return torch.fft.irfftn(symbol * torch.fft.rfftn(w, dim=axes), s=self.grid, dim=axes)

    def extra_repr(self) -> str:
        return f"{self.shape}, sigma={self.sigma!r}, coefficients={sum(p.numel() for p in self.parameters())}"


class KernelNetwork(nn.Module):
    """A small network as q, shared by all kernels: it maps t and one kernel's entries to the entries' time derivatives.

    It has one hidden layer with tanh. The last layer starts at zero, so the weights are constant before training.

    Parameters
    ----------
    shape : sequence of int
        Shape (out, in, *grid) of the weights.
    hidden : int
        Number of units of the hidden layer.
    """

    def __init__(self, shape: Sequence[int], hidden: int = 16):
        super().__init__()
        size = math.prod(shape[2:])
        self.enter = nn.Linear(size + 1, hidden)
        self.leave = nn.Linear(hidden, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, t: Tensor, w: Tensor) -> Tensor:
        kernels = w.flatten(2)
        inputs = torch.cat([kernels, t.expand(*kernels.shape[:-1], 1)], dim=-1)
        return self.leave(torch.tanh(self.enter(inputs))).view_as(w)


def convolve_in_time(
    path: Sequence[Tensor], times: Sequence[float], kernel: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Return theta(t) = integral over s from 0 to t of K(t - s) w(s) at each time, by the trapezoidal rule.

    Parameters
    ----------
    path : sequence of Tensor
        w at each of the times.
    times : sequence of float
        Increasing and equally spaced.
    kernel : callable
        K: maps the delays t - s, a tensor (n,), to numbers (n,).
    """
    w = torch.stack(list(path))
    delays = w.new_tensor(times)
    dt = times[1] - times[0]
    thetas = [torch.zeros_like(path[0])]
    for n in range(1, len(path)):
        ends = w.new_ones(n + 1)
        ends[0] = ends[n] = 0.5
        thetas.append(torch.tensordot(dt * ends * kernel(delays[n] - delays[: n + 1]), w[: n + 1], dims=1))
    return thetas


@functools.lru_cache
def _waves(grid: tuple[int, ...], tensor: bool, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the factors of first (axes, n) and second derivatives for n Fourier modes, without their powers of i.

    With `tensor`, the second derivatives are those along each axis, then the mixed ones; otherwise only the Laplacian.
    On an axis with an even number of points, odd derivatives of the shortest wave vanish.
    """
    with torch.inference_mode(False):  # the cached tensors are also used in training
        whole = [torch.fft.fftfreq(n, dtype=torch.float64) * 2 * math.pi for n in grid[:-1]]
        waves = [*whole, torch.fft.rfftfreq(grid[-1], dtype=torch.float64) * 2 * math.pi]
        odd = [torch.where(k.abs() > math.pi - 1e-9, 0.0, k) for k in waves]
        first = torch.stack(torch.meshgrid(*odd, indexing="ij")).flatten(1)
        squares = torch.stack(torch.meshgrid(*waves, indexing="ij")).flatten(1).square()
        cross = [first[i] * first[j] for i, j in itertools.combinations(range(len(grid)), 2)]
        second = torch.stack([*squares, *cross]) if tensor else squares.sum(0, keepdim=True)
        return first.to(device, dtype), second.to(device, dtype)


def _check_callable(name: str, value: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    if not callable(value):
        raise ArgumentError(f"{name} is {kind_of(value)}: give a module or a function {name}(t, w).")
    return value
