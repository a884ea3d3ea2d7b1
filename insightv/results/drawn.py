"""The plots of an ablation, as SVG files beside its page."""

import io
import json
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from insightv.evaluation.plots import series
from insightv.evaluation.statistics import Rate
from insightv.files import replacing
from insightv.results.faults import FAULTS, Outcome
from insightv.results.seeds import RIGHT, Contrast, Line

_INK, _QUIET = "#2a6f97", "#8a8f96"
_COLOURS = ("#2a6f97", "#c8553d", "#6a8d3b", "#8a5a9e", "#c28e0e", "#4b8f8c")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ablation",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e0da",
    "legend.frameon": False,
    # A page's own colours do not reach a picture: paper for both of its themes.
    "figure.facecolor": "white",
}


def image(page: Path, name: str, figure: Figure, caption: str) -> str:
    """Save a figure beside the page; returns the Markdown that shows it."""
    path = page.with_name(f"{page.stem}-{name}.svg")
    buffer = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    with replacing(path) as file:
        file.write(buffer.getvalue())
    return f"![{caption}]({path.name})"


def paired(found: Sequence[Contrast]) -> Figure:
    """A line for each comparison: a dot a seed, and their mean with its interval."""
    figure, axes = _figure(7.2, 0.8 + 0.36 * len(found))
    for place, one in enumerate(found):
        axes.plot([100 * test.difference.value for test in one.seeds.values()], [place] * len(one.seeds), "o", color=_QUIET, markersize=4)
        _bar(axes, one.mean, place)
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.set_yticks(range(len(found)), [f"{one.after} - {one.before}" for one in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel("points")
    return figure


def tokens(rows: Sequence[Line]) -> Figure:
    """Accuracy over tokens written per answer, a point a row; names stand in a column of their own, since most rows write about as much."""
    figure, axes = _figure(7.2, 1.0 + 0.22 * max(12, len(rows)))
    ordered = sorted(rows, key=lambda line: line.macro.value)
    low, high = (100 * (ordered[place].macro.value if ordered else 0.0) for place in (0, -1))
    gap = max(high - low, 10.0) / max(10, len(ordered))
    column, free = 1.08 * max((line.tokens for line in ordered), default=0.0) + 1, low - gap
    for line in ordered:
        value = 100 * line.macro.value
        free = max(value, free + gap)
        axes.plot([line.tokens] * 2, [100 * line.macro.low, 100 * line.macro.high], color=_INK, alpha=0.4)
        axes.plot([line.tokens], [value], "o", color=_INK, markersize=4)
        axes.plot([line.tokens, column], [value, free], color="#d5d1c9", linewidth=0.6, zorder=0)
        axes.annotate(line.system, (column, free), fontsize=7, va="center")
    axes.set_xlim(right=1.45 * column)
    axes.set_xlabel("tokens written per answer")
    axes.set_ylabel("macro accuracy, %")
    return figure


def curve(rows: Mapping[str, Sequence[tuple[float, Line]]]) -> Figure:
    """Accuracy over the part of the data, a line a row."""
    figure, axes = _figure(5.4, 3.2)
    for colour, (row, those) in zip(_COLOURS, rows.items(), strict=False):
        _errorbars(axes, [share for share, _ in those], [line.macro for _, line in those], colour, row)
    axes.set_xscale("log", base=2)
    shares = sorted({share for those in rows.values() for share, _ in those})
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.set_xlabel("part of the reasoning data")
    axes.set_ylabel("macro accuracy, %")
    axes.legend(fontsize=8, frameon=False)
    return figure


def surface(gains: Mapping[tuple[float, float], Rate]) -> Figure:
    """A gain over the teacher's noise, a line for each difficulty."""
    figure, axes = _figure(5.4, 3.2)
    for colour, difficulty in zip(_COLOURS, sorted({place[0] for place in gains}), strict=False):
        places = sorted(place for place in gains if place[0] == difficulty)
        _errorbars(axes, [noise for _, noise in places], [gains[place] for place in places], colour, f"difficulty {difficulty:g}")
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.set_xlabel("teacher's misperception, per fact at full contrast")
    axes.set_ylabel("points")
    axes.legend(fontsize=8, frameon=False)
    return figure


def fixes(rows: Mapping[str, Sequence[Outcome]]) -> Figure:
    """How often a row's answer is right behind each kind of wrong chain, and how often wrong behind a right one, with 95% intervals."""
    faults = [*FAULTS, RIGHT]
    figure, axes = _figure(7.2, 3.4)
    for number, (colour, (row, outcomes)) in enumerate(zip(_COLOURS, rows.items(), strict=False)):
        places, rates = [], []
        for one in outcomes:
            misled = Rate(1 - one.answered.value, 1 - one.answered.high, 1 - one.answered.low, one.answered.n)
            places.append(faults.index(one.fault) + 0.12 * number)
            rates.append(misled if one.fault == RIGHT else one.answered)
        _errorbars(axes, places, rates, colour, row, line="o")
    axes.set_xticks(range(len(faults)), [*(f"{fault}\nanswer right" for fault in FAULTS), "right chain\nanswer wrong"], fontsize=7)
    axes.set_ylabel("%")
    axes.legend(fontsize=8, frameon=False)
    return figure


def logs(run: Path, seeds: Sequence[int], count: int) -> dict[int, list[list[dict[str, Any]]]]:
    """By seed, the logged steps of its rounds of DPO, as far as they are there."""
    found = {}
    for seed in seeds:
        paths = [run / f"seed-{seed}" / f"dpo{t}" / "log.jsonl" for t in range(1, count + 1)]
        if there := [path for path in paths if path.is_file()]:
            found[seed] = [[json.loads(line) for line in path.read_bytes().splitlines() if line.strip()] for path in there]
    return found


def rounds(found: Mapping[int, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure:
    """What each round of DPO did to its chains, round after round, a colour a seed."""
    panels = {"log-probability of the chosen, nats": "logp_chosen", "of the rejected": "logp_rejected", "KL to the reference, nats": "kl"}
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 1.7 * len(panels)), layout="constrained")
        for axes, (title, key) in zip(figure.subplots(len(panels), sharex=True), panels.items(), strict=True):
            axes.set_title(title, fontsize=9, loc="left")
            for colour, (seed, those) in zip(_COLOURS, found.items(), strict=False):
                start = 0.0
                for number, rows in enumerate(those):
                    steps, values = series(rows, key)
                    axes.plot([start + step for step in steps], values, color=colour, label=f"seed {seed}" if not number else None)
                    start = max([start, *(start + step for step in steps)])
        axes.set_xlabel("optimizer step, round after round")
        figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def _errorbars(axes: Axes, places: Sequence[float], rates: Sequence[Rate], colour: str, label: str, line: str = "o-") -> None:
    values = [100 * rate.value for rate in rates]
    below = [100 * (rate.value - rate.low) for rate in rates]
    above = [100 * (rate.high - rate.value) for rate in rates]
    axes.errorbar(places, values, yerr=[below, above], fmt=line, color=colour, label=label, markersize=4, capsize=2)


def _bar(axes: Axes, rate: Rate, place: int) -> None:
    if not isnan(rate.value):
        axes.plot([100 * rate.low, 100 * rate.high], [place, place], color=_INK, linewidth=5, alpha=0.3, solid_capstyle="round")
        axes.plot([100 * rate.value], [place], "D", color=_INK, markersize=5)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()
