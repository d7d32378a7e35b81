import hashlib
import os
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest

from pyneuralode.datasets import sweden
from pyneuralode.errors import ArgumentError

DATA = Path(os.environ.get("PYNEURALODE_DATA", Path(__file__).parents[3] / "shared" / "data"))
MD5 = {
    "covid_sweden_avg7.csv": "586659a41222cbeff80d874b43b119ce",
    "covid_sweden_dd2424.csv": "06601e84e7aed317a4102f76e7f492b8",
}


def _md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_the_official_series_has_its_81_days_and_the_dates_agree_with_them():
    data = sweden()
    assert list(data.columns) == ["date", "day", "new_cases_avg7"]
    assert len(data) == 81
    assert (data["date"] == pd.Timestamp("2021-11-01") + pd.to_timedelta(data["day"], unit="D")).all()
    assert (data["day"].iloc[0], data["day"].iloc[-1]) == (1, 164)
    assert data["new_cases_avg7"].iloc[0] == 857.4286


def test_the_report_s_series_has_its_56_points():
    data = sweden("report")
    assert list(data.columns) == ["day", "new_cases_avg7"]
    assert len(data) == 56
    assert (data["day"].iloc[0], data["day"].iloc[-1]) == (0, 170)
    assert list(data["new_cases_avg7"].iloc[:3]) == [0.0, 857.0, 842.0]


@pytest.mark.parametrize("series", ["official", "report"])
def test_days_increase_and_types_are_fixed(series):
    data = sweden(series)
    assert data["day"].is_monotonic_increasing and data["day"].is_unique
    assert str(data["day"].dtype) == "int64"
    assert str(data["new_cases_avg7"].dtype) == "float64"
    assert data["new_cases_avg7"].notna().all() and (data["new_cases_avg7"] >= 0).all()


def test_a_series_that_is_not_known_names_the_nearest():
    with pytest.raises(ArgumentError, match="series is 'offical'.*did you mean 'official'"):
        sweden("offical")


@pytest.mark.parametrize("name", MD5)
def test_the_tables_are_the_ones_their_readme_describes(name):
    tables = files("pyneuralode.datasets").joinpath("tables")
    assert _md5(tables.joinpath(name).read_bytes()) == MD5[name]
    assert MD5[name] in tables.joinpath("README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not here: set PYNEURALODE_DATA")
@pytest.mark.parametrize("name", MD5)
def test_the_tables_equal_the_shared_data(name):
    assert _md5((DATA / name).read_bytes()) == MD5[name]
