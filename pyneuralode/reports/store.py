"""The folder of results: an experiment's files appear in it all together or not at all.

OUT/index.html            the page (written by `page`)
OUT/ID/metrics.json       the numbers: id, engine, scale, seed, seconds, rows, tables
OUT/ID/page.json          what the page needs besides: title, source, captions, notes, when and where it ran
OUT/ID/FIGURE.png, .svg   the figures
OUT/ID/ANIMATION.gif      the animations
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, DataError
from ..files import check_writable, one_sentence, whole_files, whole_folder
from .base import Context, Report
from .registry import Experiment

INDEX = "index.html"
PAGE_MARK = '<meta name="generator" content="pyneuralode report">'
_METRICS = "metrics.json"
_PAGE = "page.json"
_METRICS_KEYS = {"id", "engine", "scale", "seed", "seconds", "rows", "tables"}
_PAGE_KEYS = {"title", "source", "figures", "notes", "tolerances", "finished", "version", "machine"}
_DPI = 150
_MARGIN = 0.1  # inches


def check_destination(out: Path, ids: Iterable[str]) -> None:
    """Raise, before anything is computed, if `out` cannot be written to or holds other files in the way."""
    check_writable(out)
    with one_sentence(out):
        for id in ids:
            if (out / id).exists() and not _is_result(out / id):
                raise ArgumentError(
                    f"out is {str(out)!r}, where {id!r} exists and is not a report's: give another folder."
                )
        page = out / INDEX
        if page.exists() and PAGE_MARK not in page.read_text(encoding="utf-8", errors="replace"):
            raise ArgumentError(f"out is {str(out)!r}, whose {INDEX} is not a report's: give another folder.")
    read_results(out)


def read_results(out: Path) -> list[dict[str, Any]]:
    """Return every result in `out`: its metrics.json, and with it its page.json ("page") and its "folder"."""
    results = []
    for folder in sorted(path for path in out.glob("[!.]*") if _is_result(path)):
        try:
            metrics, page = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (_METRICS, _PAGE))
            lacking = (_METRICS_KEYS - metrics.keys()) | (_PAGE_KEYS - page.keys())
        except (OSError, ValueError, AttributeError):
            lacking = {"readable JSON"}
        if lacking:
            raise DataError(f"{folder} is not a whole result (no {min(lacking)}): move it out of {out} and run again.")
        results.append({**metrics, "page": page, "folder": folder.name})
    return results


def write_result(out: Path, experiment: Experiment, context: Context, report: Report, seconds: float) -> None:
    """Write one experiment's folder under a name of its own and move it into place when it is complete."""
    with whole_folder(out / experiment.id) as folder:
        _write_figures(folder, experiment.id, report)
        _write_json(folder / _METRICS, _metrics(experiment, context, report, seconds))
        _write_json(folder / _PAGE, _page(experiment, report))


def write_page(out: Path, html: str) -> Path:
    """Write the page in one move and return its path."""
    page = out / INDEX
    with whole_files(page) as (partial,):
        partial.write_text(html, encoding="utf-8")
    return page


def _is_result(folder: Path) -> bool:
    return (folder / _METRICS).is_file() and (folder / _PAGE).is_file()


def _write_figures(folder: Path, id: str, report: Report) -> None:
    from matplotlib import rc_context

    # Without a fixed salt and with a date, two equal figures would be two different SVG files.
    with rc_context({"svg.hashsalt": id}):
        for name, figure in report.figures.items():
            # Laid out once for both files, which takes longer than drawing them.
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
            whole = figure.get_tightbbox().padded(_MARGIN)
            figure.savefig(folder / f"{name}.png", dpi=_DPI, bbox_inches=whole)
            figure.savefig(folder / f"{name}.svg", bbox_inches=whole, metadata={"Date": None})
    for name, animation in report.animations.items():
        animation.save(folder / f"{name}.gif", writer="pillow")


def _metrics(experiment: Experiment, context: Context, report: Report, seconds: float) -> dict[str, Any]:
    return {
        "id": experiment.id,
        "engine": context.engine,
        "scale": context.scale,
        "seed": context.seed,
        "seconds": round(seconds, 3),
        "rows": [
            {
                "name": row.name,
                "ours": row.ours,
                "theirs": row.theirs,
                "unit": row.unit,
                "better": row.better,
                "source": row.source,
                "target": row.target,
                "met": row.met,
            }
            for row in report.rows
        ],
        "tables": [
            {"title": table.title, "columns": table.columns, "rows": table.rows, "note": table.note}
            for table in report.tables
        ],
    }


def _page(experiment: Experiment, report: Report) -> dict[str, Any]:
    from .. import __version__

    return {
        "title": experiment.title,
        "source": experiment.source,
        "figures": [{"name": name, "caption": report.captions.get(name, "")} for name in report.figures],
        "animations": [{"name": name, "caption": report.captions.get(name, "")} for name in report.animations],
        "notes": report.paragraphs,
        "tolerances": {row.name: row.tolerance for row in report.rows if row.tolerance is not None},
        "finished": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Return `value` in JSON's own types: NumPy scalars and arrays unpacked, what is not finite as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
