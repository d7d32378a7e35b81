"""A convolutional network on images, with the time as an additional channel."""

from __future__ import annotations

from dataclasses import dataclass

from ..arguments import checked, known_name, nonnegative_number, positive_number, whole_number, whole_numbers
from ..errors import ArgumentError
from .networks import INITIALIZATIONS, Network, known_activation, layer_shapes


def _odd_side(name: str, value: object) -> int:
    side = whole_number(name, value, example=3)
    if side % 2 == 0:
        raise ArgumentError(f"{name} is {side}: give an odd number, such as 3, so that images keep their size.")
    return side


@dataclass(frozen=True)
class ConcatConv(Network):
    """A convolutional network with ``t / time_scale`` as the last input channel of each layer (Grathwohl et al. 2019).

    The state is an image flattened to (..., channels * height * width), channels first; zero padding keeps the image
    size.

    Parameters
    ----------
    channels, height, width : int
        Shape of the image.
    hidden : sequence of int
        Numbers of channels between the convolutions; the last convolution returns `channels` channels.
    kernel : int
        Side length of the kernels, an odd number.
    activation : str
        One of `pyneuralode.fields.ACTIVATIONS`, applied after each convolution except the last.
    time_scale, output_scale, init, init_scale, init_bias
        As in `pyneuralode.ConcatMLP`.

    The parameters are ``weight_1`` (out, in + 1, kernel, kernel), ``bias_1`` (out,), ``weight_2``, ... in that order.
    The divergence of this field has no closed form: for large images, use Hutchinson's estimator in flows.

    Raises
    ------
    ArgumentError
        If a value is invalid.

    Examples
    --------
    >>> import pyneuralode as pn
    >>> field = pn.ConcatConv(channels=1, height=4, width=4, hidden=(8,))
    >>> field.dim, field.shapes()["weight_1"]
    (16, (8, 2, 3, 3))
    >>> pn.NeuralODE(field, engine="torch")([0.0] * 16, [0.0, 1.0]).shape
    (2, 16)
    """

    channels: int = checked(whole_number, 1, example=3)
    height: int = checked(whole_number, 28, example=28)
    width: int = checked(whole_number, 28, example=28)
    hidden: tuple[int, ...] = checked(
        whole_numbers, (64, 64, 64), remedy="give positive numbers of channels, such as (64, 64, 64)"
    )
    kernel: int = checked(_odd_side, 3)
    activation: str = checked(known_activation, "softplus")
    time_scale: float = checked(positive_number, 1.0)
    output_scale: float = checked(positive_number, 1.0)
    init: str = checked(known_name, "torch", known=INITIALIZATIONS)
    init_scale: float = checked(positive_number, 1.0)
    init_bias: float = checked(nonnegative_number, 0.0)

    @property
    def dim(self) -> int:
        return self.channels * self.height * self.width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        widths = (self.channels, *self.hidden, self.channels)
        return layer_shapes(widths, extra=1, kernel=(self.kernel, self.kernel))
