import hashlib
import io
import tarfile

import numpy as np
import pytest

from pyneuralode.datasets import cifar10 as module
from pyneuralode.datasets import download_cifar10, download_mnist, read_cifar10
from pyneuralode.errors import ArgumentError, DataError

FILES = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]


@pytest.fixture
def photographs():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8), np.arange(12, dtype=np.uint8) % 10


@pytest.fixture
def contents(photographs, monkeypatch):
    """Six files in CIFAR-10's format, with two images each; their checksums replace the known ones."""
    images, labels = photographs
    records = np.concatenate([labels[:, None], images.reshape(12, -1)], axis=1)
    found = {name: records[2 * k : 2 * k + 2].tobytes() for k, name in enumerate(FILES)}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in found.items() if "data" in name}
    monkeypatch.setattr(module, "_MD5", sums)
    return found


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    monkeypatch.delenv("PYNEURALODE_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")


def archive(path, contents):
    with tarfile.open(path, "w:gz") as file:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))


def test_the_reduced_set(data_dir):
    images, labels = read_cifar10("train", data_dir / "cifar10", reduced=True)
    assert (images.shape, images.dtype, labels.dtype) == ((10_000, 3, 32, 32), np.uint8, np.uint8)
    assert np.bincount(labels).tolist() == [1000] * 10
    with np.load(data_dir / "cifar10" / "train10k.npz") as arrays:
        assert (images[7, 2] == arrays["x"][7, :, :, 2]).all()  # the blue channel
    images, labels = read_cifar10("test", data_dir / "cifar10", reduced=True)
    assert len(images) == 1_000 and labels[:4].tolist() == [3, 8, 8, 0]  # cat, ship, ship, airplane


def test_files_and_archive_hold_the_same(tmp_path, contents, photographs, monkeypatch):
    images, labels = photographs
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = read_cifar10("train", tmp_path)
    assert (found[0] == images[:10]).all() and (found[1] == labels[:10]).all()
    other = tmp_path / "packed"
    other.mkdir()
    archive(other / "cifar-10-binary.tar.gz", contents)
    with pytest.raises(DataError, match="has the checksum .* download the file again"):
        read_cifar10("test", other)
    own = {"cifar-10-binary.tar.gz": hashlib.md5((other / "cifar-10-binary.tar.gz").read_bytes()).hexdigest()}
    monkeypatch.setattr(module, "_ARCHIVE_MD5", own)
    for part, rows in (("train", slice(0, 10)), ("test", slice(10, 12))):
        found = read_cifar10(part, other)
        assert (found[0] == images[rows]).all() and (found[1] == labels[rows]).all()


def test_a_missing_file_names_the_places_and_the_remedy(tmp_path, monkeypatch, no_data):
    monkeypatch.setenv("PYNEURALODE_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError) as error:
        read_cifar10()
    for words in (
        "cifar-10-binary.tar.gz",
        tmp_path / "data" / "cifar10",
        tmp_path / "cache" / "cifar10",
        "download_cifar10()",
        "--download",
    ):
        assert str(words) in str(error.value)
    with pytest.raises(DataError, match=r"train10k.npz is not in .*: put it there"):
        read_cifar10(reduced=True)
    with pytest.raises(ArgumentError, match="part is 'tests'.*did you mean 'test'"):
        read_cifar10("tests")


def test_files_that_are_not_cifar10_are_refused(tmp_path, contents):
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "data_batch_3.bin").write_bytes(contents["data_batch_4.bin"])
    with pytest.raises(DataError, match=r"data_batch_3.bin has the checksum"):
        read_cifar10("train", tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin cannot be read"):
        read_cifar10("train", tmp_path)
    for content, words in (
        (contents["test_batch.bin"][:-1], "contains no image or an incomplete one"),
        (b"", "contains no image or an incomplete one"),
        (b"\x0b" + contents["test_batch.bin"][1:], "has the label 11"),
    ):
        (tmp_path / "test_batch.bin").write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_cifar10("test", tmp_path)
    for arrays, words in (
        ({"x": np.zeros((2, 32, 32, 3))}, "cannot be read"),
        ({"x": np.zeros((2, 32, 32, 3)), "y": np.zeros(2, int)}, r"has x of float64 \(2, 32, 32, 3\)"),
        ({"x": np.zeros((2, 28, 28, 3), np.uint8), "y": np.zeros(2, int)}, r"x of uint8 \(2, 28, 28, 3\)"),
        ({"x": np.zeros((2, 32, 32, 3), np.uint8), "y": np.zeros(3, int)}, r"y of shape \(3,\)"),
        ({"x": np.zeros((2, 32, 32, 3), np.uint8), "y": np.array([0, 10])}, "labels from 0 to 10"),
    ):
        np.savez(tmp_path / "test1k.npz", **arrays)
        with pytest.raises(DataError, match=words):
            read_cifar10("test", tmp_path, reduced=True)
    (tmp_path / "test1k.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_cifar10("test", tmp_path, reduced=True)


class Recorder:
    """A Progress that records the calls it receives."""

    def __init__(self):
        self.totals, self.counts = {}, {}

    def task(self, description, total=None):
        self.totals[description], self.counts[description] = total, 0
        self.current = description
        return self

    def advance(self, n=1, note=""):
        self.counts[self.current] += n


def test_the_download_draws_a_bar_and_checks_the_sum(tmp_path, monkeypatch):
    asked = []

    def retrieve(url, known_hash, fname, path, progressbar):
        asked.append((url, known_hash, fname, path))
        if progressbar:  # like pooch: whole blocks, then the total
            progressbar.total = 100
            progressbar.update(64)
            progressbar.update(64)
            progressbar.reset()
            progressbar.update(100)
            progressbar.close()

    monkeypatch.setattr("pooch.retrieve", retrieve)
    progress = Recorder()
    assert download_cifar10(tmp_path, progress) == tmp_path
    ((url, known, name, folder),) = asked
    assert url.endswith("/cifar-10-binary.tar.gz") and known == "md5:c32a1d4ab5d03f1284b67883e8d87530"
    assert (name, folder) == ("cifar-10-binary.tar.gz", tmp_path)
    assert progress.totals == {"download of cifar-10-binary.tar.gz": 100}
    assert progress.counts == {"download of cifar-10-binary.tar.gz": 100}
    download_mnist(tmp_path, progress)
    assert len(progress.counts) == 5 and set(progress.counts.values()) == {100}

    def refuse(url, known_hash, fname, path, progressbar):
        raise OSError("no connection")

    monkeypatch.setattr("pooch.retrieve", refuse)
    with pytest.raises(DataError, match=r"could not be downloaded \(no connection\).*put it in"):
        download_cifar10(tmp_path)
