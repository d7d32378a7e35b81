"""Download of Julia itself: the choice of a version, a download that can be resumed, its checksum, and unpacking.

juliapkg can install Julia too, but it waits forever for a server that hangs, starts again after an interruption, and
removes the former Julia first.
"""

from __future__ import annotations

import hashlib
import http
import http.client
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, build_opener

from ...errors import EngineError
from ...progress import Progress, ProgressTask
from .executables import Julia, JuliaMissing, examine
from .failure_causes import find_cause
from .install_record import data_folder, make_folder

SERVER = "https://julialang-s3.julialang.org"
TIMEOUT = 60.0  # seconds without a byte from the server
_BLOCK = 1 << 20
_AGAIN = "run `pyneuralode setup-julia` again, or install Julia yourself and put it on PATH"


@dataclass(frozen=True)
class Archive:
    """An archive of Julia on the server, with its size in bytes."""

    version: str
    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def julia_folder() -> Path:
    """Return the folder that holds the downloaded Julias, each in a folder named after its version."""
    return data_folder() / "julia"


def downloaded_julia(compat) -> Julia | None:
    """Return the newest Julia that was downloaded before and whose version `compat` contains."""
    found = []
    for folder in julia_folder().glob("*.*.*"):
        try:
            julia = examine(folder / "bin" / _executable(), "download")
        except JuliaMissing:
            continue
        version = parse_version(julia.version)
        if version in compat:
            found.append((version, julia))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def download_julia(compat, progress: Progress) -> Julia:
    """Download and unpack the newest Julia whose version `compat`, in juliapkg's notation, contains.

    An interrupted download is kept and resumed the next time. The server is Julia's own, or the one that juliaup's
    variable JULIAUP_SERVER names.

    Raises
    ------
    EngineError
        If the server cannot be reached or is silent for `TIMEOUT` seconds, the checksum is wrong, the disk is full, or
        there is no such Julia for this machine.
    """
    server = os.environ.get("JULIAUP_SERVER", "").rstrip("/") or SERVER
    make_folder(julia_folder())
    try:
        archive = _newest(_read_versions(server), compat, server)
        path = _fetch(archive, progress)
        folder = _unpack(path, archive.version)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: the server's address is not one
        raise EngineError(f"Julia could not be downloaded from {server}: {_cause(error)}; {_AGAIN}.") from error
    path.unlink()
    return examine(folder / "bin" / _executable(), "download")


def _read_versions(server: str) -> dict:
    with _open(f"{server}/bin/versions.json") as answer:
        try:
            return json.load(answer)
        except ValueError as error:
            raise OSError("the answer is not a list of Julia's versions (a login page of the network?)") from error


def _newest(versions: dict, compat, server: str) -> Archive:
    """Return the archive of the newest stable version in `compat` for this machine."""
    from juliapkg.install_julia import get_arch, get_libc, get_os

    system, machine, libc = get_os(), get_arch(), get_libc() or "gnu"
    suited = [
        Archive(version, file["url"].replace(SERVER, server, 1), file["sha256"], file["size"])
        for version, entry in versions.items()
        if entry["stable"] and parse_version(version) in compat
        for file in entry["files"]
        if file["url"].endswith(".tar.gz") and (file["os"], file["arch"]) == (system, machine)
        if system != "linux" or file["triplet"].split("-")[2].startswith(libc)
    ]
    if not suited:
        raise EngineError(
            f"there is no Julia {compat} for {system} on {machine} at {server}: "
            "install Julia yourself and set PYNEURALODE_JULIA to its path."
        )
    return max(suited, key=lambda archive: parse_version(archive.version))


def _fetch(archive: Archive, progress: Progress) -> Path:
    """Download an archive and return its path; the part that an earlier attempt received is continued."""
    part = julia_folder() / f"{archive.name}.part"
    task = progress.task(f"Downloading Julia {archive.version}", total=archive.size)
    task.advance(_size(part))
    while (start := _size(part)) < archive.size:
        try:
            _receive(archive, part, start, task)
        except (TimeoutError, ConnectionError, http.client.HTTPException):
            if _size(part) <= start:
                raise
        if _size(part) <= start:  # a connection that delivered something is worth another attempt, others are not
            raise ConnectionError("connection aborted")
    with part.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != archive.sha256:
        part.unlink()
        raise OSError(f"{archive.name} arrived damaged (its SHA-256 is wrong) and was deleted")
    return part


def _receive(archive: Archive, part: Path, start: int, task: ProgressTask) -> None:
    """Append to `part` what one connection delivers; a server that cannot continue at `start` begins again."""
    request = Request(archive.url, headers={"Range": f"bytes={start}-"} if start else {})
    with _open(request) as answer:
        continues = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if not continues:
            task.advance(-start)
        with part.open("ab" if continues else "wb") as file:
            while block := answer.read1(_BLOCK):  # what has arrived, and not only whole blocks
                file.write(block)
                task.advance(len(block), note=f"{file.tell() >> 20} of {archive.size >> 20} MB")


def _unpack(archive: Path, version: str) -> Path:
    """Unpack an archive, whose only folder is Julia's, and return where it is; it appears there whole or not at all."""
    final, partial = julia_folder() / version, julia_folder() / f"{version}.partial"
    for folder in (partial, final):  # a `final` that is here already holds no usable Julia
        shutil.rmtree(folder, ignore_errors=True)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            if hasattr(tarfile, "data_filter"):  # Python 3.10.12 and newer
                tar.extractall(partial, filter="data")
            else:
                tar.extractall(partial)
        (root,) = partial.iterdir()
        root.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _open(request: str | Request):
    return build_opener().open(request, timeout=TIMEOUT)  # urlopen would keep the proxies of the first call


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", error)  # urllib wraps some errors in one of its own
    if isinstance(reason, TimeoutError):
        return f"the server was silent for {TIMEOUT:g} seconds"
    return find_cause(f"error: {error}")


def _executable() -> str:
    return "julia.exe" if os.name == "nt" else "julia"


def parse_version(version: str):
    """Return a version in juliapkg's notation; a patch number that is not known counts as the last."""
    from juliapkg.compat import Version

    return Version.parse(version if version.count(".") > 1 else f"{version}.99")
