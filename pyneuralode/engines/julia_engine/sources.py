"""The sources of the Julia package: their location, and digests that show whether a copy is current.

`python -m pyneuralode.engines.julia_engine.sources --refresh`, run in a checkout, updates juliapkg.json to match the
sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

NAME = "PyNeuralODE"
REFRESH = "python -m pyneuralode.engines.julia_engine.sources --refresh"
_PACKAGE = Path(__file__).resolve().parents[2]
REQUIREMENTS = _PACKAGE / "juliapkg.json"


def folder() -> Path:
    """Return the folder of PyNeuralODE.jl: `julia/` of the checkout, or the copy included in a wheel."""
    requirements = json.loads(REQUIREMENTS.read_text(encoding="utf-8"))
    return (_PACKAGE / requirements["packages"][NAME]["path"]).resolve()


def digest(package: Path) -> str:
    """Return the SHA-256 of the Julia sources in `package`, independent of line endings."""
    code = [file for part in ("src", "ext") for file in (package / part).rglob("*.jl")]
    return _digest(package, [package / "Project.toml", *sorted(code)])


def stamp(package: Path) -> dict[str, str]:
    """Return the entries of juliapkg.json for `package`, so that juliapkg resolves again when the package changes.

    juliapkg checks only that file: without these entries, a new dependency in the package's Project.toml would go
    unnoticed.
    """
    project = package / "Project.toml"
    return {"version": version(package), "project": _digest(package, [project])}


def version(package: Path) -> str:
    """Return the version in the Project.toml of `package`."""
    text = (package / "Project.toml").read_text(encoding="utf-8")
    return re.search(r'^version\s*=\s*"([^"]+)"', text, re.MULTILINE)[1]


def dependencies(package: Path) -> set[str]:
    """Return the names under [deps] in the Project.toml of `package`."""
    text = (package / "Project.toml").read_text(encoding="utf-8")
    table = re.search(r"^\[deps\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^(\w+)\s*=", table[1], re.MULTILINE)) if table else set()


def refresh() -> None:
    """Write the current stamp into juliapkg.json."""
    requirements = json.loads(REQUIREMENTS.read_text(encoding="utf-8"))
    requirements["pyneuralode"] = stamp(folder())
    REQUIREMENTS.write_text(json.dumps(requirements, indent=4) + "\n", encoding="utf-8", newline="\n")


def _digest(root: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The Julia sources of pyneuralode.")
    parser.add_argument("--refresh", action="store_true", required=True, help="update juliapkg.json")
    parser.parse_args()
    refresh()
