"""`pyneuralode setup-julia` with a fake julia that records its arguments, and with the real one in a slow test."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pyneuralode.cli import app
from pyneuralode.engines.julia_engine import install_record, installation, sources
from pyneuralode.engines.julia_engine.executables import Julia
from pyneuralode.engines.julia_engine.installation import Installation
from pyneuralode.engines.julia_engine.probe import clear_cache, probe
from pyneuralode.errors import EngineError
from pyneuralode.progress import SilentProgress

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins for julia are shell scripts")

pytest.importorskip("juliapkg")  # installed together with juliacall, but does not start it

JULIACALL = version("juliacall")
ORIGINAL = dict(os.environ)
MANIFEST = "[[deps.PyNeuralODE]]\npath = {path}\n\n[[deps.PythonCall]]\nversion = {pythoncall}\n\n[[deps.Lux]]\n"


class Heard(SilentProgress):
    """A Progress that records the calls it receives."""

    def __init__(self):
        self.tasks, self.notes, self.done = {}, [], 0

    def task(self, description, total=None):
        self.tasks[description] = total
        self.done = 0
        return self

    def advance(self, n=1, note=""):
        self.done += n
        self.notes.append(note)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("JULIA", "PYTHON_JULIA", "PYNEURALODE_JULIA", "XDG_DATA_HOME")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("COLUMNS", "200")
    clear_cache()
    return tmp_path / "home"


@pytest.fixture
def julia(tmp_path):
    """A fake julia that records its arguments, writes the requested manifest, and prints the output of Pkg."""
    manifest = MANIFEST.format(path=json.dumps(str(sources.folder())), pythoncall=json.dumps(JULIACALL))
    return stand_in(
        tmp_path / "bin" / "julia",
        f"""
for argument; do printf '%s\\n' "$argument" >> {tmp_path}/calls; done; echo ------ >> {tmp_path}/calls
project=${{2#--project=}}
case "$4" in
*Pkg.develop*) cp {tmp_path}/Manifest.toml "$project"; echo "   Resolving package versions..." ;;
*Pkg.precompile*) echo "Precompiling project..."; echo "  1310.2 ms  ✓ Lux"; echo "  20.1 ms  ✓ PythonCall" ;;
*create_sysimage*) touch "$6" ;;
esac""",
        (tmp_path / "Manifest.toml", manifest),
    )


def stand_in(path, body, manifest=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\ntest "$*" = --version && echo julia version 1.11.2 && exit\n{body}\n')
    path.chmod(0o755)
    if manifest:
        manifest[0].write_text(manifest[1])
    return path


def calls(tmp_path):
    return [call.splitlines() for call in (tmp_path / "calls").read_text().split("------\n") if call]


def at(julia, project):
    return Installation(Julia(julia, "1.11.2", "PATH"), project)


def test_the_project_gets_our_sources_and_juliacall_s_pythoncall(julia, tmp_path):
    progress = Heard()
    at(julia, tmp_path / "project").resolve(progress)
    (call,) = calls(tmp_path)
    assert call[:2] == ["--startup-file=no", f"--project={tmp_path / 'project'}"]
    wanted = {
        "SciMLSensitivity|1ed8b502-d754-442c-8d5d-10ac956f44a1|7.106",
        "DiffEqFlux|aae7a2af-3d4f-5e19-a356-7da93b79d9d0|4.4",
        f"PythonCall|6099a3de-0909-46bc-b1f4-468b9a2dfc0d|={JULIACALL}",
    }
    assert call[-4] == str(sources.folder()) and set(call[-3:]) == wanted
    assert "Resolving package versions..." in progress.notes


def test_openssl_is_fitted_to_python_s_where_a_package_brings_it(julia, tmp_path):
    with (tmp_path / "Manifest.toml").open("a") as manifest:
        manifest.write('\n[[deps.OpenSSL_jll]]\nversion = "3.9.0"\n')
    at(julia, tmp_path / "project").resolve(SilentProgress())
    first, second = calls(tmp_path)
    assert second[:-1] == first
    name, _, versions = second[-1].split("|")
    assert name == "OpenSSL_jll" and versions == installation._openssl()[0]


def test_diffeqpy_s_packages_come_only_when_asked_for(julia, tmp_path):
    at(julia, tmp_path / "project").resolve(SilentProgress())
    at(julia, tmp_path / "project").resolve(SilentProgress(), with_diffeqpy=True)
    without, with_it = (" ".join(call) for call in calls(tmp_path))
    assert "DifferentialEquations|" in with_it and "Sundials|" in with_it
    assert "DifferentialEquations|" not in without


def test_juliacall_asks_for_nothing_that_we_leave_out():
    folder = Path(find_spec("juliacall").origin).parent
    asked = json.loads((folder / "juliapkg.json").read_text())["packages"]
    assert set(asked) == {"PythonCall", "OpenSSL_jll"} and asked["OpenSSL_jll"]["version"] == "<=python"


def test_compiled_packages_are_progress_and_the_log_keeps_all(julia, tmp_path):
    progress, install = Heard(), at(julia, tmp_path / "project")
    install.resolve(progress)
    install.precompile(progress)
    assert progress.tasks["Compiling Julia packages"] == progress.done == 3
    assert "1310.2 ms ✓ Lux" in progress.notes
    assert "✓ PythonCall" in (tmp_path / "project" / "setup.log").read_text()


def test_a_system_image_is_built_apart_and_remembered(julia, tmp_path):
    install = at(julia, tmp_path / "project")
    install.resolve(SilentProgress())
    image = install.build_image(SilentProgress())
    call = calls(tmp_path)[-1]
    assert call[1] == f"--project={tmp_path / 'project' / 'image-builder'}"
    assert call[-2:] == [str(tmp_path / "project"), str(tmp_path / "project" / f"unfinished{image.suffix}")]
    assert image.is_file() and not Path(call[-1]).exists()
    install.write_records(image)
    found = probe()
    assert found.found and found.how == "setup-julia" and found.sysimage == image


@pytest.mark.parametrize(
    ("printed", "sentence"),
    [
        ("ERROR: failed to clone from ..., error: could not resolve host: github.com", "the network cannot be reached"),
        ("RequestError: Connection timed out after 30000 ms", "the network cannot be reached"),
        ("curl: Received HTTP code 407 from proxy after CONNECT", "the proxy asks for a user name and a password"),
        ("SSL peer certificate or SSH remote key was not OK", "the network's certificate is not trusted"),
        ("ERROR: IOError: write: no space left on device (ENOSPC)", "the disk is full"),
        ("ERROR: mkdir: permission denied (EACCES)", "choose another folder with --project"),
        (
            "ERROR: Unsatisfiable requirements detected for package Lux [b2108857]:\n  restricted",
            "choose a new --project",
        ),
        ("ERROR: expected package `Lux [b2108857]` to be registered", "missing from Julia's registry"),
        (
            "all well\nERROR: LoadError: boom.\nStacktrace:\n [1] f",
            "setting up Julia failed: ERROR: LoadError: boom (see ",
        ),
        ("", "there was no output"),
    ],
)
def test_a_failure_is_one_sentence(tmp_path, printed, sentence):
    (tmp_path / "printed").write_text(printed)
    julia = stand_in(tmp_path / "bin" / "julia", f"cat {tmp_path}/printed >&2; exit 1")
    with pytest.raises(EngineError) as error:
        at(julia, tmp_path / "project").resolve(SilentProgress())
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path / "project" / "setup.log") in str(error.value)


def test_a_folder_that_cannot_be_made(julia, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="cannot be created .*: choose another project"):
        at(julia, tmp_path / "file" / "project").resolve(SilentProgress())


def run(*arguments, input=None):
    return CliRunner().invoke(app, ["setup-julia", *arguments], input=input)


def test_the_command_leaves_what_the_probe_finds(julia, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Installation, "verify", lambda self, progress, image: seen.append((self.project, image)))
    result = run("--yes")
    assert result.exit_code == 0, result.output
    folder = install_record.default_project()
    assert seen == [(folder, None)] and tmp_path in folder.parents
    assert f"Julia 1.11.2 ({julia})" in result.stdout and "Next: `pyneuralode doctor --time`" in result.stdout
    found = probe()
    assert found.found and (found.how, found.project) == ("setup-julia", folder)

    elsewhere = tmp_path / "elsewhere"
    result = run("--yes", "--sysimage", "--project", str(elsewhere))
    assert result.exit_code == 0, result.output
    assert (probe().project, probe().sysimage) == (elsewhere, seen[-1][1]) and probe().sysimage.parent == elsewhere


def test_the_project_that_our_variable_names_is_set_up(julia, tmp_path, monkeypatch):
    monkeypatch.setattr(Installation, "verify", lambda self, progress, image: None)
    monkeypatch.setenv("PYNEURALODE_JULIA_PROJECT", str(tmp_path / "named"))
    assert run("--yes").exit_code == 0
    assert probe().found and probe().project == tmp_path / "named"


def test_children_buffer_python_s_output(monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    assert installation._for_child()["PYTHONUNBUFFERED"] == ""


def test_it_asks_first(julia, tmp_path):
    result = run(input="n\n")
    assert result.exit_code == 1 and "Continue?" in result.output
    assert not (tmp_path / "calls").exists()


def test_what_does_not_solve_a_problem_is_not_left_to_be_found(julia, tmp_path):
    # juliacall starts the fake julia too, and gets no usable output from it.
    result = run("--yes")
    assert result.exit_code == 2 and result.stderr.strip().splitlines()[-1].startswith("setting up Julia failed: ")
    assert not (install_record.default_project() / install_record.FILE).exists()


def test_a_step_that_falls_silent_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "_SILENCE", 0.6)
    julia = stand_in(tmp_path / "bin" / "julia", "echo Cloning; exec sleep 600")
    with pytest.raises(EngineError, match=r"'Choosing Julia packages' wrote nothing for 0.01 minutes and was ended"):
        at(julia, tmp_path / "project").resolve(SilentProgress())
    assert "Cloning" in (tmp_path / "project" / "setup.log").read_text()


def test_a_broken_julia_is_named(tmp_path):
    julia = tmp_path / "bin" / "julia"
    julia.parent.mkdir()
    julia.write_bytes(b"\x7fELF, but not really")
    julia.chmod(0o755)
    with pytest.raises(EngineError, match=r"julia cannot be started \(.*\): set PYNEURALODE_JULIA to another Julia"):
        at(julia, tmp_path / "project").resolve(SilentProgress())
    stand_in(julia, "kill -SEGV $$")
    with pytest.raises(EngineError, match=r"ended by SIGSEGV: .*set PYNEURALODE_JULIA"):
        at(julia, tmp_path / "project").resolve(SilentProgress())
    stand_in(julia, "kill -KILL $$")
    with pytest.raises(EngineError, match="ended by SIGKILL: free some memory"):
        at(julia, tmp_path / "project").resolve(SilentProgress())


def test_a_project_whose_resolution_fails_is_left_as_it_was(tmp_path):
    julia = stand_in(
        tmp_path / "bin" / "julia",
        """project=${2#--project=}; echo new > "$project/Project.toml"; echo new > "$project/Manifest.toml"
        echo "ERROR: could not resolve host"; exit 1""",
    )
    project = tmp_path / "project"
    project.mkdir()
    (project / "Project.toml").write_text("[deps]\n")
    with pytest.raises(EngineError, match="the network cannot be reached"):
        at(julia, project).resolve(SilentProgress())
    assert (project / "Project.toml").read_text() == "[deps]\n"
    assert {path.name for path in project.iterdir()} == {"Project.toml", "setup.log"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_disk_that_is_full_for_the_log_is_named(julia, tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "LOG", "/dev/full")
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    stand_in(julia, "yes | head -c 1000000")
    with pytest.raises(EngineError, match="the disk is full: free some space"):
        at(julia, tmp_path / "project").resolve(SilentProgress())


@pytest.mark.slow
@pytest.mark.timeout(86400)
def test_a_fresh_project_is_really_set_up(tmp_path):
    """Resolve, instantiate, compile and solve; no network is needed if Julia's packages are already installed."""
    environment = {name: value for name, value in ORIGINAL.items() if name != "PYNEURALODE_JULIA_PROJECT"}
    find = "from pyneuralode.engines.julia_engine.probe import probe; raise SystemExit(not probe().found)"
    if subprocess.run([sys.executable, "-c", find], check=False, env=ORIGINAL).returncode:
        pytest.skip("needs a Julia with our packages; pyneuralode doctor says what is missing")
    project = tmp_path / "project"
    command = [sys.executable, "-c", "from pyneuralode.cli import main; main()", "setup-julia", "--yes"]
    environment["XDG_DATA_HOME"] = environment["WIN_PD_OVERRIDE_LOCAL_APPDATA"] = str(tmp_path / "data")
    command += ["--project", str(project)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + (project / "setup.log").read_text()
    kept = json.loads((project / install_record.FILE).read_text())
    assert kept["project"] == str(project) and "The Julia engine is ready" in done.stdout
