"""Carry the Julia package in the wheel.

juliapkg finds pyneuralode/juliapkg.json, whose path of the Julia package counts from there: "../julia" in a checkout,
which an editable install uses as it is, and "julia" in a wheel, which has a folder of its own only.
"""

import json
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CARRIED = ("Project.toml", "src", "ext")


class CarryJulia(BuildHookInterface):
    def initialize(self, version, build_data):
        if version == "editable":
            return
        root = Path(self.root)
        requirements = json.loads((root / "pyneuralode" / "juliapkg.json").read_text(encoding="utf-8"))
        requirements["packages"]["PyNeuralODE"]["path"] = "julia"
        self._folder = tempfile.TemporaryDirectory()
        written = Path(self._folder.name, "juliapkg.json")
        written.write_text(json.dumps(requirements, indent=4) + "\n", encoding="utf-8")
        build_data["force_include"][str(written)] = "pyneuralode/juliapkg.json"
        for part in CARRIED:
            build_data["force_include"][str(root / "julia" / part)] = f"pyneuralode/julia/{part}"

    def finalize(self, version, build_data, artifact_path):
        if version != "editable":
            self._folder.cleanup()
