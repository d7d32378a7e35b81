"""Downloads of Julia from a server on this machine, with a small archive in Julia's place."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from pyneuralode.cli import app
from pyneuralode.engines.julia_engine import installation, julia_download
from pyneuralode.engines.julia_engine.install_record import data_folder
from pyneuralode.engines.julia_engine.installation import Installation
from pyneuralode.engines.julia_engine.julia_download import download_julia, downloaded_julia, julia_folder
from pyneuralode.engines.julia_engine.probe import clear_cache, probe
from pyneuralode.errors import EngineError
from pyneuralode.progress import SilentProgress

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the archive holds a shell script")

pytest.importorskip("juliapkg")

SCRIPT = """#!/bin/sh
test "$*" = --version && echo julia version 1.11.2 && exit
project=${2#--project=}
case "$4" in *Pkg.develop*)
    printf '[[deps.PyNeuralODE]]\\n\\n[[deps.PythonCall]]\\n' > "$project/Manifest.toml"
    printf '[deps]\\n' > "$project/Project.toml" ;;
esac
"""


class Server(ThreadingHTTPServer):
    """Serves versions.json and archives of Julia; its attributes make it misbehave."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.archives = {version: archive(version) for version in ("1.10.4", "1.11.2", "2.0.0")}
        self.cut = None  # the number of bytes after which a connection is closed
        self.silent = False  # whether it stops answering instead of closing the connection
        self.ranges = True
        self.sha256 = None  # announced instead of the right one
        self.status = 200
        self.login_page = False
        self.asked = []

    def versions(self):
        from juliapkg.install_julia import get_arch, get_libc, get_os

        system, arch = get_os(), get_arch()
        triplet = f"{arch}-linux-{get_libc() or 'gnu'}"
        return {
            version: {
                "stable": True,
                "files": [
                    {
                        "url": f"{julia_download.SERVER}/bin/{system}/{arch}/julia-{version}.tar.gz",
                        "os": system,
                        "arch": arch,
                        "triplet": triplet,
                        "sha256": self.sha256 or hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                    }
                ],
            }
            for version, content in self.archives.items()
        }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if server.status != 200:
            self.send_error(server.status)
            return
        if self.path == "/bin/versions.json":
            content = b"<html>Please log in</html>" if server.login_page else json.dumps(server.versions()).encode()
            self.answer(200, content, None)
        else:
            content = server.archives[self.path.rsplit("julia-", 1)[1].removesuffix(".tar.gz")]
            first = self.headers.get("Range")
            if first and server.ranges:
                self.answer(206, content[int(first.removeprefix("bytes=").rstrip("-")) :], server.cut)
            else:
                self.answer(200, content, server.cut)

    def answer(self, status, content, cut):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut])
        self.wfile.flush()
        if cut is not None and self.server.silent:
            time.sleep(20 * julia_download.TIMEOUT)

    def log_message(self, *arguments):
        pass


def archive(version):
    """A compressed archive of one folder, with Julia's executable as a shell script, and 100 kB of ballast."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        parts = {"bin/julia": SCRIPT.replace("1.11.2", version).encode(), "ballast": os.urandom(100_000)}
        for name, text in parts.items():
            entry = tarfile.TarInfo(f"julia-{version}/{name}")
            entry.size, entry.mode = len(text), 0o755
            tar.addfile(entry, io.BytesIO(text))
    return content.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("JULIA", "PYTHON_JULIA", "PYNEURALODE_JULIA", "XDG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("COLUMNS", "200")
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("JULIAUP_SERVER", server.url)
    clear_cache()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def allowed():
    from juliapkg.compat import Compat

    return Compat.parse("1.10")


class Bar(SilentProgress):
    def __init__(self):
        self.total, self.done = None, 0

    def task(self, description, total=None):
        self.total = total
        return self

    def advance(self, n=1, note=""):
        self.done += n


def test_the_newest_allowed_version_is_downloaded_checked_and_unpacked(server, allowed):
    bar = Bar()
    julia = download_julia(allowed, bar)
    assert julia.version == "1.11.2" and julia.executable == julia_folder() / "1.11.2" / "bin" / "julia"
    assert subprocess.run([julia.executable, "--version"], capture_output=True, text=True, check=True).stdout == (
        "julia version 1.11.2\n"
    )
    assert bar.done == bar.total == len(server.archives["1.11.2"])
    assert [path.name for path in julia_folder().iterdir()] == ["1.11.2"]  # neither the archive nor a partial folder
    assert downloaded_julia(allowed) == julia


class Interrupted(Bar):
    """A progress bar during which the user presses Ctrl-C."""

    def advance(self, n=1, note=""):
        super().advance(n)
        if self.done >= 40_000:
            raise KeyboardInterrupt


def test_an_interrupted_download_is_resumed(server, allowed):
    server.cut = 40_000
    with pytest.raises(KeyboardInterrupt):
        download_julia(allowed, Interrupted())
    (part,) = julia_folder().iterdir()
    assert part.name == "julia-1.11.2.tar.gz.part" and part.stat().st_size == 40_000
    server.cut, bar = None, Bar()
    assert download_julia(allowed, bar).version == "1.11.2"
    assert server.asked[-1][1] == "bytes=40000-" and bar.done == bar.total


def test_a_connection_that_breaks_is_continued_by_the_next(server, allowed):
    server.cut = 30_000
    assert download_julia(allowed, SilentProgress()).version == "1.11.2"
    assert [first for path, first in server.asked if "tar.gz" in path] == [
        None,
        "bytes=30000-",
        "bytes=60000-",
        "bytes=90000-",
    ]


def test_a_server_that_cannot_continue_begins_again(server, allowed):
    julia_folder().mkdir(parents=True)
    (julia_folder() / "julia-1.11.2.tar.gz.part").write_bytes(server.archives["1.11.2"][:5000])
    server.ranges, bar = False, Bar()
    assert download_julia(allowed, bar).version == "1.11.2" and bar.done == bar.total


def test_a_server_that_hangs_is_left_after_the_stated_time(server, allowed, monkeypatch):
    monkeypatch.setattr(julia_download, "TIMEOUT", 0.5)
    server.cut, server.silent = 50_000, True
    server.ranges = False  # so that the second connection, like the first, ends at the same place
    with pytest.raises(
        EngineError, match=r"the server was silent for 0.5 seconds; run `pyneuralode setup-julia` again"
    ):
        download_julia(allowed, SilentProgress())


def test_a_wrong_checksum_is_refused_and_the_archive_deleted(server, allowed):
    server.sha256 = "0" * 64
    with pytest.raises(EngineError, match="arrived damaged"):
        download_julia(allowed, SilentProgress())
    assert not list(julia_folder().iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_named(server, allowed):
    julia_folder().mkdir(parents=True)
    (julia_folder() / "julia-1.11.2.tar.gz.part").symlink_to("/dev/full")
    with pytest.raises(EngineError, match="the disk is full: free some space"):
        download_julia(allowed, SilentProgress())


def test_a_login_page_and_a_proxy_that_asks_for_a_password(server, allowed, monkeypatch):
    server.login_page = True
    with pytest.raises(EngineError, match="not a list of Julia's versions"):
        download_julia(allowed, SilentProgress())
    server.status = 407
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("JULIAUP_SERVER", "http://julia.invalid")
    with pytest.raises(EngineError, match=r"proxy asks for a user name and a password: .* https_proxy to http://NAME"):
        download_julia(allowed, SilentProgress())


def test_no_network_and_no_julia_for_this_machine(server, allowed, monkeypatch):
    server.archives = {"2.0.0": server.archives["2.0.0"]}
    with pytest.raises(EngineError, match="there is no Julia .* set PYNEURALODE_JULIA to its path"):
        download_julia(allowed, SilentProgress())
    monkeypatch.setenv("JULIAUP_SERVER", "http://127.0.0.1:9")
    with pytest.raises(EngineError, match="the network cannot be reached: connect to it, or set .* https_proxy"):
        download_julia(allowed, SilentProgress())


def run(*arguments):
    return CliRunner().invoke(app, ["setup-julia", "--yes", *arguments])


def test_the_command_downloads_once_and_a_second_run_changes_nothing(server, monkeypatch):
    monkeypatch.setattr(Installation, "verify", lambda self, progress, image: None)
    result = run()
    assert result.exit_code == 0, result.output
    assert "a new copy of Julia" in result.stdout and probe().found
    assert probe().executable == julia_folder() / "1.11.2" / "bin" / "julia"

    def contents():
        return {path: path.read_bytes() for path in data_folder().rglob("*") if path.is_file()}

    before, asked = contents(), len(server.asked)
    result = run()
    assert result.exit_code == 0 and "Julia 1.11.2" in result.stdout, result.output
    assert contents() == before and len(server.asked) == asked


def test_a_download_without_a_network_is_one_sentence(server, monkeypatch):
    monkeypatch.setenv("JULIAUP_SERVER", "http://127.0.0.1:9")
    result = run()
    assert result.exit_code == 2
    (sentence,) = result.stderr.strip().splitlines()
    assert sentence.startswith("Julia could not be downloaded from http://127.0.0.1:9: the network cannot be reached")


def test_a_wrong_mirror_and_a_wrong_folder(server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    result = run("--project", str(tmp_path / "file"))
    assert result.exit_code == 2 and "cannot be created" in result.stderr and not server.asked
    monkeypatch.setenv("JULIAUP_SERVER", "nonsense")
    result = run()
    assert result.exit_code == 2 and "Julia could not be downloaded from nonsense: " in result.stderr


def test_a_julia_that_python_s_openssl_excludes_is_not_chosen(server, monkeypatch):
    monkeypatch.setattr(installation, "_openssl", lambda: ("3 - 3.0", "1 - 1.10"))
    assert download_julia(installation.allowed_versions(), SilentProgress()).version == "1.10.4"
    assert installation.find_julia().version == "1.10.4"


def test_two_set_ups_at_once_are_refused(server):
    with installation.only_setup():
        result = run()
    assert result.exit_code == 2 and "another `pyneuralode setup-julia` is running" in result.stderr
