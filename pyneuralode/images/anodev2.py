"""The networks of ANODEV2 (Zhang et al., NeurIPS 2019) for CIFAR-10: AlexNet, ResNet-4 and ResNet-10, in five variants.

The paper lists accuracies and parameter counts, but not the layers. The baselines here match the paper's counts
exactly. As in the same group's public code for ANODE, the last residual block of each stage becomes an ODE; it changes
neither the channels nor the size. Its right-hand side ends in a ReLU, and no ReLU follows the block. The parameter
counts imply that every step has its own batch norms and that AlexNet's convolution inside the ODE has no bias.

`parameter_table` compares the counts. For the ODEs with constant weights, and for all variants of AlexNet, they agree
to the last printed digit. For ANODEV2 this requires six numbers per output channel of an evolving convolution, the
coefficients of a second-order operator in the plane: three for diffusion, two for advection and one for reaction. In
the paper, ResNet-4 and ResNet-10 have one more number per channel and step, 0.2 to 1 % of the total, which it does not
explain; that number is omitted here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import unknown_name
from .coupled import CoupledODE
from .evolution import ReactionDiffusionAdvection

NETS = ("alexnet", "resnet4", "resnet10")
VARIANTS = ("baseline", "neural_ode", "anode", "anodev2_one", "anodev2_two")
# Parameter counts of Table 3, in thousands; Neural ODE and ANODE are the same network.
PRINTED = {
    "alexnet": {"baseline": 1756.68, "anodev2_one": 1757.51, "anodev2_two": 1757.13, "anode": 1757.13},
    "resnet4": {"baseline": 7.71, "anodev2_one": 8.23, "anodev2_two": 7.99, "anode": 7.96},
    "resnet10": {"baseline": 44.19, "anodev2_one": 45.77, "anodev2_two": 45.05, "anode": 44.95},
}


def image_model(
    net: str,
    variant: str,
    *,
    steps: int | None = None,
    weight_steps: int | None = None,
    solver: str = "Euler",
    seed: int = 0,
) -> nn.Module:
    """Return an untrained network that maps images (n, 3, 32, 32) to logits (n, 10).

    Parameters
    ----------
    net : {"alexnet", "resnet4", "resnet10"}
    variant : {"baseline", "neural_ode", "anode", "anodev2_one", "anodev2_two"}
        In this order: the residual network; an ODE with constant weights whose adjoint is solved backward in the same
        steps (`BacksolveAdjoint`); the same ODE with the gradient of its discrete steps (`Checkpointed`); an ODE whose
        kernels also evolve, either in the same steps as the activations or in ten separate steps.
    steps : int, optional
        Number of steps of the activations (Nt in the paper): by default 2 for "anodev2_two" and 5 for the others. The
        baseline has none.
    weight_steps : int, optional
        Number of steps of the kernels: by default 10 for "anodev2_two" and `steps` for "anodev2_one".
    solver : str
        Explicit solver for the activations, such as "Euler" or "RK4".
    seed : int
        Seed of the initial weights. The four ODE variants of a net start from the same weights.

    Raises
    ------
    ArgumentError
        For an unknown net, variant or solver, or a number of steps that is not positive.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode.images import image_model
    >>> model = image_model("resnet4", "anodev2_one")
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if net not in NETS:
        raise unknown_name("net", net, NETS)
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    if steps is None:
        steps = 2 if variant == "anodev2_two" else 5
    if weight_steps is None and variant == "anodev2_two":
        weight_steps = 10

    def block(channels: int, *, kernel: int = 3, layers: int = 2, bias: bool = False) -> nn.Module:
        if variant == "baseline":
            return PostActivationBlock(channels, channels, kernel=kernel, layers=layers, bias=bias)
        dynamics = StackedDynamics(channels, kernel, layers)
        evolutions = {}
        if variant.startswith("anodev2"):
            evolutions = {
                f"convolutions.{layer}.weight": ReactionDiffusionAdvection(
                    (channels, channels, kernel, kernel), "tanh", diffusion="tensor"
                )
                for layer in range(layers)
            }
        return CoupledODE(
            dynamics,
            evolutions,
            steps=steps,
            weight_steps=weight_steps,
            solver=solver,
            gradient="BacksolveAdjoint" if variant == "neural_ode" else None,
            per_step=[f"norms.{layer}" for layer in range(layers)],
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {"alexnet": _alexnet, "resnet4": _resnet4, "resnet10": _resnet10}[net](block)


class PostActivationBlock(nn.Module):
    """The map x -> ReLU(x + g(x)) (He et al. 2016).

    g consists of convolutions and batch norms, with ReLUs in between.
    """

    def __init__(
        self, channels: int, out: int, *, kernel: int = 3, layers: int = 2, stride: int = 1, bias: bool = False
    ):
        super().__init__()
        widths, strides = [channels] + [out] * layers, [stride] + [1] * (layers - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(*widths[layer : layer + 2], kernel, strides[layer], padding=kernel // 2, bias=bias)
            for layer in range(layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _ in range(layers))
        self.shortcut = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        change = x
        for layer, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            change = norm(convolution(torch.relu(change) if layer else change))
        return torch.relu(self.shortcut(x) + change)


class StackedDynamics(nn.Module):
    """Dynamics f(t, z) of images (n, channels, height, width): convolutions, each followed by batch norm and ReLU."""

    def __init__(self, channels: int, kernel: int, layers: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False) for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms):
            z = torch.relu(norm(convolution(z)))
        return z


@dataclass(frozen=True)
class ParameterCount:
    """Number of parameters of one variant of a net: `ours`, and the number `printed` in Table 3, rounded to tens."""

    net: str
    variant: str
    ours: int
    printed: float

    @property
    def difference(self) -> int:
        """The printed number minus ours; differences of up to five are due to rounding."""
        return round(self.printed) - self.ours


def parameter_table() -> list[ParameterCount]:
    """Return our counts and those of Table 3, with five steps of the activations (two in configuration two)."""
    return [
        ParameterCount(net, variant, sum(p.numel() for p in image_model(net, variant).parameters()), 1000 * thousands)
        for net, row in PRINTED.items()
        for variant, thousands in row.items()
    ]


def _alexnet(block: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(block(64, kernel=5, layers=1, bias=True), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(4096, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, 10)),
    )


def _resnet4(block: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(*_stem(), block(16), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(256, 10))


def _resnet10(block: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(*_stem(), PostActivationBlock(16, 16), block(16), PostActivationBlock(16, 32, stride=2), block(32)),
        *(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(128, 10)),
    )


def _stem() -> list[nn.Module]:
    return [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
