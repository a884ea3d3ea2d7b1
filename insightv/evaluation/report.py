"""The report of a run: one self-contained page that needs no network and runs no code but its own."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from math import isnan
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from insightv.evaluation import plots
from insightv.evaluation.collect import collect
from insightv.evaluation.compare import conclusion
from insightv.evaluation.examples import Example
from insightv.evaluation.figures import ChainSet, ReportData, SplitTable, TrainingLog
from insightv.evaluation.statistics import Rate
from insightv.files import replacing

__all__ = ["ReportData", "collect", "render"]

PANELS = {
    "loss": ("loss",),
    "preference accuracy": ("accuracy",),
    "reward margin": ("margin",),
    "log-probability, nats": ("logp_chosen", "logp_rejected"),
    "KL to the reference, nats": ("kl",),
}
"""Panels of the DPO plot: title -> logged keys."""
_NOTHING = "\N{EN DASH}"


def render(data: ReportData, path: Path) -> None:
    """Write the page to `path`, beside and renamed. Same data, same bytes; everything that a model wrote is escaped or enters as text."""
    style, script = asset("report.css"), asset("report.js")
    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    environment.filters.update(
        percent=_percent, points=_points, pvalue=shown_p, number=_number, rate=_rate, conclusion=conclusion, columns=_columns, scored=_scored
    )
    against = {comparison.after: comparison for comparison in data.tables[0].against} if data.tables else {}
    last = data.tables[0].rows[-1] if data.tables else None
    html = environment.from_string(asset("report.html")).render(
        data=data,
        plots=_draw(data),
        last=last,
        headline=against.get(last.system) if last else None,
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        examples=as_json(data.examples),
    )
    with replacing(path) as file:
        file.write(html.encode())


def _draw(data: ReportData) -> dict[str, Any]:
    supervised = {log.name: log.rows for log in data.logs if not _is_preference(log)}
    rounds = [log for log in data.logs if _is_preference(log)]
    drawn = {
        "accuracy": {table.split: plots.accuracy([(row.system, row.macro) for row in table.rows]) for table in data.tables},
        "system_lengths": {table.split: plots.system_lengths(table.lengths) for table in data.tables if table.lengths},
        "scores": {chains.stage: plots.scores(chains.scores) for chains in data.chains if chains.scores},
        "lengths": {chains.stage: plots.lengths(chains.lengths) for chains in data.chains},
    }
    svgs: dict[str, Any] = {kind: {name: Markup(svg) for name, svg in those.items()} for kind, those in drawn.items()}
    svgs["losses"] = Markup(plots.losses(supervised)) if supervised else ""
    svgs["rounds"] = [log.name for log in rounds]
    svgs["preference"] = Markup(plots.preference({log.name: log.rows for log in rounds}, PANELS)) if rounds else ""
    return svgs


def _is_preference(log: TrainingLog) -> bool:
    return any("margin" in row for row in log.rows)


def asset(name: str) -> str:
    """A file of the pages' folder."""
    return (files("insightv.evaluation") / "page" / name).read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """What the browser may do with a page that holds these: show its pictures, and run this one script."""
    return f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def as_json(examples: Sequence[Example]) -> Markup:
    """Examples as the page's script reads them."""
    # A "<" could end the script element that holds the data.
    return Markup(orjson.dumps(examples).decode().replace("<", "\\u003c"))


def _columns(table: SplitTable, kind: str) -> list[str]:
    """Families or groups of all rows, each once, in their order."""
    return list(dict.fromkeys(name for row in table.rows for name in getattr(row, kind)))


def _scored(chains: ChainSet) -> int:
    return sum(len(values) for values in chains.scores.values())


def _rate(rate: Rate) -> Markup:
    if isnan(rate.value):
        return Markup(_NOTHING)
    return Markup("{}<small>{} \N{EN DASH} {}</small>").format(_percent(rate.value), _percent(rate.low), _percent(rate.high))


def _percent(share: float) -> str:
    return _NOTHING if isnan(share) else f"{100 * share:.1f}"


def _points(share: float) -> str:
    return _NOTHING if isnan(share) else f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def _number(value: float) -> str:
    return _NOTHING if isnan(value) else f"{value:.0f}"


def shown_p(p: float) -> str:
    """A p-value to be read."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
