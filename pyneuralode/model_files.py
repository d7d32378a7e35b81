"""Saved models: each is a safetensors file with arrays and a description as JSON in its header, but without code.

Each kind of model has a classmethod ``from_saved(description, arrays)`` and an entry in `KINDS` that names its class.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import ArgumentError, ModelFileError, kind_of
from .julia_source import find_source

if TYPE_CHECKING:
    from torch import nn
    from torch.distributions import Distribution

FORMAT = 1
# The class that reads each kind of model, imported when a file of that kind is read.
KINDS = {
    "NeuralODE": "models.NeuralODE",
    "AugmentedNeuralODE": "models.AugmentedNeuralODE",
    "ContinuousFlow": "flows.continuous.ContinuousFlow",
    "PlanarFlow": "flows.planar.PlanarFlow",
    "ImageFlow": "flows.images.multiscale.ImageFlow",
    "image classifier": "images.training.specs.ClassifierSpec",
}


def load(
    path: str | Path, *, base: Distribution | None = None, julia: Mapping[str, str | Path] | None = None
) -> nn.Module:
    """Load a model that was saved by its method `save` or by a command such as `pyneuralode train`.

    Parameters
    ----------
    path : path
        A safetensors file.
    base : torch.distributions.Distribution, optional
        The base density of a `ContinuousFlow` that was saved with a custom base density: files contain only its name.
    julia : mapping of str to str or Path, optional
        The Julia source of a field, solver or gradient method, by its name: files contain only the source's SHA-256,
        and other source is refused.

    Returns
    -------
    torch.nn.Module
        A `NeuralODE`, `AugmentedNeuralODE`, `ContinuousFlow`, `PlanarFlow`, `ImageFlow` or image classifier.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, of a newer version, or not a model of pyneuralode.
    ArgumentError
        If `base` or `julia` is required but missing, or given for a model that has none.

    Examples
    --------
    >>> import pyneuralode as pn, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> pn.NeuralODE(pn.MLP((2, 50, 2)), solver="DP5").save(path)
    >>> pn.load(path).solver
    'DP5'
    """
    arrays, description = read_model_file(path)
    kind = description.pop("model", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelFileError(
            f"{path} contains a model of kind {kind!r}, which is unknown: the known kinds are {', '.join(KINDS)}."
        )
    module, name = KINDS[kind].rsplit(".", 1)
    read = getattr(importlib.import_module(f".{module}", __package__), name).from_saved
    takes_base = "base" in inspect.signature(read).parameters
    if base is not None and not takes_base:
        raise ArgumentError(
            f"base is given, but {path} contains a model of kind {kind!r}, which has no base: leave base out."
        )
    own = description.pop("base", "standard normal")
    if takes_base and base is None and own != "standard normal":
        raise ArgumentError(
            f"base is missing, but the flow in {path} was saved with a custom base, a {own}: use load(path, base=...)."
        )
    _restore_sources(description, julia, path)
    try:
        return read(description, arrays, **({"base": base} if takes_base else {}))
    except (ArgumentError, ModelFileError) as error:
        raise ModelFileError(f"{path} cannot be loaded: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path} has a damaged description ({error}): save the model again.") from None


def _restore_sources(description: dict[str, Any], julia: Mapping[str, str | Path] | None, path: str | Path) -> None:
    """Put the Julia source that the caller gives into a description: that of the field, solver and gradient method."""
    coded = [key for key in ("field", "solver", "gradient") if "sha256" in _mapping(description.get(key))]
    if julia is not None and not coded:
        raise ArgumentError(f"julia is given, but the model in {path} contains no Julia source: leave julia out.")
    for key in coded:
        saved = description[key]
        source = find_source(saved, julia or {}, path)
        del saved["sha256"]
        description[key] = source if key == "solver" else {**saved, "source": source}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def read_model_file(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the description in a pyneuralode file; for any other file, raise ModelFileError."""
    if not isinstance(path, (str, Path)):
        raise ArgumentError(f"path is {kind_of(path)}: give the path of a saved model.")
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ModelFileError(f"{path} {found}: give the path of a saved model.")
    try:
        with safe_open(str(path), "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not iterable
            description = json.loads((file.metadata() or {}).get("pyneuralode", "null"))
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged or not a model file ({error}): save the model again.") from None
    if not isinstance(description, dict):
        raise ModelFileError(
            f"{path} is a safetensors file, but not a model of pyneuralode: give a file written by save()."
        )
    version = description.pop("format", 0)
    if not isinstance(version, int) or version > FORMAT:
        raise ModelFileError(
            f"{path} has format {version!r}, but this version reads formats up to {FORMAT}: update pyneuralode."
        )
    return arrays, description


def write_model_file(path: str | Path, kind: str, description: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write a model of one of the `KINDS`; NumPy arrays in the description become lists.

    Raises ArgumentError if the folder of `path` does not exist.
    """
    path = Path(path)
    if kind not in KINDS:
        raise ArgumentError(
            f"the model is of kind {kind!r}, which `load` does not support: save its state_dict yourself."
        )
    if path.is_dir():
        raise ArgumentError(f"path is {str(path)!r}, a folder: give the name of a file in it.")
    if not path.parent.is_dir():
        raise ArgumentError(f"path is {str(path)!r}, whose folder does not exist: create it first.")
    header = json.dumps({"format": FORMAT, "model": kind, **description}, default=lambda value: value.tolist())
    values = {name: np.array(value, order="C") for name, value in arrays.items()}
    save_file(values, str(path), {"pyneuralode": header})


def arrays_of(module: nn.Module) -> dict[str, np.ndarray]:
    """Return a module's parameters and buffers as arrays by name, in the form that `load_arrays` accepts."""
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def load_arrays(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Set a module's parameters and buffers; raise ValueError or RuntimeError if `arrays` does not fit the module."""
    import torch

    module.load_state_dict({name: torch.as_tensor(value) for name, value in arrays.items()})
