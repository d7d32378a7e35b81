"""The file that a fit is saved to every so often: safetensors with a JSON header, never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..arguments import whole_number
from ..errors import ArgumentError, ModelFileError


class CheckpointFile:
    """Tensors and a header in one file; `identity` is what has to be the same for a fit to go on from it.

    A kind of checkpoint says by `KEY` under which name its header stands, and by `OF` of what it is, in words.
    """

    KEY: ClassVar[str]
    OF: ClassVar[str]

    def __init__(self, path: Path, identity: Mapping[str, str], every: int):
        if not path.parent.is_dir():
            raise ArgumentError(f"checkpoint is {str(path)!r}, whose folder is not there: make it first.")
        self.path, self.identity, self.every = path, dict(identity), whole_number("checkpoint_every", every)

    def exists(self) -> bool:
        return self.path.exists()

    def write(self, tensors: dict[str, Tensor], header: Mapping[str, Any]) -> None:
        """Write all or nothing."""
        partial = self.path.with_name(self.path.name + ".partial")
        whole = {name: value.contiguous() for name, value in tensors.items()}  # channels_last is not
        save_file(whole, str(partial), {self.KEY: json.dumps({"identity": self.identity, **header})})
        os.replace(partial, self.path)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and header.

        Raises ModelFileError for a file that is no such checkpoint, ArgumentError for that of another fit.
        """
        try:
            with safe_open(str(self.path), "pt") as file:
                header = json.loads((file.metadata() or {}).get(self.KEY, "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, ValueError) as error:
            raise ModelFileError(f"{self.path} is damaged ({error}): remove it to start the fit anew.") from None
        if header is None:
            raise ModelFileError(f"{self.path} is not the checkpoint of {self.OF}: give another path.")
        for name in {**self.identity, **header["identity"]}:
            if header["identity"].get(name) != self.identity.get(name):
                raise ArgumentError(
                    f"{name} differs from that in {self.path}: give the same, or remove the file to start anew."
                )
        return tensors, header

    def part(self, tensors: Mapping[str, Tensor], prefix: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors ``prefix/name`` by name, on the devices and in the shapes and memory formats of `like`."""
        return {name: self._fitted(f"{prefix}/{name}", tensors.get(f"{prefix}/{name}"), t) for name, t in like.items()}

    def load_optimizer(self, optimizer: torch.optim.Optimizer, states: Mapping[int, dict[str, Any]]) -> None:
        """Give an optimizer the states of its parameters, by their numbers.

        A fused optimizer pairs a state with its parameter by raw memory: it has to lie there as the parameter does.
        """
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        if isinstance(optimizer, torch.optim.LBFGS):
            return  # its state is of all parameters together, in one flat vector
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and name != "step":
                    state[name] = self._fitted(f"the optimizer's {name}", value, parameter)

    def _fitted(self, name: str, value: Tensor | None, like: Tensor) -> Tensor:
        """Return a copy of a tensor of the file that is like another, whose shape it has."""
        if value is None or value.shape != like.shape:
            found = "is missing" if value is None else f"has shape {tuple(value.shape)}, not {tuple(like.shape)}"
            raise ModelFileError(f"{self.path} is damaged ({name} {found}): remove it to start the fit anew.")
        return torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value)
