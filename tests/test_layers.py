"""Imports between subpackages: never from a lower to a higher rank, without cycles, and without side effects."""

import ast
import subprocess
import sys
from pathlib import Path

import pyneuralode

PACKAGE = "pyneuralode"
ROOT = Path(pyneuralode.__file__).parent
# A subpackage or top-level module may import others of the same or a lower rank.
RANKS = {
    "arguments": 0,
    "errors": 0,
    "files": 0,
    "julia_source": 0,
    "model_files": 1,
    "progress": 0,
    "fields": 1,
    "solvers": 1,
    "tableaus": 1,
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


def find_modules(root: Path, package: str) -> dict[str, Path]:
    """Return the files of a package's modules: full name -> path."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = (package, *path.relative_to(root).with_suffix("").parts)
        modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


def imported_by(name: str, modules: dict[str, Path]) -> set[str]:
    """Return the modules that a module imports: at the top, inside functions, or only for type annotations.

    Importing a module also imports its parent packages, except those that contain the importing module.
    """
    path = modules[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            around = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*around, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            continue
        for target in modules.keys() & set(targets):
            found.add(target)
            while target := target.rpartition(".")[0]:
                if not f"{name}.".startswith(f"{target}."):
                    found.add(target)
    return found - {name}


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one import cycle, with the first repeated at the end; empty if there is no cycle."""
    finished = set()

    def follow(trail: list[str]) -> list[str]:
        for other in sorted(graph[trail[-1]] - finished):
            if other in trail:
                return [*trail[trail.index(other) :], other]
            if circle := follow([*trail, other]):
                return circle
        finished.add(trail[-1])
        return []

    return next((circle for name in sorted(graph) if name not in finished and (circle := follow([name]))), [])


def reaches(graph: dict[str, set[str]], start: str, goal: str) -> bool:
    """Return whether a module imports another one, directly or indirectly."""
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        waiting += graph[name] - seen
        seen |= graph[name]
    return False


MODULES = find_modules(ROOT, PACKAGE)
GRAPH = {name: imported_by(name, MODULES) for name in MODULES}


def room_of(module: str) -> str:
    return (module.split(".") + [""])[1]


def test_imports_point_one_way():
    wrong = []
    for name, others in GRAPH.items():
        room = room_of(name)
        for other in filter(None, {room_of(other) for other in others} - {room}):
            outward = other not in ("errors", "arguments")
            if (
                (room and RANKS[other] > RANKS[room])
                or (room in APPLICATIONS and other in APPLICATIONS)
                or (room in ("datasets", "plotting") and outward)
            ):
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_no_module_imports_the_public_names():
    """Inside the package, names are imported from the modules that define them, not from `pyneuralode` itself."""
    wrong = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            own = isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == PACKAGE
            if own and any(alias.name in pyneuralode.__all__ for alias in node.names):
                wrong.append(name)
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    assert find_circle(GRAPH) == []


def test_circles_are_found_inside_functions_and_among_types(tmp_path):
    (tmp_path / "room").mkdir()
    files = {
        "__init__.py": "",
        "one.py": "from . import two",
        "two.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .room.three import X",
        "room/__init__.py": "from .three import X",
        "room/three.py": "def f():\n    from ..one import Y",
        "four.py": "import package.room.three",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    modules = find_modules(tmp_path, "package")
    graph = {name: imported_by(name, modules) for name in modules}
    assert graph["package.two"] == graph["package.four"] == {"package.room.three", "package.room"}
    circle = find_circle(graph)
    assert circle[0] == circle[-1] and all(other in graph[name] for name, other in zip(circle, circle[1:]))
    assert set(circle) >= {"package.one", "package.two", "package.room.three"}
    graph["package.room.three"] = set()
    assert find_circle(graph) == [] and reaches(graph, "package.one", "package.room.three")


def test_import_is_light_and_starts_no_julia():
    code = (
        "import sys, pyneuralode; print([m for m in ('torch', 'juliacall', 'diffeqpy', 'numba', 'matplotlib') if m in sys.modules]);"
        "import pyneuralode.fields; print([m for m in ('torch', 'pandas') if m in sys.modules]);"
        "from pyneuralode import NeuralODE; print([m for m in ('juliacall', 'diffeqpy', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["[]", "[]", "[]"]


def test_every_public_name_exists():
    for name in pyneuralode.__all__:
        assert getattr(pyneuralode, name) is not None
