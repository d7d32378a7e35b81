"""Parts of image classifiers: convolutional dynamics with or without time dependence, and residual blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TimeConv2d(nn.Conv2d):
    """A 3x3 convolution, without bias, of images (n, in, height, width) with the time t as an additional last channel.

    Its weight has shape (out, in + 1, 3, 3). The time channel is the same for all images: it is convolved once per
    batch and added, which saves a copy of the images and avoids an odd number of channels.
    """

    def __init__(self, channels: int, out: int):
        super().__init__(channels + 1, out, 3, padding=1, bias=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        time = t.to(x.dtype).expand(1, 1, *x.shape[-2:])
        along = functional.conv2d(time, self.weight[:, -1:], padding=1)
        return functional.conv2d(x, self.weight[:, :-1], padding=1) + along


class PlainConv2d(nn.Conv2d):
    """A 3x3 convolution, without bias, called with a time t that it ignores."""

    def __init__(self, channels: int, out: int):
        super().__init__(channels, out, 3, padding=1, bias=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return super().forward(x)


class TimeBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization for dynamics on [0, 1], with separate running statistics for each of `parts` equal intervals.

    Training normalizes by the batch's statistics, which change with t. An average over all times matches the statistics
    at none of them, so with a single average the tested network would differ from the trained one. An interval that
    training never visited uses the statistics of the nearest visited interval. ``parts=1`` is equivalent to
    `torch.nn.BatchNorm2d`; ``momentum`` has the same meaning but cannot be None.
    """

    def __init__(self, channels: int, parts: int):
        super().__init__(channels)
        self.running_mean = torch.zeros(parts, channels)
        self.running_var = torch.ones(parts, channels)
        self.num_batches_tracked = torch.zeros(parts, dtype=torch.long)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, parts={len(self.num_batches_tracked)}"

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        normalize, settings = functional.batch_norm, (self.weight, self.bias, self.training)
        if self.training and not self.track_running_stats:
            return normalize(x, None, None, *settings, eps=self.eps)
        part = self._part(t)
        mean, var = self.running_mean[part][0], self.running_var[part][0]
        normalized = normalize(x, mean, var, *settings, self.momentum, self.eps)
        if self.training:
            self.num_batches_tracked[part] += 1
            self.running_mean[part], self.running_var[part] = mean[None], var[None]
        return normalized

    def _part(self, t: Tensor) -> Tensor:
        """Return the index (1,) of the interval that contains t; in evaluation mode, the nearest visited interval."""
        parts = len(self.num_batches_tracked)
        # Because of rounding, 0.05 + 0.05 + 0.05 may be below 0.15.
        part = (t * parts + 1e-3).floor().long().clamp(0, parts - 1).reshape(1)
        if self.training:
            return part
        unseen = self.num_batches_tracked == 0
        distance = (torch.arange(parts, device=part.device) - part).abs() + parts * unseen
        return distance.argmin().reshape(1)


class ConvDynamics(nn.Module):
    """Dynamics f(t, x) of images (n, channels, height, width): 3x3 convolution, ReLU and batch norm, twice.

    With ``time=True`` each convolution has t as an additional input channel. `parts` is passed to `TimeBatchNorm2d`.

    Examples
    --------
    >>> import torch
    >>> from pyneuralode.images import ConvDynamics
    >>> ConvDynamics(8)(torch.tensor(0.5), torch.zeros(2, 8, 6, 6)).shape
    torch.Size([2, 8, 6, 6])
    """

    def __init__(self, channels: int, time: bool = True, parts: int = 1):
        super().__init__()
        convolution = TimeConv2d if time else PlainConv2d
        self.convolutions = nn.ModuleList(convolution(channels, channels) for _ in range(2))
        self.norms = nn.ModuleList(TimeBatchNorm2d(channels, parts) for _ in range(2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms):
            x = norm(t, torch.relu(convolution(t, x)))
        return x


class ResidualBlock(nn.Module):
    """The pre-activation map x -> x + g(x), where g applies batch norm, ReLU and convolution twice (He et al. 2016).

    The convolutions are 3x3. If `stride` is above 1 or the number of output channels `out` differs, a 1x1 convolution
    of the normalized and activated input replaces x in the sum.
    """

    def __init__(self, channels: int, out: int | None = None, stride: int = 1):
        super().__init__()
        out = channels if out is None else out
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (channels, out))
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.Conv2d(out, out, 3, padding=1, bias=False)]
        )
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if stride > 1 or out != channels else None

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.norms[0](x))
        kept = x if self.shortcut is None else self.shortcut(first)
        second = torch.relu(self.norms[1](self.convolutions[0](first)))
        return kept + self.convolutions[1](second)
