"""Image flows: convolutional continuous flows (CNFs) at several scales (Dinh et al. 2017, Grathwohl et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...arguments import real_number, whole_number, whole_numbers
from ...errors import ArgumentError, unknown_name
from ...fields import ConcatConv
from ...gradients import GradientMethod
from ...model_files import arrays_of, load_arrays, write_model_file
from ...models import make_control
from ...solvers import find_solver
from ...tableaus import Tableau
from ..continuous import ContinuousFlow
from ..dynamics import draw_noise, solve_integrals
from .histograms import PixelHistograms
from .transforms import Logit, split, squeeze, unsplit, unsqueeze

STEPS = ("cnf", "squeeze", "split")
ENTRIES = ("none", "logit", "histograms")


class ImageTerms(NamedTuple):
    """Log density (nats) of the dequantized pixels of each image (n,), and the penalties of Finlay et al. 2020.

    `kinetic` and `jacobian` are the integrals of |f|^2 and |df/dz|_F^2, summed over the CNFs and divided by the number
    of pixels; they are zero unless requested. `evaluations` is the number of field evaluations.
    """

    log_density: Tensor
    kinetic: Tensor
    jacobian: Tensor
    evaluations: int


class ImageFlow(nn.Module):
    """A normalizing flow of images, made of CNFs, squeezes and splits.

    Parameters
    ----------
    steps : sequence of str
        The steps from the image to the prior: "cnf" (a CNF with a `ConcatConv` field and time from 0 to 1), "squeeze"
        (squares of 2 x 2 pixels become channels), "split" (half of the channels go to the prior). ``("cnf",)`` is a
        single flow.
    shape : (int, int, int)
        Channels, height and width of an image.
    hidden, kernel, activation
        Settings of every `ConcatConv`.
    entry : {"logit", "histograms", "none"}
        The first map of the dequantized pixels: `Logit` with `alpha`, `center` and `scale`; `PixelHistograms`, which
        require ``flow.histograms.count(pixels)`` first; or none.
    start : float
        Factor by which the initial parameters of every CNF's last convolution are multiplied; with a small factor, the
        flow starts near the identity.
    learned_prior : bool
        Whether to learn a mean and a standard deviation for each component of the normal prior.
    noise : {"rademacher", "gaussian"}
        Noise of Hutchinson's estimator: one vector for each image and solve.
    solver, gradient, **control
        Settings of every CNF, as in `NeuralODE`; `set_solver` changes them.
    seed : int
        Seed of the initial parameters.

    Densities are those of dequantized pixels in [0, 1); see `bits_per_dim`.

    Raises
    ------
    ArgumentError
        For unknown steps or names, steps that do not fit the shape, or images of a different shape.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode.flows.images.multiscale import ImageFlow
    >>> flow = ImageFlow(("cnf", "squeeze", "cnf"), shape=(1, 8, 8), hidden=(4,))
    >>> flow.sample(2).shape, flow(torch.full((2, 1, 8, 8), 0.5)).log_density.shape
    (torch.Size([2, 1, 8, 8]), torch.Size([2]))
    """

    def __init__(
        self,
        steps: Sequence[str] = ("cnf",),
        *,
        shape: tuple[int, int, int] = (1, 28, 28),
        hidden: Sequence[int] = (64, 64, 64),
        kernel: int = 3,
        activation: str = "softplus",
        entry: str = "logit",
        alpha: float = 1e-6,
        center: float = 0.0,
        scale: float = 1.0,
        start: float = 1.0,
        learned_prior: bool = False,
        noise: str = "rademacher",
        solver: str | Tableau = "DP5",
        gradient: str | GradientMethod = "Backprop",
        seed: int = 0,
        **control: Any,
    ):
        super().__init__()
        if entry not in ENTRIES:
            raise unknown_name("entry", entry, ENTRIES)
        remedy = "give channels, height and width, such as (1, 28, 28)"
        self.shape, self.noise = whole_numbers("shape", shape, remedy), noise
        if len(self.shape) != 3:
            raise ArgumentError(f"shape is {shape}: {remedy}.")
        layers = {"hidden": tuple(hidden), "kernel": kernel, "activation": activation}
        first_map = {"entry": entry, "alpha": alpha, "center": center, "scale": scale}
        others = {"start": start, "learned_prior": learned_prior, "noise": noise}
        self.steps = tuple(steps)
        self.description = {"steps": self.steps, "shape": self.shape, **layers, **first_map, **others}
        self.histograms = PixelHistograms(self.shape) if entry == "histograms" else None
        self.logit = Logit(alpha, center, scale) if entry == "logit" else None
        self.blocks = nn.ModuleList()
        channels, height, width = self.shape
        for step in self.steps:
            if step == "cnf":
                block = ContinuousFlow(
                    ConcatConv(channels, height, width, **layers),
                    times=(1.0, 0.0),
                    trace="hutchinson",
                    noise=noise,
                    solver=solver,
                    gradient=gradient,
                    engine="torch",
                    seed=int(np.random.SeedSequence((seed, len(self.blocks))).generate_state(1)[0]),
                    **control,
                )
                with torch.no_grad():
                    for name in (f"weight_{len(hidden) + 1}", f"bias_{len(hidden) + 1}"):
                        block.weights[name].mul_(start)
                self.blocks.append(block)
            else:
                channels, height, width = _after(step, channels, height, width)
        if not len(self.blocks):
            raise ArgumentError(f"steps is {self.steps}: give at least one 'cnf'.")
        self.dim = math.prod(self.shape)
        self.prior_mean = nn.Parameter(torch.zeros(self.dim), requires_grad=learned_prior)
        self.prior_log_scale = nn.Parameter(torch.zeros(self.dim), requires_grad=learned_prior)

    def set_solver(self, solver: str | Tableau, **control: Any) -> None:
        """Set the solver and `Control` for subsequent solves, such as RK4 with fixed steps for training."""
        solver = solver if isinstance(solver, Tableau) else find_solver(solver).name
        for block in self.blocks:
            block.solver, block.control = solver, make_control(control)

    def forward(self, x: Tensor, seed: int = 0, kinetic: bool = False, jacobian: bool = False) -> ImageTerms:
        """Return the terms of dequantized images x (n, *shape) in [0, 1); `seed` determines Hutchinson's noise."""
        return self._encode(x, seed, kinetic, jacobian)[1]

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the latent vectors (n, pixels) of images x (n, *shape) in [0, 1)."""
        return self._encode(x, 0, False, False)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the images (n, *shape) of latent vectors (n, pixels), in [0, 1] up to solver errors."""
        shapes = []
        channels, height, width = self.shape
        for step in self.steps:
            before = channels
            channels, height, width = _after(step, channels, height, width)
            if step == "split":
                shapes.append((before - channels, height, width))
        shapes.append((channels, height, width))
        sizes = [math.prod(shape) for shape in shapes]
        parts = [part.unflatten(1, shape) for part, shape in zip(latents.split(sizes, dim=1), shapes)]
        y = parts.pop()
        blocks = list(self.blocks)
        for step in reversed(self.steps):
            if step == "squeeze":
                y = unsqueeze(y)
            elif step == "split":
                y = unsplit(y, parts.pop())
            else:
                y = blocks.pop().transform(y.flatten(1)).reshape(y.shape)
        y = y.double()
        return self.logit.inverse(y) if self.logit else self.histograms.inverse(y) if self.histograms else y

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Return n images (n, *shape) in [0, 1]; `temperature` multiplies the prior's standard deviation."""
        n, temperature = whole_number("n", n), real_number("temperature", temperature)
        normal = torch.as_tensor(np.random.default_rng(seed).normal(size=(n, self.dim))).to(self.prior_mean)
        return self.decode(self.prior_mean + temperature * self.prior_log_scale.exp() * normal).clamp(0, 1)

    def save(self, path: str | Path) -> None:
        """Write the flow to one safetensors file, which `pyneuralode.load` reads; its solver is not saved."""
        write_model_file(path, "ImageFlow", self.description, arrays_of(self))

    @classmethod
    def from_saved(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ImageFlow:
        """Return the flow stored in a file that `save` wrote; see `pyneuralode.load`."""
        flow = cls(**description)
        load_arrays(flow, arrays)
        return flow

    def _encode(self, x: Tensor, seed: int, kinetic: bool, jacobian: bool) -> tuple[Tensor, ImageTerms]:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise ArgumentError(f"x has shape {tuple(x.shape)}: use shape (n, {', '.join(map(str, self.shape))}).")
        entry = self.logit or self.histograms
        y, total = entry(x.double()) if entry else (x, 0.0)
        y, total = y.to(self.prior_mean.dtype), total + torch.zeros_like(y[:, 0, 0, 0])
        blocks, latents, evaluations = iter(self.blocks), [], 0
        speed, stretch = torch.zeros_like(total), torch.zeros_like(total)
        for number, step in enumerate(self.steps):
            if step == "squeeze":
                y = squeeze(y)
            elif step == "split":
                y, left = split(y)
                latents.append(left.flatten(1))
            else:
                state = y.flatten(1)
                noise = torch.as_tensor(draw_noise(self.noise, state.shape, np.random.default_rng((seed, number))))
                found = solve_integrals(next(blocks), state, (0.0, 1.0), noise.to(state), kinetic, jacobian)
                y, total = found.ys[-1].reshape(y.shape), total + found.integrals.trace
                evaluations += found.nfev
                speed = speed + found.integrals.kinetic / self.dim if kinetic else speed
                stretch = stretch + found.integrals.jacobian / self.dim if jacobian else stretch
        z = torch.cat([*latents, y.flatten(1)], dim=1)
        normal = (z - self.prior_mean) * torch.exp(-self.prior_log_scale)
        prior = -0.5 * (normal.square() + math.log(2 * math.pi)) - self.prior_log_scale
        return z, ImageTerms(total + prior.sum(1), speed, stretch, evaluations)


def _after(step: str, channels: int, height: int, width: int) -> tuple[int, int, int]:
    """Return the shape of an image (channels, height, width) after a step."""
    if step == "cnf":
        return channels, height, width
    if step == "squeeze":
        if height % 2 or width % 2:
            raise ArgumentError(
                f"steps contains a squeeze of {height} x {width} pixels: squeeze only even heights and widths."
            )
        return 4 * channels, height // 2, width // 2
    if step == "split":
        if channels < 2:
            raise ArgumentError("steps contains a split of images with one channel: squeeze them first.")
        return channels - channels // 2, height, width
    raise unknown_name("a step", step, STEPS)
