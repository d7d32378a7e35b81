"""`FlatLayout`: the parts of a flat state, and its conversion back to the user's state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class FlatLayout:
    """Shapes of the parts of a flat state.

    `order` is the order of the parts in the user's state; None if it is the order in which they are stored.
    """

    shapes: tuple[torch.Size, ...]
    is_tuple: bool
    order: tuple[int, ...] | None = None

    @cached_property
    def sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    def unpack(self, flat: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return flat states (..., n) in the user's shape or shapes, with the leading axes kept."""
        lead = flat.shape[:-1]
        if not self.is_tuple:
            return flat.reshape(lead + self.shapes[0])
        pieces = flat.split(self.sizes, dim=-1)
        parts = [piece.reshape(lead + shape) for piece, shape in zip(pieces, self.shapes)]
        return tuple(parts if self.order is None else [parts[i] for i in self.order])
