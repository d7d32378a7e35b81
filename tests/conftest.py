"""Settings that all tests share."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; tests that need it are skipped where it is not."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PYNEURALODE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set PYNEURALODE_DATA")
    return folder
