import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyneuralode.engines.julia_engine import executables, project, sources
from pyneuralode.engines.julia_engine.install_record import Record, default_project, write_record
from pyneuralode.engines.julia_engine.probe import clear_cache, probe

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins for julia are shell scripts")

MANIFEST = f"""\
manifest_format = "2.0"

[[deps.PyNeuralODE]]
deps = [{", ".join(json.dumps(name) for name in sorted(sources.dependencies(sources.folder())))}]
path = {json.dumps(str(sources.folder()))}
version = "0.1.0"

    [deps.PyNeuralODE.extensions]
    PyNeuralODEPythonCallExt = "PythonCall"

[[deps.PythonCall]]
version = "0.9.34"
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home folder and PATH, no environment variable that the probe reads, and juliacall 0.9.34."""
    for name in list(os.environ):
        if name.startswith(("JULIA", "PYTHON_JULIA", "PYNEURALODE_JULIA", "XDG_DATA_HOME")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(project, "installed_version", {"juliacall": "0.9.34"}.__getitem__)
    clear_cache()
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(home / "bin"))
    return home


def script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def untouchable(path):
    """A fake julia executable that writes a file if it is started."""
    return script(path, f"echo started > {path}.started; echo julia version 1.11.2")


def started(path):
    return path.with_name(path.name + ".started").exists()


def installed(root, version="1.11.2"):
    """A fake julia executable with the files of a real installation."""
    header = root / "include" / "julia" / "julia_version.h"
    header.parent.mkdir(parents=True)
    header.write_text(f'#define JULIA_VERSION_STRING "{version}"\n#define JULIA_VERSION_MAJOR 1\n')
    return untouchable(root / "bin" / "julia")


def copied(folder):
    """A copy of the Julia package's sources."""
    return Path(shutil.copytree(sources.folder(), folder, ignore=shutil.ignore_patterns("Manifest*.toml")))


def environment(folder, manifest=MANIFEST, name="Manifest.toml"):
    folder.mkdir(parents=True)
    (folder / "Project.toml").write_text("[deps]\n")
    (folder / name).write_text(manifest)
    return folder


def test_without_julia_the_reason_says_so_in_one_sentence():
    answer = probe()
    assert not answer.found and answer.executable is None and answer.how == ""
    assert "no julia on PATH" in answer.reason and "pyneuralode setup-julia" in answer.reason
    assert "\n" not in answer.reason


def test_julia_on_path_with_our_package_in_its_default_environment(home):
    julia = installed(home / "julia-1.11.2")
    (home / "bin" / "julia").symlink_to(julia)
    folder = environment(home / ".julia" / "environments" / "v1.11")
    answer = probe()
    assert answer.found and answer.reason == ""
    assert (answer.executable, answer.project, answer.version, answer.how) == (
        julia,
        folder,
        "1.11.2",
        "PATH",
    )
    assert not started(julia)


def test_julia_on_path_without_our_package(home):
    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    environment(home / ".julia" / "environments" / "v1.11", MANIFEST.replace("PyNeuralODE", "Other"))
    answer = probe()
    assert not answer.found and answer.version == "1.11.2" and answer.project is None
    assert "PYNEURALODE_JULIA_PROJECT" in answer.reason


def test_the_depot_and_the_project_that_julia_itself_would_take(home, tmp_path, monkeypatch):
    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    folder = environment(tmp_path / "depot" / "environments" / "v1.11", name="Manifest-v1.11.toml")
    monkeypatch.setenv("JULIA_DEPOT_PATH", f"{tmp_path / 'first'}{os.pathsep}{tmp_path / 'depot'}{os.pathsep}")
    assert probe().project == folder
    shared = environment(tmp_path / "depot" / "environments" / "shared")
    monkeypatch.setenv("JULIA_PROJECT", "@shared")
    assert probe().project == shared
    monkeypatch.setenv("JULIA_PROJECT", str(environment(tmp_path / "own")))
    assert probe().project == tmp_path / "own"


@pytest.mark.parametrize("version", ["1.9.4", "2.0.0", "0.7.0"])
def test_a_version_out_of_range_is_refused(home, version):
    (home / "bin" / "julia").symlink_to(installed(home / "julia", version))
    answer = probe()
    assert not answer.found and answer.version == version and ">= 1.10" in answer.reason


@pytest.mark.parametrize("version", ["1.10.0", "1.13.0-rc1"])
def test_a_version_in_range_is_taken(home, version):
    (home / "bin" / "julia").symlink_to(installed(home / "julia", version))
    environment(home / ".julia" / "environments" / "v{}.{}".format(*version.split(".")[:2]))
    assert probe().found


def test_the_version_from_the_standard_library_s_folder(home):
    julia = untouchable(home / "usr" / "bin" / "julia")
    (home / "usr" / "share" / "julia" / "stdlib" / "v1.12").mkdir(parents=True)
    (home / "bin" / "julia").symlink_to(julia)
    assert probe().version == "1.12"
    assert not started(julia)


def test_a_wrapper_script_is_asked_for_its_version(home):
    script(home / "bin" / "julia", 'test "$*" = --version && echo julia version 1.10.5')
    assert probe().version == "1.10.5"


def test_an_executable_that_is_not_julia(home):
    script(home / "bin" / "julia", "echo hello")
    answer = probe()
    assert not answer.found and "does not report its version" in answer.reason


def test_our_setting_goes_first_and_decides(home, tmp_path, monkeypatch):
    (home / "bin" / "julia").symlink_to(installed(home / "julia-path"))
    environment(home / ".julia" / "environments" / "v1.11")
    ours = installed(tmp_path / "ours", "1.12.1")
    folder = environment(tmp_path / "project")
    monkeypatch.setenv("PYNEURALODE_JULIA", str(ours))
    monkeypatch.setenv("PYNEURALODE_JULIA_PROJECT", str(folder))
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", "elsewhere")
    answer = probe()
    assert answer.found and (answer.executable, answer.project) == (ours, folder)
    assert answer.how == "PYNEURALODE_JULIA"

    monkeypatch.setenv("PYNEURALODE_JULIA", str(tmp_path / "absent"))
    answer = probe()
    assert not answer.found and "PYNEURALODE_JULIA is" in answer.reason and "absent" in answer.reason


def test_our_project_alone_goes_with_julia_on_path(home, tmp_path, monkeypatch):
    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    monkeypatch.setenv("PYNEURALODE_JULIA_PROJECT", str(environment(tmp_path / "project")))
    answer = probe()
    assert answer.found and answer.project == tmp_path / "project" and answer.how == "PATH"


def test_a_project_that_lacks_a_package_is_named_with_it(home, tmp_path, monkeypatch):
    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    manifest = MANIFEST.replace("PythonCall", "Lux")
    monkeypatch.setenv("PYNEURALODE_JULIA_PROJECT", str(environment(tmp_path / "project", manifest)))
    answer = probe()
    assert not answer.found and "does not contain PythonCall:" in answer.reason


def test_the_package_s_own_folder_is_a_project_that_holds_it(home, tmp_path, monkeypatch):
    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    folder = environment(tmp_path / "julia", '[[deps.PythonCall]]\nversion = "0.9.34"\n')
    (folder / "Project.toml").write_text('name = "PyNeuralODE"\nversion = "0.1.0"\n')
    monkeypatch.setenv("PYNEURALODE_JULIA_PROJECT", str(folder))
    assert probe().found


@pytest.mark.parametrize("present", ["PYTHON_JULIACALL_EXE", "PYTHON_JULIACALL_PROJECT"])
def test_juliacall_s_variables_count_together_only(home, monkeypatch, present):
    monkeypatch.setenv(present, str(home))
    answer = probe()
    assert not answer.found and answer.reason.startswith(f"{present} is set without PYTHON_JULIACALL_")


def test_juliacall_s_two_variables(tmp_path, monkeypatch):
    julia, folder = installed(tmp_path / "julia"), environment(tmp_path / "project")
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", str(julia))
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(folder))
    answer = probe()
    assert answer.found and (answer.executable, answer.project) == (julia, folder)
    assert answer.how == "PYTHON_JULIACALL_EXE"


@pytest.mark.parametrize("kind", ["version", "path", "command"])
def test_juliaup_s_launcher_is_read_past_and_never_started(home, monkeypatch, kind):
    launcher = untouchable(home / ".juliaup" / "bin" / "julialauncher")
    (home / "bin" / "julia").symlink_to(launcher)
    depot = home / ".julia" / "juliaup"
    julia = installed(depot / "julia-1.11.2+0")
    channel = {
        "version": {"Version": "1.11.2+0"},
        "path": {"Path": "./julia-1.11.2+0", "Version": "1.11.2-DEV"},
        "command": {"Command": str(julia)},
    }[kind]
    settings = {
        "Default": "1.9",
        "InstalledVersions": {"1.11.2+0": {"Path": "./julia-1.11.2+0"}},
        "InstalledChannels": {"release": channel},
    }
    (depot / "juliaup.json").write_text(json.dumps(settings))
    answer = probe()
    assert not answer.found and "juliaup's launcher" in answer.reason  # the default channel is not installed
    monkeypatch.setenv("JULIAUP_CHANNEL", "release")
    answer = probe()
    assert (answer.executable, answer.version) == (julia, "1.11.2")
    assert not started(launcher) and not started(julia)


def test_a_julia_that_juliaup_installed_is_taken_as_named(tmp_path, monkeypatch):
    julia = installed(tmp_path / "juliaup" / "julia-1.11.2+0")
    monkeypatch.setenv("PYNEURALODE_JULIA", str(julia))
    assert probe().executable == julia and not started(julia)


def test_a_launcher_with_juliaup_beside_it_is_not_started(home):
    launcher = untouchable(home / "bin" / "julia")
    untouchable(home / "bin" / "juliaup")
    assert "juliaup's launcher" in probe().reason
    assert not started(launcher)


def test_the_probe_imports_neither_juliacall_nor_torch():
    code = (
        "import sys; from pyneuralode.engines.julia_engine.probe import probe; probe(); "
        "print(sorted({'juliacall', 'juliapkg', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_project_that_a_wrapper_script_brings_is_found(home, tmp_path):
    folder = environment(tmp_path / "own")
    depots = f"{tmp_path / 'depot'}\n{tmp_path / 'share'}"
    body = f"""test "$*" = --version && echo julia version 1.11.2 && exit
echo asked >> {tmp_path}/asked; printf '%s\\n%s' '{folder}/Project.toml' '{depots}'"""
    wrapper = script(home / "bin" / "julia", body)
    answer = probe()
    assert answer.found and (answer.executable, answer.project) == (wrapper, folder)
    assert answer.depot == f"{tmp_path / 'depot'}{os.pathsep}{tmp_path / 'share'}"
    clear_cache()
    assert probe() == answer
    assert (tmp_path / "asked").read_text() == "asked\n"  # the script was asked for its project only once


def test_a_wrapper_script_that_hangs_is_given_up(home, monkeypatch):
    # The script's child process keeps the output open after the script was ended, far longer than a test should take.
    body = f"echo $$ > {home}/hangs; exec sleep 86400"
    script(home / "bin" / "julia", f'test "$*" = --version && echo julia version 1.11.2 && exit\nsh -c "{body}"\n:')
    monkeypatch.setattr(executables, "_TIMEOUT", 3.0)
    try:
        answer = probe()
    finally:
        if (home / "hangs").exists():
            os.kill(int((home / "hangs").read_text()), signal.SIGKILL)
    assert not answer.found
    assert "do not contain PyNeuralODE and PythonCall: run `pyneuralode setup-julia`" in answer.reason


def test_pythoncall_and_juliacall_must_be_equal(home, monkeypatch):
    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    environment(home / ".julia" / "environments" / "v1.11")
    monkeypatch.setattr(project, "installed_version", {"juliacall": "0.9.37"}.__getitem__)
    answer = probe()
    assert not answer.found and answer.pythoncall == "0.9.34" and answer.project is not None
    assert "PythonCall is 0.9.34" in answer.reason and "juliacall is 0.9.37" in answer.reason
    assert "pip install 'juliacall==0.9.34'" in answer.reason and "\n" not in answer.reason


def test_juliacall_absent(home, monkeypatch):
    def absent(name):
        raise project.PackageNotFoundError(name)

    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    environment(home / ".julia" / "environments" / "v1.11")
    monkeypatch.setattr(project, "installed_version", absent)
    answer = probe()
    assert not answer.found and "pip install 'juliacall==0.9.34'" in answer.reason


def test_what_setup_julia_installed_goes_before_path_and_after_the_variables(home, tmp_path, monkeypatch):
    untouchable(home / "bin" / "julia")
    julia, folder = installed(tmp_path / "julia"), environment(tmp_path / "project")
    write_record(Record(str(julia), str(folder), "1.11.2"), default_project())
    answer = probe()
    assert answer.found and answer.how == "setup-julia"
    assert (answer.executable, answer.project, answer.package) == (julia, folder, sources.folder())
    assert not started(home / "bin" / "julia")

    other = installed(tmp_path / "other")
    monkeypatch.setenv("PYNEURALODE_JULIA", str(other))
    assert probe().how == "PYNEURALODE_JULIA"


def test_a_julia_from_setup_that_is_gone_is_told(home, tmp_path):
    write_record(Record(str(tmp_path / "gone"), str(tmp_path), "1.11.2"), default_project())
    answer = probe()
    assert not answer.found and "gone" in answer.reason and "run the command again" in answer.reason


def test_a_damaged_record_is_as_none(home):
    default_project().mkdir(parents=True)
    (default_project() / "pyneuralode-julia.json").write_text("{")
    assert "no julia on PATH" in probe().reason


def test_a_stale_copy_of_our_sources_is_noticed(home, tmp_path):
    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    folder = home / ".julia" / "environments" / "v1.11"
    copy = copied(tmp_path / "copy")
    relative = os.path.relpath(copy, folder)  # Pkg writes a relative path if possible
    environment(folder, MANIFEST.replace(json.dumps(str(sources.folder())), json.dumps(relative)))
    answer = probe()
    assert answer.found and answer.warning == "" and answer.package.resolve() == copy.resolve()

    with (copy / "src" / "PyNeuralODE.jl").open("a") as file:
        file.write("# changed\n")
    clear_cache()
    answer = probe()
    assert answer.found and "whose sources differ from those of this installation" in answer.warning

    shutil.rmtree(copy)
    clear_cache()
    answer = probe()
    assert not answer.found and "which does not exist: run `pyneuralode setup-julia`" in answer.reason


def test_a_project_resolved_before_a_dependency_came_is_noticed(home):
    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    folder = home / ".julia" / "environments" / "v1.11"
    environment(folder, MANIFEST.replace('"Lux", ', ""))
    answer = probe()
    assert answer.found and "lacks these dependencies of PyNeuralODE: Lux" in answer.warning


def test_a_system_image_is_used_as_long_as_it_is_current(home, tmp_path):
    julia, folder = installed(tmp_path / "julia"), environment(tmp_path / "project")
    image = folder / "image.so"
    image.touch()
    digest = sources.digest(sources.folder())
    write_record(Record(str(julia), str(folder), "1.11.2", str(image), digest), default_project())
    write_record(Record(str(julia), str(folder), "1.11.2", str(image), digest), folder)
    assert probe().sysimage == image

    write_record(Record(str(julia), str(folder), "1.11.2", str(image), "of older sources"), folder)
    clear_cache()
    answer = probe()
    assert answer.found and answer.sysimage is None and "is not used" in answer.warning

    write_record(Record("/another/julia", str(folder), "1.11.2", str(image), digest), folder)
    clear_cache()
    assert probe().sysimage is None


def test_the_answer_is_kept_until_the_environment_changes(home, monkeypatch):
    assert probe() is probe()
    (home / "bin" / "julia").symlink_to(installed(home / "julia"))
    environment(home / ".julia" / "environments" / "v1.11")
    assert not probe().found
    monkeypatch.setenv("JULIA_PROJECT", "@.")
    assert probe().found
