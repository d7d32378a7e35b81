"""COVID-19 in Sweden from November 2021 to April 2022, as a seven-day mean of new cases."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

import pandas as pd

from ..errors import unknown_name

_TABLES = {"official": "covid_sweden_avg7.csv", "report": "covid_sweden_dd2424.csv"}


def sweden(series: Literal["official", "report"] = "official") -> pd.DataFrame:
    """Return newly registered COVID-19 cases in Sweden, averaged over the seven days ending on each day.

    Parameters
    ----------
    series : {"official", "report"}
        `"official"`: the 81 days with a report from 2 November 2021 to 14 April 2022.
        `"report"`: the 56 points that the KTH student report "Exploring Neural Ordinary Differential
        Equations" (DD2424, 2022) fitted, apparently read off a chart; for comparison with that report.

    Returns
    -------
    pandas.DataFrame
        One row for each point, in order of time, with irregular gaps. Columns: `day` (int64, days since 1
        November 2021), `new_cases_avg7` (float64, persons per day in the whole country) and, in the official
        series, `date` (datetime64) as the first column.

    Raises
    ------
    ArgumentError
        If `series` is not one of the two names.

    Notes
    -----
    Official series: data of Folkhälsomyndigheten, as collated in the COVID-19 Data Repository by the
    Center for Systems Science and Engineering (CSSE) at Johns Hopkins University, CC BY 4.0; cite Dong,
    Du and Gardner, Lancet Infectious Diseases 20(5), 533-534, 2020, doi:10.1016/S1473-3099(20)30120-1.
    Changes: differenced, averaged over seven days, days without a report left out.

    The report's points: github.com/jannikwagner/DD2424, which states no license. See `tables/README.md`
    next to this module.
    """
    if series not in _TABLES:
        raise unknown_name("series", series, _TABLES)
    with files(__package__).joinpath("tables", _TABLES[series]).open(encoding="utf-8") as table:
        frame = pd.read_csv(table, dtype={"day": "int64", "new_cases_avg7": "float64"})
    if "date" in frame:
        frame["date"] = pd.to_datetime(frame["date"])
    return frame
