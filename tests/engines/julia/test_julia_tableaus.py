"""The Julia engine uses the same tableaus as the torch engine."""

import pytest

from pyneuralode.engines.julia_engine import tableaus


@pytest.mark.skipif(not tableaus.TARGET.exists(), reason="an installed package does not hold the Julia sources here")
def test_file_is_current():
    current = tableaus.TARGET.read_text(encoding="utf-8") == tableaus.julia_source()
    assert current, "julia/src/tableaus.jl is out of date: run `python -m pyneuralode.engines.julia_engine.tableaus`."


def test_numbers_are_kept_to_the_last_digit():
    source = tableaus.julia_source()
    for tableau in tableaus.TABLEAUS.values():
        for x in (*tableau.b, *tableau.interpolant.ravel()):
            assert x == 0 or repr(float(x)) in source
