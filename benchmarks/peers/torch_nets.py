"""The networks of the tasks, written in plain torch."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from interface import ProblemData
from torch import Tensor, nn

ACTIVATIONS = {"tanh": nn.Tanh, "swish": nn.SiLU}


def dtype_of(problem: ProblemData) -> torch.dtype:
    return getattr(torch, problem.settings["dtype"])


def tensors_of(problem: ProblemData, *names: str) -> list[Tensor]:
    return [torch.as_tensor(problem.arrays[name], dtype=dtype_of(problem)) for name in names]


class Network(nn.Module):
    """A fully connected network; its input may be cubed or scaled, its output scaled."""

    def __init__(self, problem: ProblemData):
        super().__init__()
        spec = problem.settings["field"]
        sizes, layers = spec["sizes"], []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), ACTIVATIONS[spec["activation"]]()]
        self.net = nn.Sequential(*layers[:-1])
        self.cube = spec.get("input_map") == "cube"
        self.input_scale, self.output_scale = spec.get("input_scale"), spec.get("output_scale")
        load_parameters(self, problem)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.cube:
            y = y**3
        if self.input_scale is not None:
            y = y / self.input_scale
        slope = self.net(y)
        return slope if self.output_scale is None else slope * self.output_scale


class HyperFlow(nn.Module):
    """The dynamics of a flow's state and log density; autograd computes the trace, as in torchdiffeq's example."""

    def __init__(self, problem: ProblemData):
        super().__init__()
        spec = problem.settings["field"]
        self.dim, self.width, hidden = spec["dim"], spec["width"], spec["hidden"]
        outputs = (3 * self.dim + 1) * self.width
        self.hyper = nn.Sequential(
            nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
        )
        load_parameters(self, problem)

    def slope(self, t: Tensor, z: Tensor) -> Tensor:
        inward, outward, gate, bias = self.hyper(t.reshape(1)).split([self.dim * self.width] * 3 + [self.width])
        inward, outward, gate = (part.reshape(self.width, self.dim) for part in (inward, outward, gate))
        return torch.tanh(z @ inward.T + bias) @ (outward * torch.sigmoid(gate)) / self.width

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z = state[0]
        with torch.enable_grad():
            z = z.requires_grad_(True)
            slope = self.slope(t, z)
            columns = [torch.autograd.grad(slope[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(self.dim)]
        return slope, -sum(columns)


class ConvolutionalDynamics(nn.Module):
    """Two layers: a 3x3 convolution of image and time, ReLU, batch normalization."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(channels + 1, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms):
            x = norm(torch.relu(convolution(torch.cat([x, t.expand_as(x[:, :1])], dim=1))))
        return x


class OdeNet(nn.Module):
    """A classifier of 28 x 28 images with an ODE block on [0, 1], which `block(dynamics, x, ts)` solves."""

    def __init__(self, problem: ProblemData, block):
        super().__init__()
        n = problem.settings["channels"]
        self.stem = nn.Sequential(
            nn.Conv2d(1, n, 3), nn.BatchNorm2d(n), nn.ReLU(),
            nn.Conv2d(n, n, 4, 2, 1), nn.BatchNorm2d(n), nn.ReLU(),
            nn.Conv2d(n, n, 4, 2, 1),
        )  # fmt: skip
        self.dynamics = ConvolutionalDynamics(n)
        self.head = nn.Sequential(nn.BatchNorm2d(n), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 10))
        self.block = block
        self.register_buffer("ts", torch.tensor([0.0, 1.0]))
        self.load_state_dict({k: torch.as_tensor(v) for k, v in problem.parameters().items()}, strict=False)
        self.to(dtype_of(problem))

    def features(self, images: Tensor) -> Tensor:
        """Return the images (n, channels, 6, 6) after the block."""
        return self.block(self.dynamics, self.stem(images), self.ts)[-1]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def gradients(self, problem: ProblemData) -> dict[str, Tensor]:
        """Return the gradients, by name, of the loss on the problem's images."""
        (images,) = tensors_of(problem, "images")
        loss = nn.functional.cross_entropy(self(images), torch.as_tensor(problem.arrays["labels"]))
        parameters = dict(self.named_parameters())
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))


@torch.no_grad()
def load_parameters(module: nn.Module, problem: ProblemData) -> None:
    """Set a module's parameters to those of the problem, in order: weight_1, bias_1, weight_2, ..."""
    module.to(dtype_of(problem))
    for parameter, array in zip(module.parameters(), problem.parameters().values(), strict=True):
        parameter.copy_(torch.as_tensor(array))


def log_normal(z: Tensor) -> Tensor:
    """Return the log density (n,) of the standard normal at z (n, d)."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))
