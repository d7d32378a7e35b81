"""The results folder; the files of a report appear in it all at once or not at all:

OUT/index.html            the page (written by `page`)
OUT/ID/metrics.json       the numbers: id, engine, scale, seed, seconds, rows, tables
OUT/ID/page.json          additional data for the page: title, source, captions, notes, time and machine of the run
OUT/ID/FIGURE.png, .svg   the figures
OUT/ID/ANIMATION.gif      the animations
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, DataError
from ..files import check_writable, explain_write_errors, whole_files, whole_folder, write_json
from .base import Context, Findings
from .registry import Report

INDEX = "index.html"
PAGE_MARK = '<meta name="generator" content="pyneuralode report">'
_METRICS = "metrics.json"
_PAGE = "page.json"
_METRICS_KEYS = {"id", "engine", "scale", "seed", "seconds", "rows", "tables"}
_PAGE_KEYS = {"title", "source", "figures", "notes", "tolerances", "finished", "version", "machine"}
_ROW_KEYS = ("name", "ours", "theirs", "unit", "better", "source", "target", "met")
_DPI = 150
_MARGIN = 0.1  # inches


def check_destination(out: Path, ids: Iterable[str]) -> None:
    """Raise an error, before anything is computed, if `out` cannot be written to or contains conflicting files."""
    check_writable(out)
    with explain_write_errors(out):
        for id in ids:
            if (out / id).exists() and not _is_result(out / id):
                raise ArgumentError(
                    f"out is {str(out)!r}, which contains a {id!r} not written by a report: choose another folder."
                )
        page = out / INDEX
        if page.exists() and PAGE_MARK not in page.read_text(encoding="utf-8", errors="replace"):
            raise ArgumentError(
                f"out is {str(out)!r}, whose {INDEX} was not written by a report: choose another folder."
            )
    read_results(out)


def read_results(out: Path) -> list[dict[str, Any]]:
    """Return every result in `out`: the contents of metrics.json, plus those of page.json ("page") and the "folder"."""
    results = []
    for folder in sorted(path for path in out.glob("[!.]*") if _is_result(path)):
        try:
            metrics, page = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (_METRICS, _PAGE))
            lacking = (_METRICS_KEYS - metrics.keys()) | (_PAGE_KEYS - page.keys())
        except (OSError, ValueError, AttributeError):
            lacking = {"readable JSON"}
        if lacking:
            raise DataError(
                f"{folder} contains an incomplete result (no {min(lacking)}): move it out of {out} and run again."
            )
        results.append({**metrics, "page": page, "folder": folder.name})
    return results


def write_result(out: Path, report: Report, context: Context, findings: Findings, seconds: float) -> None:
    """Write one report's folder under a temporary name, and move it into place once it is complete."""
    with whole_folder(out / report.id) as folder:
        _write_figures(folder, report.id, findings)
        write_json(folder / _METRICS, _metrics(report, context, findings, seconds))
        write_json(folder / _PAGE, _page(report, findings))


def write_page(out: Path, html: str) -> Path:
    """Write the page in a single move and return its path."""
    page = out / INDEX
    with whole_files(page) as (partial,):
        partial.write_text(html, encoding="utf-8")
    return page


def _is_result(folder: Path) -> bool:
    return (folder / _METRICS).is_file() and (folder / _PAGE).is_file()


def _write_figures(folder: Path, id: str, findings: Findings) -> None:
    from matplotlib import rc_context

    # Without a fixed salt, or with a date, identical figures would give different SVG files.
    with rc_context({"svg.hashsalt": id}):
        for name, figure in findings.figures.items():
            # The layout takes longer than drawing, so it is computed once for both files.
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
            whole = figure.get_tightbbox().padded(_MARGIN)
            figure.savefig(folder / f"{name}.png", dpi=_DPI, bbox_inches=whole)
            figure.savefig(folder / f"{name}.svg", bbox_inches=whole, metadata={"Date": None})
    for name, animation in findings.animations.items():
        animation.save(folder / f"{name}.gif", writer="pillow")


def _metrics(report: Report, context: Context, findings: Findings, seconds: float) -> dict[str, Any]:
    return {
        "id": report.id,
        "engine": context.engine,
        "scale": context.scale,
        "seed": context.seed,
        "seconds": round(seconds, 3),
        "rows": [{name: getattr(row, name) for name in _ROW_KEYS} for row in findings.rows],
        "tables": [asdict(table) for table in findings.tables],
    }


def _page(report: Report, findings: Findings) -> dict[str, Any]:
    from .. import __version__

    return {
        "title": report.title,
        "source": report.source,
        "figures": [{"name": name, "caption": findings.captions.get(name, "")} for name in findings.figures],
        "animations": [{"name": name, "caption": findings.captions.get(name, "")} for name in findings.animations],
        "notes": list(findings.notes),
        "tolerances": {row.name: row.tolerance for row in findings.rows if row.tolerance is not None},
        "finished": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
