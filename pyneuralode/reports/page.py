"""The page of results: one self-contained HTML file, figures by relative path."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from .format import number
from .store import PAGE_MARK

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def render(results: list[dict[str, Any]]) -> str:
    """Return the page for results as `store.read_results` gives them, in their order."""
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{PAGE_MARK}
<title>pyneuralode: our numbers beside theirs</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>Our numbers beside theirs</h1>
<p>Published neural-ODE experiments computed again with pyneuralode. Every number under &#8220;ours&#8221; was computed
by the run described beside it; every number under &#8220;theirs&#8221; is printed in the source named.</p>
{_contents(results)}
</header>
<main>
{"".join(_section(result) for result in results)}</main>
</body>
</html>
"""


def _contents(results: list[dict]) -> str:
    lines = "".join(
        f'<tr><td><a href="#{quote(result["folder"])}">{escape(result["page"]["title"])}</a></td>'
        f"<td>{escape(result['scale'])}</td><td>{escape(result['engine'])}</td>"
        f'<td class="number">{_duration(result["seconds"])}</td><td>{_tally(result)}</td></tr>\n'
        for result in results
    )
    return (
        '<div class="scroll"><table class="contents">\n<thead><tr><th>Experiment</th><th>Scale</th><th>Engine</th>'
        f'<th class="number">Time</th><th>Targets met</th></tr></thead>\n<tbody>\n{lines}</tbody></table></div>'
    )


def _section(result: dict) -> str:
    page = result["page"]
    folder = quote(result["folder"])
    quick = (
        '<p class="quick">A quick run, to see that everything works: the targets are set for the full scale.</p>\n'
        if result["scale"] == "quick"
        else ""
    )
    return f"""<section id="{folder}" class="{escape(result["scale"])}-scale">
<h2>{escape(page["title"])}</h2>
<p class="source">From {escape(page["source"])}</p>
<p class="run"><span class="badge">{escape(result["folder"])}</span>
<span class="badge">{escape(result["scale"])} scale</span>
<span>{_duration(result["seconds"])}</span> <span>engine {escape(result["engine"])}</span>
<span>seed {result["seed"]}</span> <span><a href="{folder}/metrics.json">metrics.json</a></span></p>
{quick}{_rows(result)}
{"".join(_figure(folder, figure) for figure in page["figures"])}{"".join(_table(table) for table in result["tables"])}\
{"".join(f"<p>{escape(note)}</p>{chr(10)}" for note in page["notes"])}\
<p class="colophon">Finished {escape(page["finished"])} on {escape(page["machine"])},
pyneuralode {escape(page["version"])}.</p>
</section>
"""


def _rows(result: dict) -> str:
    if not result["rows"]:
        return ""
    lines = "".join(_row(row, result["page"]["tolerances"].get(row["name"])) for row in result["rows"])
    return (
        '<div class="scroll"><table class="rows">\n<thead><tr><th>Quantity</th><th class="number">Ours</th>'
        '<th class="number">Theirs</th><th class="number">Target</th><th>Met</th><th>Source</th></tr></thead>\n'
        f"<tbody>\n{lines}</tbody></table></div>"
    )


def _row(row: dict, tolerance: float | None) -> str:
    unit = f' <span class="unit">{escape(row["unit"])}</span>' if row["unit"] else ""
    ours, theirs = row["ours"], row["theirs"]
    ahead = {"lower": -1, "higher": 1, "match": 0}[row["better"]]
    best = " best" if None not in (ours, theirs) and ahead * (ours - theirs) > 0 else ""
    sign = {"lower": "≤", "higher": "≥", "match": "≈"}[row["better"]]
    target = "" if row["target"] is None else f"{sign}&nbsp;{_cell(row['target'], trim=True)}"
    if tolerance is not None:
        target += f" ± {_cell(100 * tolerance, trim=True)}&nbsp;%"
    verdict = {
        True: '<span class="met">✓&nbsp;met</span>',
        False: '<span class="missed">✗&nbsp;missed</span>',
        None: "",
    }[row["met"]]
    return (
        f'<tr><td>{escape(row["name"])}</td><td class="number{best}">{_cell(ours)}{unit if ours is not None else ""}'
        f'</td><td class="number">{_cell(theirs, trim=True)}{unit if theirs is not None else ""}</td>'
        f'<td class="number">{target}</td><td>{verdict}</td><td class="from">{escape(row["source"])}</td></tr>\n'
    )


def _figure(folder: str, figure: dict) -> str:
    path = f"{folder}/{escape(figure['name'])}"
    caption = escape(figure["caption"])
    return (
        f'<figure><a href="{path}.svg"><img src="{path}.png" alt="{caption or escape(figure["name"])}"></a>'
        f'<figcaption>{caption} <span class="files"><a href="{path}.png">PNG</a> <a href="{path}.svg">SVG</a></span>'
        "</figcaption></figure>\n"
    )


def _table(table: dict) -> str:
    # A column of numbers is set flush right, its heading too; "–" for a missing one does not make it words.
    numeric = [
        all(isinstance(cells[column], (int, float, type(None))) for cells in table["rows"])
        for column in range(len(table["columns"]))
    ]
    marks = [' class="number"' if flag else "" for flag in numeric]
    head = "".join(f"<th{mark}>{escape(str(name))}</th>" for name, mark in zip(table["columns"], marks))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{_cell(cell)}</td>" for cell, mark in zip(cells, marks)) + "</tr>\n"
        for cells in table["rows"]
    )
    note = f'<p class="note">{escape(table["note"])}</p>\n' if table["note"] else ""
    return (
        f'<h3>{escape(table["title"])}</h3>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n{note}"
    )


def _cell(value: object, trim: bool = False) -> str:
    """Return a cell's text: numbers with four digits and a proper minus and power of ten, everything else escaped."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return escape(str(value))
    text = re.sub(r"e(-?\d+)$", lambda power: "×10" + power[1].translate(_SUPERSCRIPTS), number(value, trim))
    return text.replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{_cell(float(seconds), trim=True)}&nbsp;s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}&nbsp;h {minutes:02d}&nbsp;min" if hours else f"{minutes}&nbsp;min {rest:02d}&nbsp;s"


def _tally(result: dict) -> str:
    judged = [row["met"] for row in result["rows"] if row["met"] is not None]
    if not judged or result["scale"] == "quick":
        return "–"
    kind = "met" if all(judged) else "missed"
    return f'<span class="{kind}">{sum(judged)} of {len(judged)}</span>'
