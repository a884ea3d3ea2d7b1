"""The tables in Markdown, the section of the page, and the plot."""

import datetime
import platform
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.engines.drive import LABELS, Result

BEGIN, END = "<!-- engine:begin -->", "<!-- engine:end -->"
HEADINGS = {"single": "Single requests", "chains": "Chains of five requests"}


def section(results: list[Result], failures: dict[str, str], scenarios: dict[str, Result], plot: str | None) -> str:
    """All that the page says of the measurement."""
    parts = [f"{datetime.date.today()}, Python {platform.python_version()}, {processor()}, {machine_load(results)}\n"]
    for case in dict.fromkeys(result["case"] for result in results):
        parts.append(table([result for result in results if result["case"] == case]))
    if failures:
        parts.append("\n".join(f"Not measured: {LABELS[name]} ({why})." for name, why in failures.items()) + "\n")
    if plot:
        parts.append(f"![Share of the ideal rate and CPU time of each engine]({plot})\n")
    if scenarios:
        rows = "\n".join(f"| {name} | {found['asked']} | {found['measured']} |" for name, found in scenarios.items())
        parts.append(f"| scenario | asked | measured |\n| --- | --- | --- |\n{rows}\n")
    return "\n".join(parts)


def table(results: list[Result]) -> str:
    """One load: medians over the repeats, with the range where it says something; the ratios are medians of ratios within a repeat."""
    kind, slots = results[0]["case"].split("-")
    ideal = results[0]["requests"] / results[0]["ideal_seconds"]
    floor = {result["repeat"]: result for result in results if result["engine"] == "floor"}
    lines = [
        f"{HEADINGS[kind]}, {slots} in flight, {results[0]['requests']} requests: ideal {ideal:.0f}/s\n",
        "| engine | requests/s (range) | of the ideal | of the floor | CPU s per 1,000 (range) | times the floor's | peak MB | above the imports |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for engine in dict.fromkeys(result["engine"] for result in results):
        own = [result for result in results if result["engine"] == engine]
        rates = [result["rate"] for result in own]
        costs = [result["cpu_per_1000"] for result in own]
        pairs = [(result, floor[result["repeat"]]) for result in own if result["repeat"] in floor]
        of_floor = f"{statistics.median(a['rate'] / b['rate'] for a, b in pairs):.2f}" if pairs else "-"
        times = f"{statistics.median(a['cpu_per_1000'] / b['cpu_per_1000'] for a, b in pairs):.1f}" if pairs else "-"
        peak, over = (statistics.median(result[name] for result in own) for name in ("peak_mb", "over_mb"))
        lines.append(
            f"| {LABELS[engine]} | {_spread(rates, 0)} | {statistics.median(r['of_ideal'] for r in own):.2f} | {of_floor} "
            f"| {_spread(costs, 2)} | {times} | {peak:.0f} | {over:.0f} |"
        )
    return "\n".join(lines) + "\n"


def write(page: Path, text: str, begin_mark: str = BEGIN, end_mark: str = END) -> None:
    """Put the text between the page's two marks."""
    whole = page.read_text(encoding="utf-8")
    head, begin, rest = whole.partition(begin_mark)
    _, end, tail = rest.partition(end_mark)
    if not begin or not end:
        raise SystemExit(f"{page} has no place for the section: put the lines {begin_mark} and {end_mark} where it shall stand")
    page.write_text(f"{head}{begin_mark}\n{text}{end_mark}{tail}", encoding="utf-8")


def draw(results: list[Result], path: Path) -> None:
    """A plot: a panel for the share of the ideal rate and one for CPU time, a row per engine, a mark per load with its range."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "insightv", "font.size": 10}
    from matplotlib import pyplot

    engines = list(dict.fromkeys(result["engine"] for result in results))
    cases = list(dict.fromkeys(result["case"] for result in results))
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 0.8 + 0.62 * len(engines)), sharey=True, layout="constrained")
    for panel, name, title in zip(panels, ("of_ideal", "cpu_per_1000"), ("share of the ideal rate", "CPU s per 1,000 requests"), strict=True):
        for place, case in enumerate(cases):
            offset = (place - (len(cases) - 1) / 2) * 0.17
            own = [(row, [r[name] for r in results if r["engine"] == engine and r["case"] == case]) for row, engine in enumerate(engines)]
            _marks(panel, [(row + offset, values) for row, values in own if values], f"C{place}", case.replace("-", ", ") + " in flight")
        panel.set_xlabel(title)
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].set_xlim(0, 1.02)
    panels[1].set_xscale("log")
    panels[1].xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
    panels[0].set_yticks(range(len(engines)), [LABELS[engine] for engine in engines])
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(cases), frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def machine_load(results: Iterable[Result]) -> str:
    """What disturbed the measurement."""
    loads = [result["load"] for result in results if "load" in result]
    return f"load average before the runs {min(loads):.1f} to {max(loads):.1f}" if loads else ""


def processor() -> str:
    """The processor's name and number of cores."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


def _marks(panel: Any, rows: list[tuple[float, list[float]]], colour: str, label: str) -> None:
    panel.hlines([at for at, _ in rows], [min(values) for _, values in rows], [max(values) for _, values in rows], color=colour, lw=1.5, alpha=0.6)
    panel.plot([statistics.median(values) for _, values in rows], [at for at, _ in rows], "o", color=colour, ms=5, label=label)


def _spread(values: list[float], digits: int) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"
