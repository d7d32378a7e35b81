"""Imports point one way (DESIGN): a room uses only rooms before it, and importing the package starts nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pyneuralode

ROOT = Path(pyneuralode.__file__).parent
# Each room may import the rooms of its own rank or a lower one.
RANKS = {
    "arguments": 0,
    "errors": 0,
    "files": 0,
    "model_files": 1,
    "progress": 0,
    "fields": 1,
    "equations": 1,
    "time_fields": 1,
    "conv_fields": 1,
    "solvers": 1,
    "gradients": 1,
    "datasets": 1,
    "plotting": 1,
    "problem": 2,
    "engines": 3,
    "gradient_check": 4,
    "models": 4,
    "python_problems": 4,
    "dropin": 4,
    "fitting": 5,
    "processes": 5,
    "epidemics": 6,
    "flows": 6,
    "images": 6,
    "latent": 6,
    "reports": 7,
    "cli": 8,
}
APPLICATIONS = {"epidemics", "flows", "images", "latent"}


def imported_rooms(path: Path) -> set[str]:
    package = ["pyneuralode", *path.relative_to(ROOT).parts[:-1]]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names = [full] if full != "pyneuralode" else [f"pyneuralode.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("pyneuralode.")}
    return rooms


def test_imports_point_one_way():
    wrong = []
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in imported_rooms(path) - {room, "__version__"}:
            if RANKS[other] > RANKS[room] or (room in APPLICATIONS and other in APPLICATIONS):
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
            if room in ("datasets", "plotting") and other not in ("errors", "arguments"):
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong


def test_import_is_light_and_starts_no_julia():
    code = (
        "import sys, pyneuralode; print([m for m in ('torch', 'juliacall', 'diffeqpy', 'numba', 'matplotlib') if m in sys.modules]);"
        "from pyneuralode import NeuralODE; print([m for m in ('juliacall', 'diffeqpy', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["[]", "[]"]


def test_every_public_name_exists():
    for name in pyneuralode.__all__:
        assert getattr(pyneuralode, name) is not None
