"""Saving a fit between two iterations, and going on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .checkpoint_file import CheckpointFile
from .result import StageResult

if TYPE_CHECKING:
    from .fit import _Run


class Checkpoint(CheckpointFile):
    """The file of one fit: variables, best variables, optimizer state and history."""

    KEY, OF = "pyneuralode_fit", "a fit"

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
        optimizer = _flatten(run.optimizer.state_dict()["state"], "optimizer", tensors)
        self.write(tensors, {"results": results, "optimizer": optimizer, "begun": run.begun})

    def load(self, run: _Run) -> None:
        tensors, header = self.read()
        run.best = self.part(tensors, "best", run.variables.free)
        run.variables.restore(self.part(tensors, "now", run.variables.free))
        run.results = []
        for k, values in enumerate(header["results"]):
            prefix = f"stage/{k}/"
            parameters = {key.removeprefix(prefix): t.numpy() for key, t in tensors.items() if key.startswith(prefix)}
            run.results.append(StageResult(**values, parameters=parameters))
        run.make_optimizer(run.stages[len(run.results) - 1])
        run.begun = tuple(header["begun"])
        self.load_optimizer(run.optimizer, _unflatten(header["optimizer"], tensors))


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
