"""Results as tables: systems by benchmarks in the paper's form, what was not read, and what the chain did to the answers."""

from collections.abc import Sequence
from math import isnan
from statistics import fmean

import numpy as np

from insightv.evaluation.report import shown_p
from insightv.evaluation.statistics import Rate, Resampled
from insightv.evaluation.suite.contrast import Contrast, average, values
from insightv.evaluation.suite.score import Result

Table = list[dict[str, object]]

AGAINST = (("base", "base-reasoned"), ("summarizer", "pair"), ("reasoner", "pair"), ("base", "pair"))
"""Without a chain, and with one: whose answers are counted as helped and hurt. A row `pair+dpo` counts as a pair."""


def standings(results: Sequence[Result]) -> Table:
    """A row for each system, a column for each benchmark, and their average where a system has them all."""
    names = list(dict.fromkeys(result.benchmark for result in results))
    table: Table = []
    for row, those in _by_row(results).items():
        shown = {name: _number(those.get(name)) for name in names}
        table.append({"system": row, **shown, **_average(names, those)})
    return table


def average_name(names: Sequence[str]) -> str:
    """The formula, in words: it stands beside the number."""
    scaled = [text for name, text in (("mme", "MME of 2800"), ("ocrbench", "OCRBench of 1000")) if name in names]
    return f"mean of {len(names)} in percent" + (f" ({', '.join(scaled)})" if scaled else "")


def counts(results: Sequence[Result]) -> Table:
    """What stands behind the numbers: items, what was not read, cut off, failed or never asked, and what an answer took."""
    return [
        {
            "system": result.row,
            "benchmark": result.benchmark,
            "items": result.items,
            "scored": result.items - result.missing,
            "unparsed": result.unparsed,
            "truncated": result.truncated,
            "failed": result.failed,
            "tokens": _plain(result.tokens, 0),
            "seconds": _plain(result.seconds, 2),
        }
        for result in results
    ]


def effects(results: Sequence[Result]) -> Table:
    """How many answers a chain helped, hurt and left as they were."""
    rows = _by_row(results)
    table: Table = []
    for without, with_chain in AGAINST:
        for row in (row for row in rows if row == with_chain or (with_chain == "pair" and row.startswith("pair+"))):
            for name in (name for name in rows.get(without, {}) if name in rows[row]):
                before, after = values(rows[without][name].scored), values(rows[row][name].scored)
                changes = [value - before[item] for item, value in after.items() if item in before]
                helped, hurt = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
                unchanged = len(changes) - helped - hurt
                table.append({"chain": f"{row} against {without}", "benchmark": name, "helped": helped, "hurt": hurt, "unchanged": unchanged})
    return table


def contrasts(made: Sequence[Contrast]) -> Table:
    """A row for each benchmark, and their average."""
    table: Table = [
        {
            "benchmark": one.benchmark,
            "items": one.n,
            "difference": _interval(one.difference, 1),
            "p": shown_p(one.p),
            "p (Holm)": shown_p(one.p_holm),
            "detectable": _plain(one.detectable, 1),
            "helped": len(one.helped),
            "hurt": len(one.hurt),
            "unchanged": one.unchanged,
            "left out": one.left_out,
            "finding": one.verdict or "nothing established",
        }
        for one in made
    ]
    if len(made) > 1:
        mean = average(made)
        name = average_name([one.benchmark for one in made])
        table.append(dict.fromkeys(table[0], "") | {"benchmark": name, "items": mean.n, "difference": _interval(mean.rate(), 1)})
    return table


def markdown(results: Sequence[Result], called: str) -> str:
    """All three as Markdown, under the name of the profile by which the answers were scored."""
    metrics = ", ".join(f"{name} {metric}" for name, metric in {result.benchmark: result.total.metric for result in results}.items())
    blocks = [
        f"# Benchmarks, scored by {called}",
        f"Brackets are 95% bootstrap intervals, items that belong together drawn together. In numbers are: {metrics}. A star: items are owed.",
        _table(standings(results)),
        "Not read, cut off, owed; tokens and seconds are of an answer, its chain included:",
        _table(counts(results)),
    ]
    if changed := effects(results):
        blocks += ["What the chain did to answers:", _table(changed)]
    return "\n\n".join(blocks) + "\n"


def _by_row(results: Sequence[Result]) -> dict[str, dict[str, Result]]:
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        found.setdefault(result.row, {})[result.benchmark] = result
    return found


def _average(names: Sequence[str], those: dict[str, Result]) -> dict[str, object]:
    if len(names) < 2:
        return {}
    percents = [those[name].total.percent() for name in names if name in those and those[name].scored]
    if len(percents) < len(names):
        return {average_name(names): ""}
    if len({result.asked for result in those.values()}) > 1:
        return {average_name(names): "other models or prompts by benchmark"}
    mean = Resampled(fmean(one.value for one in percents), np.mean([one.draws for one in percents], axis=0), sum(one.n for one in percents))
    return {average_name(names): _interval(mean.rate(), 1)}


def _number(result: Result | None) -> str:
    """As `57.4 [54.9, 59.9]`, of MME with perception and cognition as papers give them; a star where items are owed."""
    if result is None or not result.scored:
        return ""
    total = result.total
    senses = [f"{total.parts[name]:.1f}" for name in ("perception", "cognition") if name in total.parts]
    return _interval(total.score.rate(), 1 if total.top != 1000 else 0) + (f" ({'/'.join(senses)})" if senses else "") + (" *" if result.owed else "")


def _interval(rate: Rate, digits: int) -> str:
    return f"{rate.value:.{digits}f} [{rate.low:.{digits}f}, {rate.high:.{digits}f}]"


def _plain(value: float, digits: int) -> str:
    return "" if isnan(value) else f"{value:.{digits}f}"


def _table(rows: Table) -> str:
    head, rule = list(rows[0]), ["---"] * len(rows[0])
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in (head, rule, *(row.values() for row in rows)))
