"""Julia's module Main, and the Julia packages that diffeqpy loads, for the tests of equations that they solve."""

import pytest

import pyneuralode as pn
from pyneuralode.engines.julia_engine import diffeqpy_modules, session


@pytest.fixture(scope="session")
def package(julia):
    """A function that returns the Julia package for a kind of equation; it skips the test if packages are missing."""

    def load(kind):
        try:
            return session.with_julia(lambda main: diffeqpy_modules.diffeqpy(kind, main))
        except pn.EngineError as error:
            pytest.skip(str(error))

    return load


@pytest.fixture(scope="session")
def main(package):
    """juliacall's Main module; tests that need it are skipped if diffeqpy cannot run."""
    package("ode")
    return session.with_julia(lambda main: main)
