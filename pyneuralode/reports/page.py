"""The page of results: one self-contained HTML file, figures by relative path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from .format import number
from .store import PAGE_MARK

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NONE = "–"


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
<p>Published neural-ODE experiments computed again with pyneuralode. Every number under “ours” was
computed by the run described with it; every number under “theirs” is printed in the source named.</p>
{_contents(results)}</header>
<main>
{"".join(_section(result) for result in results)}</main>
</body>
</html>
"""


def _contents(results: list[dict]) -> str:
    return _grid(
        ("Experiment", "Scale", "Engine", "Time", "Targets met"),
        [
            (
                f'<a href="#{quote(result["folder"])}">{escape(result["page"]["title"])}</a>',
                escape(result["scale"]),
                escape(result["engine"]),
                _duration(result["seconds"]),
                _tally(result),
            )
            for result in results
        ],
        numeric=(3,),
    )


def _section(result: dict) -> str:
    page = result["page"]
    folder = quote(result["folder"])
    parts = [
        f'<section id="{folder}" class="{escape(result["scale"])}-scale">\n',
        f"<h2>{escape(page['title'])}</h2>\n",
        f'<p class="source">From {escape(page["source"])}</p>\n',
        f'<p class="run"><span class="badge">{escape(result["folder"])}</span>\n'
        f'<span class="badge">{escape(result["scale"])} scale</span>\n'
        f"<span>{_duration(result['seconds'])}</span>\n"
        f"<span>engine {escape(result['engine'])}</span> <span>seed {result['seed']}</span>\n"
        f'<a href="{folder}/metrics.json">metrics.json</a></p>\n',
    ]
    if result["scale"] == "quick":
        parts.append(
            '<p class="quick">A quick run, to see that everything works: the targets are set for the full scale.</p>\n'
        )
    if result["rows"]:
        parts.append(
            _grid(
                ("Quantity", "Ours", "Theirs", "Target", "Met", "Source"),
                [_row(row, page["tolerances"].get(row["name"])) for row in result["rows"]],
                numeric=(1, 2, 3),
            )
        )
    parts += [_figure(folder, figure) for figure in page["figures"]]
    parts += [_animation(folder, animation) for animation in page.get("animations", [])]
    parts += [_table(table) for table in result["tables"]]
    parts += [f"<p>{escape(note)}</p>\n" for note in page["notes"]]
    parts.append(
        f'<p class="colophon">Finished {escape(page["finished"])} on {escape(page["machine"])}, '
        f"pyneuralode {escape(page['version'])}.</p>\n</section>\n"
    )
    return "".join(parts)


def _row(row: dict, tolerance: float | None) -> tuple[str, ...]:
    ours, theirs = row["ours"], row["theirs"]
    ahead = {"lower": -1, "higher": 1, "match": 0}[row["better"]]
    first = _measure(ours, row["unit"])
    if None not in (ours, theirs) and ahead * (ours - theirs) > 0:
        first = f"<strong>{first}</strong>"
    target = ""
    if row["target"] is not None:
        sign = {"lower": "≤", "higher": "≥", "match": "≈"}[row["better"]]
        target = f"{sign}&nbsp;{_cell(row['target'], trim=True)}"
    if tolerance is not None:
        target += f" ± {_cell(100 * tolerance, trim=True)}&nbsp;%"
    verdict = {True: _mark("met", "✓&nbsp;met"), False: _mark("missed", "✗&nbsp;missed"), None: ""}[row["met"]]
    source = _mark("from", escape(row["source"]))
    return escape(row["name"]), first, _measure(theirs, row["unit"], trim=True), target, verdict, source


def _figure(folder: str, figure: dict) -> str:
    path = f"{folder}/{escape(figure['name'])}"
    caption = escape(figure["caption"])
    links = f'<a href="{path}.png">PNG</a> <a href="{path}.svg">SVG</a>'
    return (
        f'<figure><a href="{path}.svg"><img src="{path}.png" alt="{caption or escape(figure["name"])}"></a>\n'
        f"<figcaption>{caption} {_mark('files', links)}</figcaption></figure>\n"
    )


def _animation(folder: str, animation: dict) -> str:
    path = f"{folder}/{escape(animation['name'])}.gif"
    caption = escape(animation["caption"])
    return (
        f'<figure><img src="{path}" alt="{caption or escape(animation["name"])}">\n'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _table(table: dict) -> str:
    numeric = [
        column
        for column in range(len(table["columns"]))
        if all(isinstance(cells[column], (int, float, type(None))) for cells in table["rows"])
    ]
    names = [escape(str(name)) for name in table["columns"]]
    grid = _grid(names, [[_cell(cell) for cell in cells] for cells in table["rows"]], numeric)
    note = f'<p class="note">{escape(table["note"])}</p>\n' if table["note"] else ""
    return f"<h3>{escape(table['title'])}</h3>\n{grid}{note}"


def _grid(names: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int]) -> str:
    """Return a table of cells that are HTML already; the columns in `numeric` are set flush right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = [' class="number"' if column in numeric else "" for column in range(len(cells))]
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, cells, strict=True))

    body = "".join(f"<tr>{line('td', cells)}</tr>\n" for cells in rows)
    head = f"<thead><tr>{line('th', names)}</tr></thead>"
    return f'<div class="scroll"><table>\n{head}\n<tbody>\n{body}</tbody></table></div>\n'


def _mark(kind: str, html: str) -> str:
    return f'<span class="{kind}">{html}</span>'


def _measure(value: float | None, unit: str, trim: bool = False) -> str:
    text = _cell(value, trim)
    return f"{text} {_mark('unit', escape(unit))}" if unit and value is not None else text


def _cell(value: object, trim: bool = False) -> str:
    """Return a cell's HTML: a number with a proper minus and power of ten, anything else escaped."""
    if value is None:
        return _NONE
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
        return _NONE
    return _mark("met" if all(judged) else "missed", f"{sum(judged)} of {len(judged)}")
