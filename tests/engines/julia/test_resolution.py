"""The real Pkg resolves the oldest and the newest set of versions that julia/Project.toml allows, without a network."""

import re
import subprocess
from pathlib import Path

import pytest

from pyneuralode.engines.julia_engine import sources
from pyneuralode.engines.julia_engine.probe import probe

SCRIPT = Path(__file__).with_name("resolve_bounds.jl")


@pytest.mark.parametrize("end", ["oldest", "newest"])
def test_the_bounds_can_be_resolved(end, tmp_path):
    found = probe()
    if found.executable is None:
        pytest.skip(f"no Julia: {found.reason}")
    project = sources.folder() / "Project.toml"
    command = [found.executable, "--startup-file=no", f"--project={tmp_path}", SCRIPT, project, end]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("Julia's depot contains no registry of packages")
    assert done.returncode == 0, done.stderr
    versions = dict(line.split() for line in done.stdout.splitlines())
    bounds = project.read_text().split("[compat]")[1]
    for name in ("SciMLBase", "OrdinaryDiffEqCore", "Lux", "DiffEqFlux", "SIMD"):
        least = re.search(rf'^{name} = "([\d.]+)', bounds, re.MULTILINE)[1]
        if end == "oldest":
            assert versions[name].startswith(least)
        else:
            assert [int(n) for n in versions[name].split(".")] >= [int(n) for n in least.split(".")]
