"""Flows as torch distributions."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class Flow(Protocol):
    """Interface of the flows that `FlowDistribution` accepts, such as `ContinuousFlow`; x and z have shape (n, d)."""

    dim: int

    def draw_base(self, n: int) -> Tensor: ...

    def transform(self, z: Tensor) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor: ...


class FlowDistribution(Distribution):
    """A flow as a torch distribution; samples use torch's global random number generator."""

    arg_constraints: ClassVar[dict] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: Flow):
        self.flow = flow
        super().__init__(batch_shape=torch.Size(), event_shape=torch.Size([flow.dim]), validate_args=False)

    def rsample(self, sample_shape=torch.Size()) -> Tensor:
        """Return samples (*sample_shape, d), differentiable in the flow's parameters."""
        shape = torch.Size(sample_shape)
        x = self.flow.transform(self.flow.draw_base(shape.numel()))[:, : self.flow.dim]
        return x.reshape(*shape, self.flow.dim)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (...,) at points (..., d)."""
        return self.flow.log_prob(value)
