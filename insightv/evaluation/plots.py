"""The report's plots as inline SVG that takes its colours and its font from the page, so that one drawing serves light and dark."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isnan
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from insightv.evaluation.statistics import Rate

# Stand-ins for the page's colours: matplotlib wants real ones, the SVG gets CSS variables.
INK, MUTED, RULE = "#010101", "#020202", "#030303"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
GOOD, BAD = SERIES[0], SERIES[1]
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"} | {colour: f"var(--series-{k})" for k, colour in enumerate(SERIES, 1)}
_XLINK = "{http://www.w3.org/1999/xlink}href"
_OUTCOMES = {"correct": GOOD, "wrong": BAD, "not judged": MUTED}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}


def accuracy(rows: Sequence[tuple[str, Rate]]) -> str:
    """A dot with its interval for each row, in percent."""
    with _figure(6.4, 0.7 + 0.34 * len(rows)) as (figure, out):
        axes = figure.subplots()
        for place, (_, rate) in enumerate(rows):
            if not isnan(rate.value):
                axes.plot([100 * rate.low, 100 * rate.high], [place, place], color=GOOD, linewidth=5, alpha=0.3, solid_capstyle="round")
                axes.plot([100 * rate.value], [place], "o", color=GOOD, markersize=6)
                axes.annotate(f"{100 * rate.value:.1f}", (100 * rate.value, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.75)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("macro accuracy, %")
    return out[0]


def scores(by_verdict: Mapping[str, Sequence[int]]) -> str:
    """Path scores in steps of five, one layer a verdict."""
    return _histogram(by_verdict, np.arange(0, 101, 5), "path score")


def lengths(by_verdict: Mapping[str, Sequence[int]]) -> str:
    """Words per chain, one layer a verdict."""
    longest = max((max(values) for values in by_verdict.values() if values), default=1)
    return _histogram(by_verdict, np.linspace(0, longest + 1, min(longest + 2, 31)), "words in a chain")


def system_lengths(by_system: Mapping[str, Sequence[int]]) -> str:
    """Median, quartiles and 5%..95% of chain lengths by system."""
    names = [name for name, values in by_system.items() if values]
    with _figure(6.4, 0.7 + 0.32 * max(1, len(names))) as (figure, out):
        axes = figure.subplots()
        for place, name in enumerate(names):
            low, first, middle, third, high = np.quantile(by_system[name], [0.05, 0.25, 0.5, 0.75, 0.95])
            axes.plot([low, high], [place, place], color=MUTED, linewidth=1)
            axes.plot([first, third], [place, place], color=GOOD, linewidth=6, alpha=0.4)
            axes.plot([middle], [place], "|", color=INK, markersize=10, markeredgewidth=1.6)
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("words in a chain: median, quartiles, 5 to 95%")
    return out[0]


def losses(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Training loss over steps, one line a training."""
    with _figure(6.4, 2.6) as (figure, out):
        axes = figure.subplots()
        for place, (name, rows) in enumerate(logs.items()):
            steps, values = series(rows, "loss")
            style = "-" if place < len(SERIES) else "--"
            axes.plot(steps, values, style, color=SERIES[place % len(SERIES)], label=name)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)
        _legend_above(axes)
    return out[0]


def preference(logs: Mapping[str, Sequence[Mapping[str, Any]]], panels: Mapping[str, Sequence[str]]) -> str:
    """DPO rounds side by side in time, one panel for each named group of logged keys."""
    with _figure(6.4, 1.75 * len(panels)) as (figure, out):
        for axes, (title, keys) in zip(np.atleast_1d(figure.subplots(len(panels), sharex=True)), panels.items(), strict=True):
            _rounds(axes, logs, keys)
            axes.set_title(title, color=INK)
            if len(keys) > 1:
                axes.legend(fontsize=8, loc="best")
        axes.set_xlabel("optimizer step, round after round")
    return out[0]


def series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and finite values of a logged key; rows without it are passed over."""
    found = [(float(row.get("step", place)), float(row[key])) for place, row in enumerate(rows, 1) if isinstance(row.get(key), int | float)]
    finite = [(step, value) for step, value in found if not isnan(value)]
    return [step for step, _ in finite], [value for _, value in finite]


def _rounds(axes: Axes, logs: Mapping[str, Sequence[Mapping[str, Any]]], keys: Sequence[str]) -> None:
    start = 0.0
    for number, rows in enumerate(logs.values()):
        if number:
            axes.axvline(start, color=MUTED, linewidth=0.8, linestyle=":")
        end = start
        for colour, key in zip(SERIES, keys, strict=False):
            steps, values = series(rows, key)
            axes.plot([start + step for step in steps], values, color=colour, label=key if not number else None)
            end = max([end, *(start + step for step in steps)])
        start = end


def _histogram(by_verdict: Mapping[str, Sequence[int]], bins: Any, label: str) -> str:
    present = [name for name in _OUTCOMES if by_verdict.get(name)]
    with _figure(6.4, 2.2) as (figure, out):
        axes = figure.subplots()
        axes.hist([by_verdict[name] for name in present], bins=bins, stacked=True, color=[_OUTCOMES[name] for name in present], label=present, alpha=0.8)
        axes.set_xlabel(label)
        axes.set_ylabel("chains")
        axes.grid(axis="x", visible=False)
        _legend_above(axes)
    return out[0]


def _legend_above(axes: Axes) -> None:
    """Beside the data rather than on it."""
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2, handlelength=1.2, columnspacing=1.2)


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, list[str]]]:
    """A figure, and a list that holds its SVG once the block has drawn it."""
    out: list[str] = []
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, out
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    out.append(_inline(buffer.getvalue()))


def _inline(svg: str) -> str:
    """Make matplotlib's SVG fit for a page with a strict style policy: attributes for styles, variables for colours, no unused ids."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    ET.register_namespace("", "http://www.w3.org/2000/svg")
    root = ET.fromstring(svg)
    used = set(re.findall(r"#([\w-]+)[\"')]", svg))
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        for rule in filter(None, map(str.strip, element.attrib.pop("style", "").split(";"))):
            name, _, value = rule.partition(":")
            if not name.startswith("font") or name == "font-size":
                element.set(name.strip(), value.strip())
        if target := element.attrib.pop(_XLINK, None):
            element.set("href", target)
        for name in ("fill", "stroke"):
            if (colour := element.get(name)) in _VARIABLES:
                element.set(name, _VARIABLES[colour])
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    return ET.tostring(root, encoding="unicode")
