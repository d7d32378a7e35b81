"""The value of a convolutional field and its vector-Jacobian products e^T J, computed layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...fields import ConcatConv
from .activations import ACTIVATIONS, DERIVATIVES


class ConvNet:
    """The value of a `ConcatConv`, and the vector-Jacobian products for Hutchinson's trace estimate; z is (n, d).

    If an instance is created under torch.autocast, it always computes convolutions in autocast's dtype. Inputs and
    outputs keep the state's dtype, as should everything computed from them: see `pyneuralode.flows.dynamics`.
    Images are laid out in `memory_format`; `torch.func.vmap` supports only the contiguous format.
    """

    def __init__(
        self,
        field: ConcatConv,
        parameters: dict[str, Tensor],
        memory_format: torch.memory_format = torch.channels_last,
    ):
        layers = len(field.hidden) + 1
        self.field, self.pad, self.memory_format = field, field.kernel // 2, memory_format
        self.layers = [(parameters[f"weight_{i}"], parameters[f"bias_{i}"]) for i in range(1, layers + 1)]
        self.activate, self.derivative = ACTIVATIONS[field.activation], DERIVATIVES[field.activation]
        device = self.layers[0][0].device.type
        self.lower = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

    def slope(self, t: float | Tensor, z: Tensor) -> Tensor:
        """Return f(t, z), which has the same shape (..., d) as z."""
        *inner, last = self._layers_at(t, self.lower or z.dtype)
        x = self._image(z)
        for weight, bias in inner:
            x = self.activate(functional.conv2d(x, weight, padding=self.pad) + bias)
        weight, bias = last
        return self._vector(functional.conv2d(x, weight, padding=self.pad) + bias, z)

    def vjp(self, t: float | Tensor, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(t, z) and the vector-Jacobian products e^T J, both of shape (n, d), for e (n, d)."""
        layers = self._layers_at(t, self.lower or z.dtype)
        x, gains = self._image(z), []
        for weight, bias in layers[:-1]:
            before = functional.conv2d(x, weight, padding=self.pad) + bias
            x = self.activate(before)
            gains.append(self.derivative(before, x))
        weight, bias = layers[-1]
        slope = functional.conv2d(x, weight, padding=self.pad) + bias
        row = functional.conv_transpose2d(self._image(e), weight, padding=self.pad)
        for (weight, _), gain in zip(reversed(layers[:-1]), reversed(gains)):
            row = functional.conv_transpose2d(row * gain, weight, padding=self.pad)
        return self._vector(slope, z), self._vector(row, z)

    def _layers_at(self, t: float | Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Return, for each layer at time t, the kernel without the time channel and a bias for each pixel.

        Kernels have shape (out, in, k, k), biases (1, out, height, width). The time channel is the same for all images
        and, except for the padding, constant in space, so its contribution can be part of the bias.
        """
        field = self.field
        time = self.layers[0][0].new_ones(1, 1, field.height, field.width) * (t / field.time_scale)
        layers = []
        for weight, bias in self.layers:
            along = functional.conv2d(time, weight[:, -1:], bias, padding=self.pad)
            layers.append((weight[:, :-1].to(dtype), along.to(dtype)))
        return layers

    def _image(self, z: Tensor) -> Tensor:
        """Return states (..., d) as images, in the dtype used for convolutions."""
        field = self.field
        images = z.reshape(-1, field.channels, field.height, field.width)
        return images.to(self.lower or z.dtype, memory_format=self.memory_format)

    def _vector(self, image: Tensor, z: Tensor) -> Tensor:
        """Return images as scaled states with the shape and dtype of z."""
        scale = self.field.output_scale
        vector = image.to(z.dtype).reshape(z.shape)
        return vector * scale if scale != 1 else vector
