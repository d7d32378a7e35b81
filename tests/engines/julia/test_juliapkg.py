"""juliapkg.json is found and correct in a checkout (used directly by an editable install) and in a built wheel."""

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from pyneuralode.engines.julia_engine import sources

ROOT = Path(__file__).resolve().parents[3]
UUID = "6f0d3b52-8c0e-4b57-9d1a-2f7c6f1f0e55"
CHECKOUT = (ROOT / "hatch_build.py").is_file()

# juliapkg's own result from the JSON files on sys.path, whose first folder is the one that contains pyneuralode.
LOOK = """
import contextlib, json, sys
sys.path.insert(0, sys.argv[1])
with contextlib.redirect_stdout(sys.stderr):
    from juliapkg.deps import find_requirements
    packages = {package.name: package.dict() for package in find_requirements()[1]}
from pyneuralode.engines.julia_engine import sources
print(json.dumps([packages, str(sources.folder()), sources.digest(sources.folder())]))
"""


def requirements(folder):
    pytest.importorskip("juliapkg")
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(folder)],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    packages, ours, digest = json.loads(done.stdout)
    return packages["PyNeuralODE"], Path(ours), digest


def is_our_package(folder):
    return f'uuid = "{UUID}"' in (folder / "Project.toml").read_text() and (folder / "src" / "PyNeuralODE.jl").is_file()


@pytest.mark.skipif(not CHECKOUT, reason="needs a checkout")
def test_the_checkout_leads_to_its_own_julia_folder():
    package, ours, _ = requirements(ROOT)
    assert (package["uuid"], package["dev"]) == (UUID, True)
    assert Path(package["path"]) == ours == ROOT / "julia" and is_our_package(ours)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    if not CHECKOUT:
        pytest.skip("needs a checkout")
    folder = tmp_path_factory.mktemp("wheel")
    build = (
        "import os, sys; from hatchling.build import build_wheel; "
        f"os.chdir({str(ROOT)!r}); build_wheel({str(folder)!r})"
    )
    subprocess.run([sys.executable, "-c", build], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_a_built_wheel_leads_to_the_julia_folder_that_it_carries(wheel, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, str(tmp_path / "site"), str(wheel)], check=True, capture_output=True)
    package, ours, digest = requirements(tmp_path / "site")
    assert Path(package["path"]) == ours == tmp_path / "site" / "pyneuralode" / "julia"
    assert is_our_package(ours) and package["uuid"] == UUID
    assert digest == sources.digest(ROOT / "julia")


def test_a_wheel_carries_no_manifest_and_each_file_once(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    assert not [name for name in names if "Manifest" in name or "/julia/test/" in name]


def test_a_wheel_tells_type_checkers_that_the_package_is_typed(wheel):
    assert "pyneuralode/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_juliapkg_json_is_current():
    kept = json.loads(sources.REQUIREMENTS.read_text())["pyneuralode"]
    assert kept == sources.stamp(sources.folder()), (
        f"julia/Project.toml has changed since juliapkg.json was written: run `{sources.REFRESH}`."
    )


@pytest.mark.parametrize("package", ["SciMLSensitivity", "DiffEqFlux"])
def test_what_our_extensions_wait_for_is_asked_for_in_the_versions_that_they_allow(package):
    asked = json.loads(sources.REQUIREMENTS.read_text())["packages"][package]
    project = (sources.folder() / "Project.toml").read_text()
    weak = re.search(r"^\[weakdeps\]\n(.*?)^\[", project, re.MULTILINE | re.DOTALL)[1]
    assert f'{package} = "{asked["uuid"]}"' in weak
    assert f'{package} = "{asked["version"]}"' in project.split("[compat]")[1]
    assert package not in sources.dependencies(sources.folder())


def entries(text):
    """Return one section of a TOML file with only string values as a dict; Python 3.10 has no TOML parser."""
    return dict(re.findall(r'^(\w+) = "([^"]*)"', text, re.MULTILINE))


def numbers(version):
    return tuple(map(int, version.split(".")))


def admits(bound, wanted):
    """Return whether a bound of Julia's Pkg, with caret semantics, such as "0.10.39, 1", allows a version."""
    for part in bound.split(","):
        least = numbers(part.strip())
        kept = next((place for place, number in enumerate(least) if number), len(least) - 1) + 1
        if numbers(wanted)[:kept] == least[:kept] and numbers(wanted) >= least:
            return True
    return False


def test_bounds_are_read_as_pkg_reads_them():
    assert (
        admits("1.13", "1.13.0")
        and admits("1.13", "1.14.2")
        and not admits("1.13", "1.12.9")
        and not admits("1.13", "2.0.0")
    )
    assert admits("0.4.7", "0.4.8") and not admits("0.4.7", "0.5.0") and not admits("0.4.7", "0.4.6")
    assert admits("0.10.39, 1", "1.4.1") and not admits("0.10.39, 1", "0.11.0") and admits("0.3", "0.3.1")


@pytest.mark.skipif(not CHECKOUT, reason="needs a checkout")
def test_every_bound_admits_the_versions_that_go_together():
    project = (ROOT / "julia" / "Project.toml").read_text()
    together = entries((ROOT / "julia" / "test" / "versions.toml").read_text())
    parts = dict(re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[|\Z)", project, re.MULTILINE | re.DOTALL))
    bounds = entries(parts["compat"])
    packages = {name for part in ("deps", "weakdeps", "extras") for name in entries(parts[part])}
    assert set(bounds) == packages | {"julia"}
    assert not {
        name: (bound, together.get(name))
        for name, bound in bounds.items()
        if name not in together or not admits(bound, together[name])
    }


def test_a_new_dependency_changes_the_stamp_and_new_code_the_digest_only(tmp_path):
    project, code = tmp_path / "Project.toml", tmp_path / "src" / "A.jl"
    code.parent.mkdir()
    project.write_bytes(b'version = "0.1.0"\n[deps]\nLux = "b2"\n\n[compat]\nZygote = "1"\n')
    code.write_bytes(b"module A\nend\n")
    stamp, digest = sources.stamp(tmp_path), sources.digest(tmp_path)
    assert stamp["version"] == "0.1.0" and sources.dependencies(tmp_path) == {"Lux"}

    code.write_bytes(b"module A\r\nend\r\n")  # line endings of a checkout on Windows
    assert sources.digest(tmp_path) == digest
    code.write_bytes(b"module A\nf() = 1\nend\n")
    assert sources.digest(tmp_path) != digest and sources.stamp(tmp_path) == stamp
    project.write_bytes(project.read_bytes().replace(b'Lux = "b2"', b'Lux = "b2"\nZygote = "e8"'))
    assert sources.stamp(tmp_path) != stamp


def dependencies():
    """The package's requirements: name -> version range."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]
    named = re.findall(r'^    "(\w+)([^"]*)"', listed, re.MULTILINE)
    return {name: SpecifierSet(versions) for name, versions in named}


@pytest.mark.skipif(not CHECKOUT, reason="needs a checkout")
def test_the_ranges_of_juliacall_and_torch_leave_room_for_others():
    ranges = dependencies()
    # PySR 2.7 requires exactly 0.9.36; earlier and later versions must be allowed as well.
    assert all(version in ranges["juliacall"] for version in ("0.9.34", "0.9.35", "0.9.36", "0.9.37"))
    assert "0.9.33" not in ranges["juliacall"] and "0.10.0" not in ranges["juliacall"]
    assert (
        all(version in ranges["torch"] for version in ("2.6.0", "2.13.0", "2.14.1", "2.15.0"))
        and "2.5.1" not in ranges["torch"]
    )


@pytest.mark.skipif(not CHECKOUT, reason="needs a checkout")
def test_our_julia_package_admits_the_pythoncall_of_every_juliacall_in_range():
    """Each juliacall requires one exact version of PythonCall, which our Julia package's bound must allow."""
    bound = entries((ROOT / "julia" / "Project.toml").read_text().split("[compat]")[1])["PythonCall"]
    candidates = [f"0.{minor}.{patch}" for minor in (8, 9, 10, 11) for patch in range(60)]
    in_range = [version for version in candidates if version in dependencies()["juliacall"]]
    assert in_range == [version for version in candidates if admits(bound, version)] and "0.9.36" in in_range


def test_the_installed_juliacall_asks_for_its_own_pythoncall():
    juliacall = find_spec("juliacall")
    if juliacall is None or not CHECKOUT:
        pytest.skip("needs juliacall and a checkout")
    asked = json.loads((Path(juliacall.origin).parent / "juliapkg.json").read_text())["packages"]["PythonCall"]
    assert asked["version"] == f"={version('juliacall')}" and version("juliacall") in dependencies()["juliacall"]
