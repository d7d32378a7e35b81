"""A convolutional network of an image, with the time as one more channel."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ArgumentError
from .base import (
    ACTIVATIONS,
    Network,
    canonical,
    check_counts,
    check_drawing,
    check_scales,
    check_widths,
    layer_shapes,
)


@dataclass(frozen=True)
class ConcatConv(Network):
    """Convolutions, each of which gets ``t / time_scale`` as its last input channel (Grathwohl et al. 2019).

    The state is an image as one vector (..., channels * height * width), channels first; zero padding keeps its size.

    Parameters
    ----------
    channels, height, width : int
        Shape of the image.
    hidden : sequence of int
        Channels between the convolutions; the last convolution goes back to `channels`.
    kernel : int
        Side of the kernels, odd.
    activation : str
        One of `pyneuralode.fields.ACTIVATIONS`, between the convolutions; the last one is linear.
    time_scale, output_scale, init, init_scale, init_bias
        As in `pyneuralode.ConcatMLP`.

    The parameters are ``weight_1`` (out, in + 1, kernel, kernel), ``bias_1`` (out,), ``weight_2``, ... in that order.
    The divergence has no closed form: flows of large images take Hutchinson's estimate.
    """

    channels: int = 1
    height: int = 28
    width: int = 28
    hidden: tuple[int, ...] = (64, 64, 64)
    kernel: int = 3
    activation: str = "softplus"
    time_scale: float = 1.0
    output_scale: float = 1.0
    init: str = "torch"
    init_scale: float = 1.0
    init_bias: float = 0.0

    def __post_init__(self):
        check_counts(self, 3, "channels", "height", "width", "kernel")
        if self.kernel % 2 == 0:
            raise ArgumentError(
                f"kernel is {self.kernel}: give an odd side, such as 3, so that images keep their size."
            )
        remedy = "give positive numbers of channels, such as (64, 64, 64)"
        object.__setattr__(self, "hidden", check_widths("hidden", self.hidden, remedy))
        object.__setattr__(self, "activation", canonical("activation", self.activation, ACTIVATIONS))
        check_scales(self, "time_scale", "output_scale")
        check_drawing(self)

    @property
    def dim(self) -> int:
        return self.channels * self.height * self.width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return layer_shapes((self.channels, *self.hidden, self.channels), joined=1, window=(self.kernel, self.kernel))
