"""Image models: ODE blocks as layers of torch networks, and complete classifiers, trained by `images.training`."""

from .anodev2 import image_model
from .blocks import ConvDynamics, ResidualBlock
from .coupled import CoupledODE
from .evolution import Evolution, Hypernetwork, KernelNetwork, ODEEvolution, ReactionDiffusionAdvection
from .ode_block import ODEBlock
from .odenet import classifier

__all__ = [
    "ConvDynamics",
    "CoupledODE",
    "Evolution",
    "Hypernetwork",
    "KernelNetwork",
    "ODEBlock",
    "ODEEvolution",
    "ReactionDiffusionAdvection",
    "ResidualBlock",
    "classifier",
    "image_model",
]
