"""Labeled images in memory, and their batches: cropped, mirrored and normalized a whole batch at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...arguments import whole_number
from ...errors import ArgumentError, DataError
from ...fitting.batches import ShuffledBatches


@dataclass(frozen=True)
class ImageData:
    """Images and their labels, as two tensors.

    Parameters
    ----------
    images : uint8 (n, channels, height, width) or (n, height, width)
        Arrays or tensors.
    labels : integers (n,)
        From 0 to ``classes - 1``.
    classes : int
    mean, deviation : tuple of float, optional
        Mean and standard deviation of each channel, for pixels from 0 to 1: normalization subtracts the mean and
        divides by the standard deviation. Computed from these images by default; for test images, use those of the
        training images (see `like`).

    Raises
    ------
    DataError
        If images or labels are not as described above.

    Examples
    --------
    >>> import numpy as np
    >>> from pyneuralode.images.training import ImageData
    >>> data = ImageData(np.arange(32, dtype=np.uint8).reshape(2, 4, 4), [0, 1], classes=2)
    >>> data.shape
    (1, 4, 4)
    """

    images: Tensor
    labels: Tensor
    classes: int = 10
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = _images(self.images), _labels(self.labels, self.classes)
        if len(images) != len(labels):
            raise DataError(
                f"images has {len(images)} entries, but labels has {len(labels)}: give one label for each image."
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)
        channels = images.shape[1]
        for name, compute in (("mean", torch.mean), ("deviation", torch.std)):
            value = getattr(self, name)
            if value is None:
                by_channel = images.transpose(0, 1).flatten(1)
                value = [float(compute(pixels.double())) / 255 for pixels in by_channel]
            if len(value) != channels or not np.isfinite(value).all():
                raise DataError(
                    f"{name} is {value}: give one finite number per channel (number of channels: {channels})."
                )
            object.__setattr__(self, name, tuple(value))
        if min(self.deviation) <= 0:
            raise DataError(
                f"deviation is {self.deviation}, but a channel without contrast cannot be normalized: "
                "give positive numbers."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return tuple(self.images.shape[1:])

    def like(self, images: Any, labels: Any) -> ImageData:
        """Return an `ImageData` of other images with the same classes and normalization."""
        return replace(self, images=images, labels=labels)

    def take(self, count: int | None) -> ImageData:
        """Return the first `count` images and labels, or all of them if `count` is None."""
        if count is None:
            return self
        if whole_number("images", count) > len(self):
            raise ArgumentError(f"images is {count}: give a number from 1 to {len(self)}.")
        return self.like(self.images[:count], self.labels[:count])

    def to(self, device: torch.device) -> ImageData:
        """Return the same images and labels on a device."""
        return self.like(self.images.to(device), self.labels.to(device))

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels (n, channels, height, width) as floats, standardized in each channel."""
        mean, deviation = (
            torch.tensor(value, device=pixels.device).view(-1, 1, 1) for value in (self.mean, self.deviation)
        )
        return pixels.float().sub_(255 * mean).div_(255 * deviation)

    def digest(self) -> str:
        """Return a checksum of the images and labels."""
        found = hashlib.sha256(self.images.cpu().numpy())
        found.update(self.labels.cpu().numpy())
        return found.hexdigest()


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images.

    Attributes
    ----------
    crop : int
        Number of black pixels added on every side before each image is cropped to its original size at a random
        position, which shifts it by up to `crop` pixels.
    flip : bool
        Mirror each image, left to right, with probability one half.
    """

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "crop", whole_number("crop", self.crop, 0, 4))

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """Return random integers (count, 3): the first row and column of each crop, and whether it is mirrored."""
        span = 2 * self.crop + 1
        return torch.as_tensor(rng.integers(0, [span, span, 1 + self.flip], size=(count, 3)))

    def apply(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Return pixels (n, channels, height, width), cropped and mirrored according to the draws (n, 3)."""
        row, column, mirrored = draws.to(pixels.device).unbind(1)
        if self.crop:
            height, width = pixels.shape[-2:]
            padded = nn.functional.pad(pixels, (self.crop,) * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            pixels = windows[torch.arange(len(pixels), device=pixels.device), :, row, column]
        if self.flip:
            pixels = torch.where(mirrored.bool().view(-1, 1, 1, 1), pixels.flip(-1), pixels)
        return pixels


class Batches:
    """The batches of a training run; all randomness follows from the seed and the index of the update."""

    def __init__(self, data: ImageData, size: int, augmentation: Augmentation, seed: int):
        if not 1 <= size <= len(data):
            raise ArgumentError(
                f"batch is {size}, but there are {len(data)} images: give a number from 1 to {len(data)}."
            )
        seed = whole_number("seed", seed, 0)
        self.data, self.size, self.augmentation, self.seed = data, size, augmentation, seed
        self.order = ShuffledBatches(len(data), size, seed, 0)
        self.each_epoch = self.order.each_epoch

    def __call__(self, update: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return the normalized images and the labels of an update's batch, or of a part of it."""
        rows = torch.as_tensor(self.order(update)[part], device=self.data.images.device)
        draws = self.augmentation.draw(np.random.default_rng((self.seed, 1, update)), self.size)[part]
        pixels = self.augmentation.apply(self.data.images[rows], draws)
        return self.data.normalized(pixels), self.data.labels[rows]


def _images(images: Any) -> Tensor:
    """Return images as uint8 (n, channels, height, width), or raise a DataError."""
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8:
        raise DataError(
            f"images are of type {str(images.dtype).removeprefix('torch.')}: give integers from 0 to 255 as uint8."
        )
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.numel() == 0:
        raise DataError(
            f"images have shape {tuple(images.shape)}: use shape (n, height, width) or (n, channels, height, width)."
        )
    return images.contiguous()


def _labels(labels: Any, classes: int) -> Tensor:
    """Return labels as int64 (n,), or raise a DataError."""
    labels = torch.as_tensor(labels)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(
            f"labels have shape {tuple(labels.shape)} and type {str(labels.dtype).removeprefix('torch.')}: "
            "use integers of shape (n,)."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(f"labels range from {labels.min()} to {labels.max()}: use integers from 0 to {classes - 1}.")
    return labels.long()
