import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pyneuralode
from pyneuralode.cli import app
from pyneuralode.engines.julia_engine import session
from pyneuralode.errors import SolverError
from pyneuralode.reports import registry
from pyneuralode.reports.base import Findings, Row

ROOT = Path(__file__).parents[2]


@pytest.fixture
def register_report(monkeypatch):
    def register(run):
        monkeypatch.setitem(sys.modules, "fake_cli_report", types.SimpleNamespace(run=run))
        entry = registry.Report("fake", "A fake", "nowhere", "fake_cli_report")
        monkeypatch.setitem(registry.REPORTS, "fake", entry)

    register(lambda context: Findings([Row("loss", 0.5, target=1.0)]))
    return register


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def program(*arguments, code="from pyneuralode.cli import main; main()", **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def test_report_ends_by_printing_the_page(tmp_path, register_report):
    result = run("report", "fake", "--out", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["fake: 1 of 1 targets met", str(tmp_path / "index.html")]
    assert (tmp_path / "index.html").is_file()


def test_the_options_reach_the_report(tmp_path, register_report):
    seen = []
    register_report(lambda context: seen.append(context) or Findings([Row("loss", 0.5)]))
    options = ["--quick", "--engine", "torch", "--seed", 5, "--workers", 3]
    assert run("report", "fake", "--out", tmp_path, *options).exit_code == 0
    (context,) = seen
    assert (context.scale, context.engine, context.seed, context.workers) == ("quick", "torch", 5, 3)


@pytest.mark.parametrize("arguments", [["report"], ["report", "--list"]])
def test_the_reports_are_listed(arguments):
    result = run(*arguments)
    assert result.exit_code == 0
    assert all(id in result.stdout for id in ("covid", "seir"))


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["covd"], "the report is 'covd', which is unknown: did you mean 'covid'?"),
        (["fake", "--engine", "jula"], "engine is 'jula', which is unknown: did you mean 'julia'?"),
        (["fake", "--engine", "julia"], "engine is 'julia', but PYNEURALODE_JULIA is /no/julia"),
        (["fake", "--seed", "-1"], "seed is -1: give an integer >= 0"),
        (["fake", "--workers", "0"], "workers is 0: give a positive integer"),
        (["fake", "--quick", "--check"], "targets apply only at full scale"),
        (["fake", "--out", __file__], "is a file: give a folder."),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr_and_status_2(tmp_path, monkeypatch, register_report, arguments, sentence):
    register_report(lambda context: pytest.fail("computed in spite of a mistake"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYNEURALODE_JULIA", "/no/julia")
    monkeypatch.setattr(session, "runs", lambda: False)  # even if another test has started Julia
    result = run("report", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr and len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ours_in_a_report_is_a_sentence_and_leaves_nothing(tmp_path, register_report):
    def fail(context):
        raise SolverError("the solve ended at t = 3.0: loosen rtol.")

    register_report(fail)
    result = run("report", "fake", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.strip() == "the solve ended at t = 3.0: loosen rtol."
    assert not (tmp_path / "out").exists()


def test_a_defect_keeps_its_traceback(tmp_path, register_report):
    register_report(lambda context: {}["absent"])
    assert isinstance(run("report", "fake", "--out", tmp_path).exception, KeyError)


def test_check_ends_with_1_and_names_the_row(tmp_path, register_report):
    assert run("report", "fake", "--check", "--out", tmp_path).exit_code == 0
    register_report(lambda context: Findings([Row("loss", 2.0, target=1.0), Row("time", 1.0)]))
    assert run("report", "fake", "--out", tmp_path).exit_code == 0
    result = run("report", "fake", "--check", "--out", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.strip() == "fake: 'loss' is 2.000; the target is at most 1."
    assert result.stdout.splitlines()[-1] == str(tmp_path / "index.html")


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_ends_with_130_and_leaves_nothing(tmp_path):
    code = textwrap.dedent(
        """
        import sys, time, types
        from pathlib import Path
        from pyneuralode.cli import main
        from pyneuralode.reports import registry

        def run(context):
            Path(sys.argv[-1] + ".begun").touch()
            time.sleep(86400)

        sys.modules["slow"] = types.SimpleNamespace(run=run)
        registry.REPORTS["slow"] = registry.Report("slow", "Slow", "nowhere", "slow")
        main()
        """
    )
    out = tmp_path / "out"
    process = program("report", "slow", "--out", out, code=code)
    while not (tmp_path / "out.begun").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Interrupted:" in errors and "Traceback" not in errors
    assert not out.exists()


def test_the_program_itself_answers_a_mistake_without_traceback(tmp_path):
    process = program("report", "covd", cwd=tmp_path)
    output, errors = process.communicate()
    assert process.returncode == 2 and output == ""
    assert errors.startswith("the report is 'covd'") and errors.count("\n") == 1


def test_wrong_usage_is_status_2():
    assert run("report", "covid", "--seed", "many").exit_code == 2
    assert run("reprot").exit_code == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys, pyneuralode.cli as cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    _, errors = program("--help", code=code).communicate()
    assert errors.strip() == "[]"


def test_version():
    result = run("--version")
    assert result.exit_code == 0 and result.stdout.strip() == f"pyneuralode {pyneuralode.__version__}"


def test_doctor_names_what_is_here(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("JULIA", "PYTHON_JULIA", "PYNEURALODE_JULIA")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path))
    running = "juliacall" in sys.modules  # another test may have loaded juliacall
    result = run("doctor")
    assert result.exit_code == 0
    for word in ("Python", "torch", "CUDA", "numba", "not ready: there is no julia on PATH", "Next:"):
        assert word in result.stdout
    assert ("juliacall" in sys.modules) == running


def test_doctor_says_which_julia_python_s_openssl_allows(monkeypatch):
    deps = pytest.importorskip("juliapkg.deps")
    monkeypatch.setattr(deps, "openssl_compat", lambda: ("3 - 3.0", "1 - 1.11"))
    assert "newest     1.11: newer versions of Julia need a newer OpenSSL" in run("doctor").stdout
    monkeypatch.setattr(deps, "openssl_compat", lambda: ("3 - 3.5", None))
    assert "OpenSSL" not in run("doctor").stdout


def test_doctor_says_when_torch_cannot_be_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("doctor")
    assert result.exit_code == 1
    assert "cannot be loaded" in result.stdout and "Next: reinstall torch" in result.stdout
