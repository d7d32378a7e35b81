"""Settings that all tests share."""

import os
import signal
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

# By default tests use the torch engine; "auto" would choose Julia where it is installed.
os.environ.setdefault("PYNEURALODE_ENGINE", "torch")

# Background jobs of a shell ignore Ctrl-C, and the processes that tests start would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets that the package does not include; tests that need it are skipped if it is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PYNEURALODE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set PYNEURALODE_DATA")
    return folder


@pytest.fixture(scope="session")
def julia() -> None:
    """A running Julia engine; tests that need it are skipped if Julia is not installed."""
    from pyneuralode.engines.julia_engine.probe import probe
    from pyneuralode.engines.julia_engine.session import start_julia

    found = probe()
    if not found.found:
        pytest.skip(f"no Julia: {found.reason}")
    start_julia()
