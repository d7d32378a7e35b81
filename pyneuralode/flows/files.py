"""Reading flows from files; `ContinuousFlow.save` writes them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributions import Distribution

from ..errors import ArgumentError, ModelFileError
from ..fields import from_description
from ..gradients import find_gradient
from ..models import read_model_file
from .continuous import ContinuousFlow


def load_flow(path: str | Path, base: Distribution | None = None) -> ContinuousFlow:
    """Read a flow that `ContinuousFlow.save` wrote; a base other than the standard normal has to be given again.

    Raises ModelFileError where the file is absent, damaged, of a newer version, or not a flow of ours.
    """
    path = Path(path)
    arrays, description = read_model_file(path)
    if description.get("model") != ContinuousFlow.__name__:
        raise ModelFileError(f"{path} holds no flow: give a file that ContinuousFlow.save wrote.")
    if base is None and description.get("base") != "standard normal":
        raise ArgumentError(f"base is not in {path}, which had a {description.get('base')}: give base=...")
    try:
        gradient = dict(description["gradient"])
        flow = ContinuousFlow(
            from_description(description["field"]),
            base=base,
            solver=description["solver"],
            gradient=type(find_gradient(gradient.pop("kind")))(**gradient),
            dtype=torch.as_tensor(next(iter(arrays.values()))).dtype if arrays else torch.float32,
            **{name: description[name] for name in ("times", "trace", "noise", "augment_dim")},
            **description["control"],
        )
        flow.set_arrays(arrays)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path} has a damaged description ({error}): save the flow again.") from None
    return flow
