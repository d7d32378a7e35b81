"""Saving a fit between two iterations, and going on from there: safetensors and JSON, never pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ArgumentError, ModelFileError
from .result import StageResult

if TYPE_CHECKING:
    from .fit import _Run


class Checkpoint:
    """The file of one fit: variables, best variables, optimiser state and history."""

    def __init__(self, path: Path, identity: dict[str, str], every: int):
        if int(every) < 1:
            raise ArgumentError(f"checkpoint_every is {every}: give a number of at least 1.")
        self.path, self.identity, self.every = path, identity, int(every)
        if not path.parent.is_dir():
            raise ArgumentError(f"checkpoint is {str(path)!r}, whose folder is not there: make it first.")

    def exists(self) -> bool:
        return self.path.exists()

    def save(self, run: _Run) -> None:
        tensors: dict[str, Tensor] = {}
        for name, value in run.variables.free.items():
            tensors[f"now/{name}"] = value.detach().clone()
            tensors[f"best/{name}"] = run.best[name].clone()
        results = []
        for k, result in enumerate(run.results):
            for name, array in result.parameters.items():
                tensors[f"stage/{k}/{name}"] = torch.as_tensor(array).clone()
            results.append({key: value for key, value in vars(result).items() if key != "parameters"})
        optimiser = _flatten(run.optimiser.state_dict()["state"], "optimiser", tensors)
        header = {"identity": self.identity, "results": results, "optimiser": optimiser}
        partial = self.path.with_name(self.path.name + ".partial")
        save_file(tensors, str(partial), {"pyneuralode_fit": json.dumps(header)})
        os.replace(partial, self.path)  # never half a checkpoint

    def load(self, run: _Run) -> None:
        try:
            with safe_open(str(self.path), "pt") as file:
                header = json.loads((file.metadata() or {}).get("pyneuralode_fit", "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, ValueError) as error:
            raise ModelFileError(f"{self.path} is damaged ({error}): remove it to start the fit anew.") from None
        if header is None:
            raise ModelFileError(f"{self.path} is not the checkpoint of a fit: give another path.")
        for name, value in self.identity.items():
            if header["identity"][name] != value:
                raise ArgumentError(
                    f"{name} differs from that in {self.path}: give the same, or remove the file to start anew."
                )
        run.best = {name: tensors[f"best/{name}"] for name in run.variables.free}
        run.variables.restore({name: tensors[f"now/{name}"] for name in run.variables.free})
        run.results = []
        for k, values in enumerate(header["results"]):
            prefix = f"stage/{k}/"
            parameters = {key.removeprefix(prefix): t.numpy() for key, t in tensors.items() if key.startswith(prefix)}
            run.results.append(StageResult(**values, parameters=parameters))
        run.make_optimiser(run.stages[len(run.results) - 1])
        state = run.optimiser.state_dict()
        state["state"] = _unflatten(header["optimiser"], tensors)
        run.optimiser.load_state_dict(state)


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON, its tensors moved to `tensors` and replaced by their names there."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().clone()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_flatten(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    return {"value": value}


def _unflatten(node: dict, tensors: dict[str, Tensor]) -> Any:
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "dict" in node:
        return {key: _unflatten(item, tensors) for key, item in node["dict"]}
    if "list" in node:
        return [_unflatten(item, tensors) for item in node["list"]]
    return node["value"]
