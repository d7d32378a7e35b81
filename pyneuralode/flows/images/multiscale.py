"""Flows of images: convolutional CNFs at several scales (Dinh et al. 2017; Grathwohl et al. 2019)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...arguments import real_number, whole_number, whole_numbers
from ...engines.torch_engine.tableaus import Tableau
from ...errors import ArgumentError, ModelFileError, unknown_name
from ...fields import ConcatConv
from ...gradients import GradientMethod
from ...models import FORMAT, make_control, read_model_file
from ...solvers import find_solver
from ..continuous import ContinuousFlow
from ..dynamics import draw_noise, solve_terms
from .histograms import PixelHistograms
from .transforms import Logit, split, squeeze, unsplit, unsqueeze

STEPS = ("cnf", "squeeze", "split")
ENTRIES = ("none", "logit", "histograms")


class ImageTerms(NamedTuple):
    """Per image (n,): the log density of dequantized pixels (nats), and Finlay et al.'s penalties (2020).

    `kinetic` and `jacobian` are the integrals of |f|^2 and |df/dz|_F^2, summed over the CNFs and divided by
    the number of pixels; zero where they were not asked for. `evaluations` counts those of the fields.
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
        From the image to the prior: "cnf" (a CNF of a `ConcatConv`, the time from 0 to 1), "squeeze" (2 x 2
        pixels become channels), "split" (half of the channels go to the prior). ``("cnf",)`` is a single
        flow.
    shape : (int, int, int)
        Channels, height and width of an image.
    hidden, kernel, activation
        Of every `ConcatConv`.
    entry : {"logit", "histograms", "none"}
        First map of the dequantized pixels: `Logit` of `alpha`, `center` and `scale`; `PixelHistograms`, for
        which ``flow.histograms.count(pixels)`` comes before anything else; or nothing.
    start : float
        Factor of the last convolution's initial parameters in every CNF: a small one begins near the
        identity.
    learned_prior : bool
        Whether the normal prior has a mean and a deviation for each of its components that are learned.
    noise : {"rademacher", "gaussian"}
        Hutchinson's noise, one vector an image and solve.
    solver, gradient, **control
        Of every CNF, as in `NeuralODE`; `set_solver` changes them.
    seed : int
        Of the initial parameters.

    Densities are those of dequantized pixels in [0, 1); see `bits_per_dim`.
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
        self.description = {
            "steps": list(steps),
            "shape": list(self.shape),
            "hidden": list(hidden),
            "kernel": kernel,
            "activation": activation,
            "entry": entry,
            "alpha": alpha,
            "center": center,
            "scale": scale,
            "start": start,
            "learned_prior": learned_prior,
            "noise": noise,
        }
        self.histograms = PixelHistograms(self.shape) if entry == "histograms" else None
        self.logit = Logit(alpha, center, scale) if entry == "logit" else None
        self.steps = tuple(steps)
        self.blocks = nn.ModuleList()
        channels, height, width = self.shape
        for step in self.steps:
            if step == "cnf":
                field = ConcatConv(channels, height, width, tuple(hidden), kernel, activation)
                block = ContinuousFlow(
                    field,
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
        """Solve with this solver and `Control` from now on, such as fixed steps of RK4 for training."""
        solver = solver if isinstance(solver, Tableau) else find_solver(solver).name
        for block in self.blocks:
            block.solver, block.control = solver, make_control(control)

    def forward(self, x: Tensor, seed: int = 0, kinetic: bool = False, jacobian: bool = False) -> ImageTerms:
        """Return the terms of dequantized images x (n, *shape) in [0, 1); `seed` is Hutchinson's noise's."""
        return self._encode(x, seed, kinetic, jacobian)[1]

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the latent vectors (n, pixels) of images x (n, *shape) in [0, 1)."""
        return self._encode(x, 0, False, False)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the images (n, *shape) of latent vectors (n, pixels), in [0, 1] but for solver errors."""
        shapes, rest = [], latents
        channels, height, width = self.shape
        for step in self.steps:
            before = channels
            channels, height, width = _after(step, channels, height, width)
            if step == "split":
                shapes.append((before - channels, height, width))
        parts = []
        for shape in shapes:
            part, rest = rest.split([math.prod(shape), rest.shape[1] - math.prod(shape)], dim=1)
            parts.append(part.reshape(-1, *shape))
        y = rest.reshape(-1, channels, height, width)
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
        """Return n images (n, *shape) in [0, 1]; the prior's deviation is multiplied by `temperature`."""
        n, temperature = whole_number("n", n), real_number("temperature", temperature)
        normal = torch.as_tensor(np.random.default_rng(seed).normal(size=(n, self.dim))).to(self.prior_mean)
        return self.decode(self.prior_mean + temperature * self.prior_log_scale.exp() * normal).clamp(0, 1)

    def save(self, path: str | Path) -> None:
        """Write the flow to one safetensors file: its arrays, and its description as JSON in the header."""
        header = {"format": FORMAT, "model": type(self).__name__, **self.description}
        arrays = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(arrays, str(path), {"pyneuralode": json.dumps(header)})

    def _encode(self, x: Tensor, seed: int, kinetic: bool, jacobian: bool) -> tuple[Tensor, ImageTerms]:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise ArgumentError(f"x has shape {tuple(x.shape)}: give images (n, {', '.join(map(str, self.shape))}).")
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
                found = solve_terms(next(blocks), state, (0.0, 1.0), noise.to(state), kinetic, jacobian)
                y, total, evaluations = (
                    found.state.reshape(y.shape),
                    total + found.trace,
                    evaluations + found.evaluations,
                )
                speed = speed + found.kinetic / self.dim if kinetic else speed
                stretch = stretch + found.jacobian / self.dim if jacobian else stretch
        z = torch.cat([*latents, y.flatten(1)], dim=1)
        normal = (z - self.prior_mean) * torch.exp(-self.prior_log_scale)
        prior = -0.5 * (normal.square() + math.log(2 * math.pi)) - self.prior_log_scale
        return z, ImageTerms(total + prior.sum(1), speed, stretch, evaluations)


def load_image_flow(path: str | Path) -> ImageFlow:
    """Read a flow that `ImageFlow.save` wrote.

    Raises ModelFileError where the file is absent, damaged, of a newer version, or no flow of images.
    """
    path = Path(path)
    arrays, header = read_model_file(path)
    header.pop("format", None)
    if header.pop("model", None) != ImageFlow.__name__:
        raise ModelFileError(f"{path} holds no flow of images: give a file that ImageFlow.save wrote.")
    try:
        flow = ImageFlow(**header)
        flow.load_state_dict({name: torch.as_tensor(value) for name, value in arrays.items()})
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path} has a damaged description ({error}): save the flow again.") from None
    return flow


def _after(step: str, channels: int, height: int, width: int) -> tuple[int, int, int]:
    """Return the shape of an image (channels, height, width) after a step."""
    if step == "cnf":
        return channels, height, width
    if step == "squeeze":
        if height % 2 or width % 2:
            raise ArgumentError(f"steps squeezes images of {height} x {width}: squeeze even sides only.")
        return 4 * channels, height // 2, width // 2
    if step == "split":
        if channels < 2:
            raise ArgumentError("steps splits images of one channel: squeeze them before.")
        return channels - channels // 2, height, width
    raise unknown_name("a step", step, STEPS)
