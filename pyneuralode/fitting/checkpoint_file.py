"""The file that a fit is saved to every so often: safetensors with a JSON header, never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ArgumentError, ModelFileError


class CheckpointFile:
    """Tensors and a header in one file; `identity` is what has to be the same for a fit to go on from it.

    A kind of checkpoint says by `KEY` under which name its header stands, and by `OF` of what it is, in words.
    """

    KEY: ClassVar[str]
    OF: ClassVar[str]

    def __init__(self, path: Path, identity: Mapping[str, str], every: int):
        if int(every) < 1:
            raise ArgumentError(f"checkpoint_every is {every}: give a number of at least 1.")
        if not path.parent.is_dir():
            raise ArgumentError(f"checkpoint is {str(path)!r}, whose folder is not there: make it first.")
        self.path, self.identity, self.every = path, dict(identity), int(every)

    def exists(self) -> bool:
        return self.path.exists()

    def write(self, tensors: dict[str, Tensor], header: Mapping[str, Any]) -> None:
        """Write all or nothing."""
        partial = self.path.with_name(self.path.name + ".partial")
        save_file(tensors, str(partial), {self.KEY: json.dumps({"identity": self.identity, **header})})
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
            raise ModelFileError(
                f"{self.path} is damaged ({error}): remove it to start the fit anew."
            ) from None
        if header is None:
            raise ModelFileError(f"{self.path} is not the checkpoint of {self.OF}: give another path.")
        for name in {**self.identity, **header["identity"]}:
            if header["identity"].get(name) != self.identity.get(name):
                raise ArgumentError(
                    f"{name} differs from that in {self.path}: give the same, or remove the file to start anew."
                )
        return tensors, header
