import gzip
import struct

import numpy as np
import pytest

from pyneuralode.datasets import download_mnist, mnist_images, mnist_labels
from pyneuralode.errors import ArgumentError, DataError


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def digits():
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    monkeypatch.delenv("PYNEURALODE_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")


def test_the_original_files(data_dir):
    train, test = mnist_images("train", data_dir / "mnist"), mnist_images("test", data_dir / "mnist")
    assert (train.shape, test.shape, train.dtype) == ((60_000, 28, 28), (10_000, 28, 28), np.uint8)
    assert round(train.mean() / 255, 4) == 0.1307  # the usual constant for normalizing MNIST
    labels = mnist_labels("train", data_dir / "mnist")
    assert labels[:5].tolist() == [5, 0, 4, 1, 9] and np.bincount(labels).tolist()[:2] == [5923, 6742]


def test_unpacked_files_need_no_labels_beside_them(tmp_path, digits):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(digits))
    assert (mnist_images("test", tmp_path) == digits).all()


def test_the_folder_of_the_environment_comes_before_the_cache(tmp_path, monkeypatch, digits, no_data):
    for folder, images in (("data/mnist", digits), ("cache/mnist", 255 - digits)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "train-images-idx3-ubyte").write_bytes(idx(images))
    assert (mnist_images() == 255 - digits).all()
    monkeypatch.setenv("PYNEURALODE_DATA", str(tmp_path / "data"))
    assert (mnist_images() == digits).all()


def test_a_missing_file_names_the_places_and_the_remedy(tmp_path, monkeypatch, no_data):
    monkeypatch.setenv("PYNEURALODE_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError) as error:
        mnist_images("test")
    for words in (
        tmp_path / "data" / "mnist",
        tmp_path / "cache" / "mnist",
        "download_mnist()",
        "--download",
    ):
        assert str(words) in str(error.value)
    with pytest.raises(ArgumentError, match="part is 'tests'.*did you mean 'test'"):
        mnist_images("tests")


def test_files_that_are_not_mnist_are_refused(tmp_path, digits):
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(idx(digits)))
    with pytest.raises(DataError, match="has the checksum .* download the file again"):
        mnist_images("train", tmp_path)
    packed.unlink()
    plain = tmp_path / "train-images-idx3-ubyte"
    for content in (b"", idx(digits)[:-1], b"\x00\x00\x0d\x03" + idx(digits)[4:]):
        plain.write_bytes(content)
        with pytest.raises(DataError, match="not a complete IDX file"):
            mnist_images("train", tmp_path)
    plain.write_bytes(idx(digits[:, :8]))
    with pytest.raises(DataError, match=r"shape \(5, 8, 28\)"):
        mnist_images("train", tmp_path)


def test_the_download_tries_every_mirror_and_checks_sums(tmp_path, monkeypatch):
    asked = []

    def retrieve(url, known_hash, fname, path, progressbar):
        asked.append((url, known_hash))
        if "s3" in url:
            raise OSError("no connection")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    assert download_mnist(tmp_path) == tmp_path
    assert len(asked) == 8 and all(md5.startswith("md5:") and len(md5) == 36 for _, md5 in asked)

    def refuse(url, known_hash, fname, path, progressbar):
        raise ValueError("hash of downloaded file does not match")

    monkeypatch.setattr("pooch.retrieve", refuse)
    with pytest.raises(DataError, match=f"could not be downloaded .*put it in {tmp_path}"):
        download_mnist(tmp_path)
