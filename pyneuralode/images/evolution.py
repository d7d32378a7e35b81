"""How weights evolve: from w(0) to the weights at later times, by an operator q (ANODEV2, Zhang et al. 2019).

Three kinds, all `Evolution`: a map that is applied at every step, such as the paper's reaction, diffusion and advection by
FFT; the ODE w' = q(t, w), solved (`ODEEvolution`), where q may be any module or function; and a `Hypernetwork`, which
reaches every time in one step from w(0).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..engines.torch_engine.activations import ACTIVATIONS
from ..engines.torch_engine.tableaus import Tableau
from ..errors import ArgumentError, unknown_name
from .fixed_steps import check_like, explicit_tableau, name_of, take_step, time_tensor

SHARED = ("layer", "output", "kernel")
DIFFUSIONS = ("scalar", "tensor")


class Evolution(nn.Module):
    """Base: `advance` takes weights of any shape one step on; one that does not go by steps replaces `trajectory`."""

    def advance(self, t: float, w: Tensor, dt: float) -> Tensor:
        """Return the weights at t + dt, given w at t."""
        raise NotImplementedError

    def trajectory(self, start: Tensor, times: Sequence[float]) -> list[Tensor]:
        """Return the weights at `times`, of which the first is that of `start`."""
        path = [start]
        for t, after in itertools.pairwise(times):
            path.append(self.advance(t, path[-1], after - t))
        return path


class ODEEvolution(Evolution):
    """The solution of w' = q(t, w), one step of an explicit solver for each step of the weights.

    Parameters
    ----------
    q : torch.nn.Module or callable
        ``q(t, w)`` with t of shape () returns dw/dt like w; `ReactionDiffusionAdvection` and `KernelNetwork` are such. What a
        plain function closes over is not among the model's parameters: give a module where it is to be learned.
    solver : str or Tableau
        An explicit one of the catalog.
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
    """theta(t) = net(t, w(0)): one step from w(0) to any time. A net that ignores t gives weights that do not change."""

    def __init__(self, net: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.net = _check_callable("net", net)

    def trajectory(self, start: Tensor, times: Sequence[float]) -> list[Tensor]:
        return [check_like(self.net(time_tensor(t, start), start), start, name_of(self.net)) for t in times]


class ReactionDiffusionAdvection(Evolution):
    """Reaction, diffusion and advection of convolution kernels over their own periodic grid.

    As an `Evolution` it is the paper's map, applied at every step of the weights:
    w(t + dt) = sigma(F^-1(exp((-tau k^2 + i upsilon k + rho) dt) F(w(t)))). With sigma the identity that is the exact solution of
    w' = tau laplacian(w) + upsilon . grad(w) + rho w for any dt. With another sigma the map does not tend to an ODE
    as dt -> 0, since sigma is applied once for each step however short it is.
    ``ODEEvolution(ReactionDiffusionAdvection(...))`` solves w' = sigma(tau laplacian(w) + upsilon . grad(w) + rho w) instead.

    Parameters
    ----------
    shape : sequence of int
        Shape (out, in, *grid) of the weights; derivatives are along the grid, of spacing 1.
    sigma : str or callable
        An activation's name ("identity", "tanh", ...), or a function of a tensor.
    shared : {"layer", "output", "kernel"}
        Whether all kernels share one set of coefficients, those of an output channel do, or each has its own.
    diffusion : {"scalar", "tensor"}
        "tensor" has a coefficient for each second derivative, as in sum over i <= j of tau_ij d_i d_j w.
    tau, upsilon, rho : float
        Where the coefficients start: those of diffusion (cross terms start at 0), of advection along every axis, of
        reaction. All are learned, and none is bounded: a negative tau sharpens kernels.
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
                f"shape is {tuple(shape)}: give that of a convolution's weight, such as (16, 16, 3, 3)."
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
        """Return sigma(tau laplacian(w) + upsilon . grad(w) + rho w), the right-hand side for `ODEEvolution`."""
        return self._activated(self._filtered(w, self._symbol()))

    def _activated(self, w: Tensor) -> Tensor:
        return self.sigma(w) if callable(self.sigma) else ACTIVATIONS[self.sigma](w)

    def _symbol(self) -> Tensor:
        """Return what the operator multiplies each wave by, over the half of the waves that a real kernel needs."""
        first, second = _waves(self.grid, self.tensor, self.tau.dtype, self.tau.device)
        real, imaginary = self.rho - self.tau @ second, self.upsilon @ first
        half = (*self.grid[:-1], self.grid[-1] // 2 + 1)
        return torch.complex(real, imaginary).unflatten(-1, half)

    def _filtered(self, w: Tensor, symbol: Tensor) -> Tensor:
        if w.shape != self.shape:
            raise ArgumentError(f"the weights have shape {tuple(w.shape)}: this operator was made for {self.shape}.")
        axes = tuple(range(2, w.ndim))
        return torch.fft.irfftn(symbol * torch.fft.rfftn(w, dim=axes), s=self.grid, dim=axes)

    def extra_repr(self) -> str:
        return f"{self.shape}, sigma={self.sigma!r}, coefficients={sum(p.numel() for p in self.parameters())}"


class KernelNetwork(nn.Module):
    """A small network as q: the numbers of one kernel and t to their derivative, the same for all kernels.

    One hidden layer with tanh; the last layer starts at zero, so that weights do not move until they are taught to.

    Parameters
    ----------
    shape : sequence of int
        Shape (out, in, *grid) of the weights.
    hidden : int
        Units of the hidden layer.
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


def as_evolution(q: Evolution | Callable[[Tensor, Tensor], Tensor]) -> Evolution:
    """Return q itself if it is an `Evolution`, else w' = q(t, w) solved by Euler's method."""
    return q if isinstance(q, Evolution) else ODEEvolution(q)


def convolve_in_time(
    path: Sequence[Tensor], times: Sequence[float], kernel: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Return theta(t) = integral over s from 0 to t of K(t - s) w(s) at each time, by the trapezoidal rule.

    Parameters
    ----------
    path : sequence of Tensor
        w at the times.
    times : sequence of float
        Rising, of equal distances.
    kernel : callable
        K: takes the delays t - s, a tensor (n,), to numbers (n,).
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
    """Return what first (axes, n) and second derivatives multiply the n waves by, without their powers of i.

    With `tensor` the second ones are those of each axis, then the cross terms; otherwise their sum over the axes, the
    Laplacian. The shortest wave of an even grid has no odd derivative on it.
    """
    with torch.inference_mode(False):  # what is kept is for training too
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
        raise ArgumentError(f"{name} is a {type(value).__name__}: give a module or a function {name}(t, w).")
    return value
