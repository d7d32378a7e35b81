"""The checkpoint file of a running fit: safetensors with a JSON header, never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..arguments import whole_number
from ..errors import ArgumentError, ModelFileError

KEY = "pyneuralode_checkpoint"  # key of the header in the file's metadata


class Checkpoint:
    """A file that stores the state of a fit: nested dicts and lists of tensors, arrays and plain values.

    Parameters
    ----------
    path : str or Path
        The file; its folder must exist.
    identity : mapping of str to str
        Settings that must match those in the file for a fit to resume from it.
    every : int
        Number of iterations between saves.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, str], every: int):
        self.path, self.identity = Path(path), dict(identity)
        if not self.path.parent.is_dir():
            raise ArgumentError(f"checkpoint is {str(path)!r}, but its folder does not exist: create it first.")
        self.every = whole_number("checkpoint_every", every)

    def exists(self) -> bool:
        return self.path.exists()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state to the file, replacing any old one; a crash while saving leaves the old file intact."""
        tensors: dict[str, Tensor] = {}
        header = {"identity": self.identity, "state": {key: _encode(v, key, tensors) for key, v in state.items()}}
        partial = self.path.with_name(self.path.name + ".partial")
        save_file(tensors, str(partial), {KEY: json.dumps(header)})
        os.replace(partial, self.path)

    def load(self) -> dict[str, Any]:
        """Return the saved state.

        Raises
        ------
        ModelFileError
            If the file is damaged or not a checkpoint.
        ArgumentError
            If the file belongs to a different fit.
        """
        try:
            with safe_open(str(self.path), "pt") as file:
                header = json.loads((file.metadata() or {}).get(KEY, "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not iterable
        except (SafetensorError, ValueError) as error:
            raise self._damaged(error) from None
        if header is None:
            raise ModelFileError(f"{self.path} is not a checkpoint of a fit: choose another path.")
        for name in {**self.identity, **header["identity"]}:
            if header["identity"].get(name) != self.identity.get(name):
                raise ArgumentError(
                    f"{name} differs from the one saved in {self.path}: use the same {name}, or remove the file to "
                    "start over."
                )
        try:
            return {key: _decode(node, tensors) for key, node in header["state"].items()}
        except ValueError as error:
            raise self._damaged(error) from None

    def _damaged(self, cause: Exception) -> ModelFileError:
        return ModelFileError(f"{self.path} is damaged ({cause}): remove it to start the fit over.")


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return `value` as JSON; its arrays, tensors and lists of numbers are moved to `tensors`, keyed by path."""
    if isinstance(value, dict):
        return {"dict": [[key, _encode(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)) and {*map(type, value)} not in ({float}, {int}):
        return {"list": [_encode(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, Tensor):
        kind, stored = "tensor", value.detach()
    elif isinstance(value, np.ndarray):
        kind, stored = "array", torch.as_tensor(value)
    elif isinstance(value, (list, tuple)):
        # A safetensors header is limited to 100 MB: too small for the JSON of a long history.
        kind, stored = "numbers", torch.tensor(value, dtype=torch.float64 if type(value[0]) is float else torch.int64)
    else:
        return {"value": value}
    tensors[path] = stored.clone(memory_format=torch.contiguous_format)
    return {kind: path, "shape": list(stored.shape)}


def _decode(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `_encode` converted to `node`, with tuples as lists."""
    kind, content = next(iter(node.items()))
    if kind == "value":
        return content
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    if kind == "list":
        return [_decode(item, tensors) for item in content]
    tensor, shape = tensors.get(content), tuple(node["shape"])
    if tensor is None:
        raise ValueError(f"{content} is missing")
    if tensor.shape != shape:
        raise ValueError(f"{content} has shape {tuple(tensor.shape)}, not {shape}")
    return tensor if kind == "tensor" else tensor.numpy() if kind == "array" else tensor.tolist()
