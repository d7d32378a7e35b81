"""Figures of the results; an entry is a dictionary, as in `bench.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyneuralode.plotting.style import COLORS, INK, label, new_figure

from .tasks import OTHER_LIBRARIES, OURS

Entry = Mapping[str, Any]
Case = tuple[str, Sequence[Entry]]
_MARKERS = "osD^vPX*"
_LIBRARIES = (OURS, *OTHER_LIBRARIES)


def times(cases: Sequence[Case]) -> Figure:
    """Draw the seconds of an iteration: a panel for each task, a bar for each peer, whiskers over the rounds."""
    most = max(len(entries) for _, entries in cases)
    figure, panels = _panels(cases, width=6.8, height=1.0 + 0.3 * most)
    for ax, (title, entries) in zip(panels, cases):
        shown = [entry for entry in entries if entry["rounds"]][::-1]
        for place, entry in enumerate(shown):
            rounds = np.asarray(entry["rounds"])
            middle, low, high = np.median(rounds), rounds.min(), rounds.max()
            ax.barh(place, middle, height=0.6, color=_color(entry))
            ax.plot([low, high], [place, place], color=INK, linewidth=1)
            words = f" {middle:.3g} s" if middle >= 1 else f" {1e3 * middle:.3g} ms"
            ax.annotate(words, (high, place), va="center", fontsize=8, color=INK)
        ax.set_xscale("log")
        if shown:
            medians = [np.median(entry["rounds"]) for entry in shown]
            ax.set_xlim(10 ** np.floor(np.log10(min(medians)) - 0.3), 10 ** np.ceil(np.log10(max(medians)) + 0.5))
        ax.set_yticks(range(len(shown)), [_name(entry) for entry in shown])
        ax.grid(False, axis="y")
        label(ax, title, "seconds of an iteration")
    return figure


def precision(cases: Sequence[Case]) -> Figure:
    """Draw seconds against the error reached: a panel for each problem, a line for each solver."""
    figure, panels = _panels(cases, width=6.8, height=4.2)
    for ax, (title, entries) in zip(panels, cases):
        _lines(ax, entries, lambda point: (point["error"], point["seconds"]) if point["error"] else None)
        ax.invert_xaxis()
        label(ax, title, "relative error of the states", "seconds of a solve", legend=False)
    return figure


def memory(cases: Sequence[Case]) -> Figure:
    """Draw the peak memory of a gradient against the number of steps: a panel for each case, a line for each peer."""
    figure, panels = _panels(cases, width=8.4, height=4.4)
    for ax, (_, entries) in zip(panels, cases):
        _lines(ax, entries, lambda point: (point["steps"], point["bytes"] / 1e6))
        steps = sorted({point["steps"] for entry in entries for point in entry["curve"]})
        ax.set_xticks(steps, [str(n) for n in steps])
        ax.minorticks_off()
        label(ax, "Peak memory of one gradient", "steps", "growth of the resident memory, MB", legend=False)
    return figure


def _panels(cases: Sequence[Case], width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(2, len(cases))
    figure, axes = new_figure(columns, -(-len(cases) // columns), width, height)
    for ax in axes.flat[len(cases) :]:
        ax.set_axis_off()
    return figure, list(axes.flat[: len(cases)])


def _lines(ax: Axes, entries: Sequence[Entry], read: Callable[[Mapping], tuple[float, float] | None]) -> None:
    """Draw a line through the points that `read` returns for each curve; colors show libraries, markers variants."""
    drawn: dict[str, int] = {}
    for entry in entries:
        points = [point for point in map(read, entry["curve"]) if point is not None]
        if points:
            place = drawn[entry["library"]] = drawn.get(entry["library"], -1) + 1
            style = {"color": _color(entry), "marker": _MARKERS[place % len(_MARKERS)], "markersize": 4}
            ax.loglog(*zip(*points), **style, linewidth=1.2, alpha=0.85, label=_name(entry))
    if drawn:
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _color(entry: Entry) -> str:
    known = entry["library"] in _LIBRARIES
    return COLORS[_LIBRARIES.index(entry["library"]) if known else -1]


def _name(entry: Entry) -> str:
    return f"{entry['library']}, {entry['variant']}"
